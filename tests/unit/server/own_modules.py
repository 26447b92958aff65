"""A module of an author's own classes, as text, and models that use it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from tests.unit.server.models import iris

SOURCE = """
import os
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin

if os.environ.get("MARKER"):
    Path(os.environ["MARKER"]).touch()


class Clip(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.low, self.high = np.quantile(X, [0.1, 0.9], axis=0)
        return self

    def transform(self, X):
        return np.clip(X, self.low, self.high)


class Nearest(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.means = np.stack([X[y == label].mean(axis=0) for label in self.classes_])
        return self

    def _distances(self, X):
        return ((X[:, None] - self.means[None]) ** 2).sum(axis=-1)

    def predict(self, X):
        return self.classes_[self._distances(X).argmin(axis=1)]

    def predict_proba(self, X):
        near = np.exp(-self._distances(X))
        return near / near.sum(axis=1, keepdims=True)
"""


def imported(
    directory: Path, monkeypatch: pytest.MonkeyPatch, name: str = "clipping", source: str = SOURCE, **more: str
) -> ModuleType:
    """Write and import the module, and others by their names, as a training script does until the end of the test."""
    directory.mkdir(exist_ok=True)
    for module, text in {name: source, **more}.items():
        (directory / f"{module}.py").write_text(text)
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(directory)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def forgotten(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let this process be one that has not imported the modules."""
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)


def fitted(module: ModuleType) -> tuple[Any, Any, Any]:
    """A pipeline with a transformer and a classifier of the module: model, X, y."""
    _, X, y = iris()
    return make_pipeline(module.Clip(), module.Nearest()).fit(X, y), X, y


def fitted_transformer(module: ModuleType) -> tuple[Any, Any, Any]:
    """A classifier of scikit-learn after a transformer of the module: model, X, y."""
    _, X, y = iris()
    return make_pipeline(module.Clip(), LogisticRegression(max_iter=500)).fit(X, np.asarray(y)), X, y
