"""Small fitted models that several tests share. All are deterministic."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

SEED = 7


@cache
def iris() -> tuple[Any, Any, Any]:
    """A classifier on an array of four numbers: model, X, y."""
    data = load_iris()
    return LogisticRegression(max_iter=500).fit(data.data, data.target), data.data, data.target


@cache
def mixed_table() -> tuple[Any, Any]:
    """A DataFrame with columns of every kind, and labels that depend on it."""
    random = np.random.default_rng(SEED)
    table = pd.DataFrame(
        {
            "amount": random.normal(100, 20, 80),
            "count": random.integers(0, 9, 80),
            "country": random.choice(["de", "fr", "it"], 80),
            "level": pd.Categorical(random.choice(["high", "low"], 80)),
            "member": random.random(80) > 0.5,
        }
    )
    return table, np.where((table["amount"] > 100) ^ table["member"], "yes", "no")


def mixed(unknown: str = "error") -> tuple[Any, Any, Any]:
    """A classifier that selects DataFrame columns by name: model, X, y. ``unknown`` is "error" or "ignore": what
    it does with a text that was not in the training data."""
    table, labels = mixed_table()
    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["amount", "count"]),
            ("texts", OneHotEncoder(handle_unknown=unknown), ["country", "level"]),
        ],
        remainder="passthrough",
    )
    return make_pipeline(columns, LogisticRegression()).fit(table, labels), table, labels


def joblib_bytes(value: Any, compress: Any = 0) -> bytes:
    """Return ``value`` as joblib writes it."""
    buffer = io.BytesIO()
    joblib.dump(value, buffer, compress=compress)
    return buffer.getvalue()
