"""LightGBM models: the text that ``save_model`` writes, and scikit-learn wrappers from a pickle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.boosters import BoosterFunctions, ContributionFunctions, Kind, signature_of
from mlmodel_server.formats.lightgbm_trees import rewritten
from mlmodel_server.formats.opened import Artefact, Opened, Table, Task
from mlmodel_server.formats.table import library
from mlmodel_server.tensors import Array

_CLASSES: dict[str, Kind] = {"binary": "probability", "multiclass": "probabilities", "multiclassova": "probabilities"}
_NUMBERS = (
    "regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie",
)  # fmt: skip


def check(artefact: Artefact) -> Artefact:
    """Return the model as it was read and checked, which is what to open. Raise ValueError for a damaged one."""
    text = rewritten(artefact.data.decode("utf-8"))
    return replace(artefact, files={**artefact.files, artefact.name: text.encode("utf-8")})


def opened(artefact: Artefact, threads: int) -> Opened:
    """Return the model in a file. Raise :class:`RefusedModel` if it has none."""
    booster = library("lightgbm").Booster(model_str=artefact.data.decode("utf-8"))
    return _opened(booster, "lightgbm", "lightgbm_text", threads, None)


def opened_wrapper(estimator: Any, format: str, threads: int) -> Opened:
    """Return a scikit-learn wrapper as the booster in it."""
    classes = getattr(estimator, "classes_", None)
    labels = None if classes is None else np.asarray(classes)
    return _opened(estimator.booster_, format, f"lightgbm_{format}", threads, labels)


def _opened(booster: Any, format: str, platform: str, threads: int, labels: Array | None) -> Opened:
    header = _header(booster.model_to_string(num_iteration=1))
    objective = header.get("objective", "").partition(" ")[0]
    width = booster.num_feature()
    if not width:
        raise RefusedModel("the file contains no fitted LightGBM model: save the booster after training")
    kind = _CLASSES.get(objective, "number")
    task: Task = "classification" if kind != "number" else "regression" if objective in _NUMBERS else "other"
    if kind == "number":
        labels = None
    elif labels is None:
        labels = np.arange(max(2, int(header.get("num_class", "1"))))
    values = _Values(booster, threads)
    functions = BoosterFunctions(values.values, kind, labels)
    names = booster.feature_name()
    if names == [f"Column_{index}" for index in range(width)]:
        names = []
    return Opened(
        format,
        platform,
        functions,
        signature_of(functions, kind, labels, names, width, "FP64"),
        task,
        booster=booster,
        explain=ContributionFunctions(values.contributions, width),
    )


def _header(text: str) -> dict[str, str]:
    """Return the ``name=value`` lines before the first tree."""
    lines = text.partition("\n\n")[0].splitlines()
    return {name: value for name, separator, value in (line.partition("=") for line in lines) if separator}


class _Values:
    """The two kinds of values that a booster computes."""

    def __init__(self, booster: Any, threads: int) -> None:
        self._booster, self._threads = booster, threads

    def values(self, table: Table) -> Array:
        values: Array = self._booster.predict(table, num_threads=self._threads)
        return values

    def contributions(self, table: Table) -> Array:
        contributions: Array = self._booster.predict(table, pred_contrib=True, num_threads=self._threads)
        return contributions
