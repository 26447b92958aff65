"""XGBoost models: JSON or UBJSON as ``save_model`` writes them, and scikit-learn wrappers from a pickle."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.boosters import BoosterFunctions, ContributionFunctions, Kind, signature_of
from mlmodel_server.formats.opened import Artefact, Opened, Table, Task
from mlmodel_server.formats.table import library
from mlmodel_server.formats.xgboost_trees import rewritten
from mlmodel_server.tensors import Array


def check(artefact: Artefact) -> Artefact:
    """Return the model as it was read and checked, which is what to open. Raise ValueError for a damaged one."""
    return replace(artefact, files={**artefact.files, artefact.name: rewritten(artefact.data)})


def opened(artefact: Artefact, threads: int) -> Opened:
    """Return the model in a file. Raise :class:`RefusedModel` if it has none."""
    xgboost = library("xgboost")
    xgboost.set_config(verbosity=0)
    booster = xgboost.Booster(model_file=bytearray(artefact.data))
    text = artefact.data.lstrip()[1:2] in b'"\n\r\t '
    return _opened(booster, "xgboost", "xgboost_json" if text else "xgboost_ubj", threads, None)


def opened_wrapper(estimator: Any, format: str, threads: int) -> Opened:
    """Return a scikit-learn wrapper as the booster in it: the methods of the wrapper take five times as long."""
    classes = getattr(estimator, "classes_", None)
    labels = None if classes is None else np.asarray(classes)
    return _opened(estimator.get_booster(), format, f"xgboost_{format}", threads, labels)


def _opened(booster: Any, format: str, platform: str, threads: int, labels: Array | None) -> Opened:
    learner = json.loads(booster.save_config())["learner"]
    objective = str(learner["objective"]["name"])
    if objective == "multi:softmax":  # softprob has the same trees and returns the probabilities
        booster.set_param({"objective": "multi:softprob"})
    booster.set_param({"nthread": threads})
    width = booster.num_features()
    if not width:
        raise RefusedModel("the file contains no fitted XGBoost model: save the booster after training")
    several = int(learner["learner_model_param"].get("num_target", "1")) > 1
    kind, task = _kind(objective)
    if labels is None and kind != "number" and not several:
        labels = np.arange(max(2, int(learner["learner_model_param"].get("num_class", "0"))))
    if several:
        labels = None
    best = booster.attr("best_iteration")
    values = _Values(booster, (0, int(best) + 1) if best else (0, 0), learner["gradient_booster"]["name"] == "gblinear")
    functions = BoosterFunctions(values.values, kind, labels)
    names = [str(name) for name in booster.feature_names or ()]
    return Opened(
        format,
        platform,
        functions,
        signature_of(functions, kind, labels, names, width, "FP32"),
        task,
        booster=booster,
        explain=ContributionFunctions(values.contributions, width),
    )


def _kind(objective: str) -> tuple[Kind, Task]:
    if objective in ("binary:logistic", "binary:logitraw", "binary:hinge"):
        kinds: dict[str, tuple[Kind, Task]] = {
            "binary:logistic": ("probability", "classification"),
            "binary:logitraw": ("number", "other"),
            "binary:hinge": ("label", "classification"),
        }
        return kinds[objective]
    if objective.startswith("multi:"):
        return "probabilities", "classification"
    return "number", "regression" if objective.startswith(("reg:", "count:")) else "other"


class _Values:
    """The two kinds of values that a booster computes. Only its in-place prediction is safe in several threads."""

    def __init__(self, booster: Any, iterations: tuple[int, int], linear: bool) -> None:
        self._booster, self._iterations, self._linear = booster, iterations, linear
        self._lock = threading.Lock()

    def values(self, table: Table) -> Array:
        if self._linear:
            return self._predict_matrix(table, False)
        values: Array = self._booster.inplace_predict(table, iteration_range=self._iterations, validate_features=False)
        return values

    def contributions(self, table: Table) -> Array:
        return self._predict_matrix(table, True)

    def _predict_matrix(self, table: Table, contributions: bool) -> Array:
        matrix = library("xgboost").DMatrix(table, nthread=1)
        with self._lock:
            values: Array = self._booster.predict(
                matrix,
                pred_contribs=contributions,
                iteration_range=self._iterations,
                validate_features=False,
            )
        return values
