"""A mixed table, as shops have it: numbers, texts and a date, in a pipeline that was fitted on a DataFrame."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from bench.serving.models import SEED, Request
from mlmodel_server import package

ROWS = 4_000
NUMBERS = ["age", "income", "balance", "visits"]
TEXTS = ["city", "plan", "channel"]


@dataclass(frozen=True)
class Mixed:
    """A fitted pipeline in its own directory, as ``model.joblib`` and, for our server, as a package."""

    folder: Path
    pipeline: Any
    table: pd.DataFrame

    @property
    def artefact(self) -> Path:
        """The file that the peers load."""
        return self.folder / "model.joblib"

    def request(self, row: int) -> Request:
        """Return one row as V2 JSON with one tensor for each column, in the spelling that MLServer's pandas codec
        needs; it means the same to our server."""
        values = self.table.iloc[[row]]
        tensors = [_tensor(name, values[name].iloc[0]) for name in self.table.columns]
        body = {"parameters": {"content_type": "pd"}, "inputs": tensors}
        return Request(json.dumps(body).encode(), [int(label) for label in self.pipeline.predict(values)])


def _tensor(name: str, value: Any) -> dict[str, Any]:
    tensor: dict[str, Any] = {"name": name, "shape": [1]}
    if isinstance(value, str):
        return {**tensor, "datatype": "BYTES", "data": [value], "parameters": {"content_type": "str"}}
    if isinstance(value, pd.Timestamp):
        return {**tensor, "datatype": "BYTES", "data": [value.isoformat()], "parameters": {"content_type": "datetime"}}
    return {**tensor, "datatype": "FP64", "data": [float(value)]}


def texts(folder: Path) -> Mixed:
    """Return a pipeline on numbers and texts with missing values, which our server compiles."""
    table, labels = _customers()
    return _trained(folder, _pipeline(), table[NUMBERS + TEXTS], labels)


def dates(folder: Path) -> Mixed:
    """Return a pipeline that also encodes a column of dates, which needs a DataFrame on every server."""
    table, labels = _customers()
    return _trained(folder, _pipeline(("day", OrdinalEncoder(), ["day"])), table, labels)


def _customers() -> tuple[pd.DataFrame, Any]:
    rng = np.random.default_rng(SEED)
    table = pd.DataFrame({name: rng.normal(50, 20, ROWS) for name in NUMBERS})
    for name, values in zip(TEXTS, (40, 5, 8), strict=True):
        table[name] = rng.choice([f"{name}-{value}" for value in range(values)], ROWS)
    labels = (table["age"] + rng.normal(0, 10, ROWS) > 50).to_numpy().astype(int)
    table.loc[rng.random(ROWS) < 0.05, "income"] = np.nan
    table.loc[rng.random(ROWS) < 0.05, "city"] = np.nan
    table["day"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 7, ROWS), "D")
    return table, labels


def _pipeline(*more: tuple[str, Any, list[str]]) -> Pipeline:
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    categories = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    columns = ColumnTransformer([("numbers", numbers, NUMBERS), ("categories", categories, TEXTS), *more])
    return make_pipeline(columns, LogisticRegression(max_iter=500))


def _trained(folder: Path, pipeline: Pipeline, table: pd.DataFrame, labels: Any) -> Mixed:
    fitted = pipeline.fit(table, labels)
    complete = table.dropna()
    package.save(fitted, table, labels, folder, format="joblib", version="1")
    return Mixed(folder, fitted, complete)
