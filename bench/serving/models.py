"""The models of the benchmark, as files that every server reads, and requests with the expected labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from lightgbm import LGBMClassifier
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from mlmodel_server import package
from mlmodel_server.manifest import COMPILED

SEED = 20260104
NAME = "model"
"""Name of the model in every server."""

BINARY_HEADER = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Request:
    """One request and the labels that its response must contain."""

    body: bytes
    labels: list[int]
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)


@dataclass(frozen=True)
class Trained:
    """A fitted classifier in its own directory, as ``model.joblib`` and, for our server, as a package."""

    folder: Path
    estimator: Any
    rows: NDArray[np.float64]

    @property
    def artefact(self) -> Path:
        """The file that the peers load."""
        return self.folder / "model.joblib"

    @cached_property
    def _labels(self) -> list[int]:
        return [int(label) for label in self.estimator.predict(self.rows)]

    def requests(self, count: int, rows: int = 1) -> list[Request]:
        """Return requests of ``rows`` rows as JSON, FP64, evenly spread over the data."""
        starts = np.linspace(0, len(self.rows) - rows, count, dtype=int)
        return [json_request(self.rows[at : at + rows], "FP64", self._labels[at : at + rows]) for at in starts]

    def single(self, rows: int) -> tuple[Request, Request]:
        """Return one request of ``rows`` rows of FP32 values, repeated where necessary: as JSON, and as binary."""
        table = np.resize(self.rows, (rows, self.rows.shape[1])).astype(np.float32)
        labels = [int(label) for label in self.estimator.predict(table.astype(np.float64))]
        return json_request(table, "FP32", labels), binary_request(table, labels)


def json_request(table: NDArray[Any], datatype: str, labels: list[int]) -> Request:
    """Return a table as one input tensor with flat data."""
    tensor = {"name": "row", "shape": table.shape, "datatype": datatype, "data": table.ravel().tolist()}
    return Request(json.dumps({"inputs": [tensor]}).encode(), labels)


def binary_request(table: NDArray[np.float32], labels: list[int]) -> Request:
    """Return a table as one input tensor whose values follow the JSON as raw bytes."""
    parameters = {"binary_data_size": table.nbytes}
    tensor = {"name": "row", "shape": table.shape, "datatype": "FP32", "parameters": parameters}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = (("Content-Type", "application/octet-stream"), (BINARY_HEADER, str(len(head))))
    return Request(head + table.tobytes(), labels, headers)


def iris(folder: Path) -> Trained:
    """Return a scaled logistic regression of 4 numbers: nearly all the time is the server's."""
    data = load_iris()
    return _trained(folder, make_pipeline(StandardScaler(), LogisticRegression()), data.data, data.target)


def formats(folder: Path) -> dict[str, Path]:
    """Return files with a classifier of iris in each format of a table, by what they are."""
    data = load_iris()
    trained = iris(folder / "package")
    bare = folder / "model.joblib"
    joblib.dump(trained.estimator, bare)
    onnx = folder / "model.onnx"
    onnx.write_bytes((trained.folder / COMPILED).read_bytes())
    boosted = {"XGBoost": folder / "model.ubj", "LightGBM": folder / "model.txt"}
    XGBClassifier(n_estimators=20, random_state=SEED).fit(data.data, data.target).save_model(boosted["XGBoost"])
    booster = LGBMClassifier(n_estimators=20, random_state=SEED, verbose=-1).fit(data.data, data.target).booster_
    booster.save_model(boosted["LightGBM"])
    return {"package, compiled": trained.folder, "ONNX": onnx, "joblib": bare, **boosted}


def linear(folder: Path) -> Trained:
    """Return a scaled logistic regression of 30 numbers: for large tables, which it predicts fast."""
    data = load_breast_cancer()
    return _trained(folder, make_pipeline(StandardScaler(), LogisticRegression()), data.data, data.target)


def forest(folder: Path) -> Trained:
    """Return a forest for 30 numbers: 100 trees of scikit-learn's default depth."""
    data = load_breast_cancer()
    return _trained(folder, RandomForestClassifier(100, random_state=SEED), data.data, data.target)


def large(folder: Path) -> tuple[Path, Request]:
    """Return a model file of 110 MB, trees that were fitted to noise, and a request; the prediction does not matter."""
    rng = np.random.default_rng(SEED)
    table, labels = rng.normal(size=(60_000, 10)), rng.integers(0, 2, 60_000)
    folder.mkdir()
    path = folder / "model.joblib"
    joblib.dump(ExtraTreesClassifier(15, max_features=1, random_state=SEED).fit(table, labels), path)
    return path, json_request(table[:1], "FP64", [])


def _trained(folder: Path, estimator: Any, table: Any, labels: Any) -> Trained:
    fitted = estimator.fit(table, labels)
    package.save(fitted, table, labels, folder, format="joblib", version="1")
    return Trained(folder, fitted, table)
