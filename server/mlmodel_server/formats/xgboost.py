"""XGBoost models: JSON or UBJSON as ``save_model`` writes them, and scikit-learn wrappers from a pickle."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats import xgboost_categories
from mlmodel_server.formats.boosters import Boosted, BoosterFunctions, ContributionFunctions, Kind, signature_of
from mlmodel_server.formats.categories import Categories
from mlmodel_server.formats.opened import Artefact, Opened, Table, Task
from mlmodel_server.formats.table import library
from mlmodel_server.formats.xgboost_trees import rewritten
from mlmodel_server.tensors import Array

WRAPPER, WRAPPER_KIND = "scikit_learn", "_estimator_type"
"""The attribute of a booster in which XGBoost's wrappers for scikit-learn note their kind, and its key."""


_VERSION = re.compile(
    rb'"version"\s*:\s*\[(\d+\s*,\s*\d+\s*,\s*\d+)\s*\]\s*\}\s*$'
    rb"|version\[#L.{8}(?:[iU]|L.{7})(.)(?:[iU]|L.{7})(.)(?:[iU]|L.{7})(.)\]?\}$",
    re.DOTALL,
)


def check(artefact: Artefact) -> Artefact:
    """Return the model as it was read and checked, which is what to open. Raise ValueError for a damaged one."""
    return replace(artefact, files={**artefact.files, artefact.name: rewritten(artefact.data)})


def opened(artefact: Artefact, threads: int) -> Opened:
    """Return the model in a file. Raise :class:`RefusedModel` if it has none.

    ``save_model`` of a wrapper for scikit-learn notes what kind it is: such a file predicts as that wrapper.
    """
    xgboost = library("xgboost")
    xgboost.set_config(verbosity=0)
    booster = xgboost.Booster(model_file=bytearray(artefact.data))
    text = artefact.data.lstrip()[1:2] in b'"\n\r\t '
    wrapper = _wrapper_kind(booster)
    model = _boosted(booster, wrapper == "classifier") if wrapper else Boosted("xgboost", booster)
    opened = _opened(model, "xgboost", "xgboost_json" if text else "xgboost_ubj", threads)
    return replace(opened, saved_with=_saved_with(artefact.data))


def _saved_with(data: bytes) -> dict[str, str]:
    """Return the version of XGBoost that saved the file, which it writes last."""
    match = _VERSION.search(data[-200:])
    if match is None:
        return {}
    text, *binary = match.groups()
    numbers = text.decode().split(",") if text else [str(ord(number)) for number in binary]
    return {"xgboost": ".".join(number.strip() for number in numbers)}


def opened_wrapper(estimator: Any, format: str, threads: int) -> Opened:
    """Return a scikit-learn wrapper as the booster in it: the methods of the wrapper take five times as long."""
    return _opened(boosted(estimator), format, f"xgboost_{format}", threads)


def opened_booster(booster: Any, format: str, threads: int) -> Opened:
    """Return a booster that was pickled, which predicts as XGBoost's ``Booster.predict``."""
    library("xgboost").set_config(verbosity=0)
    return _opened(Boosted("xgboost", booster), format, f"xgboost_{format}", threads)


def boosted(estimator: Any) -> Boosted:
    """Return the booster of a wrapper with all that decides the predictions of the wrapper.

    Raise :class:`RefusedModel` if it has a parameter with which XGBoost cannot predict.
    """
    missing = estimator.missing
    if not isinstance(missing, (int, float)):
        raise RefusedModel(
            f"its parameter missing is of the type {type(missing).__name__}: set a number, and fit again"
        )
    return _boosted(estimator.get_booster(), hasattr(estimator, "n_classes_"), float(missing))


def _wrapper_kind(booster: Any) -> str:
    """Return ``classifier``, ``regressor`` or ``ranker`` if a wrapper saved the booster, else ""."""
    try:
        return str(json.loads(booster.attr(WRAPPER) or "{}").get(WRAPPER_KIND, ""))
    except (ValueError, AttributeError):
        return ""


def _boosted(booster: Any, classifies: bool, missing: float = np.nan) -> Boosted:
    """Return what a wrapper predicts with its booster, as ``XGBModel.predict`` and ``XGBClassifier.predict`` do."""
    learner = json.loads(booster.save_config())["learner"]
    best = booster.attr("best_iteration")
    linear = learner["gradient_booster"]["name"] == "gblinear"
    model = Boosted(
        "xgboost", booster, missing=missing, iterations=(0, int(best) + 1) if best and not linear else (0, 0)
    )
    width = booster.num_features()
    if not classifies or not width:
        return model
    values = _Values(model, linear).values(np.zeros((1, width), np.float32))
    classes = max(2, int(learner["learner_model_param"]["num_class"]))
    if learner["objective"]["name"] == "multi:softmax":
        return replace(model, kind="margins", labels=np.arange(classes))
    if values.ndim > 1 and values.shape[1] > 1 and classes == 2:
        return replace(model, kind="each")
    kind: Kind = "probabilities" if values.ndim > 1 else "probability"
    return replace(model, kind=kind, labels=np.arange(classes))


def _opened(model: Boosted, format: str, platform: str, threads: int) -> Opened:
    booster = model.booster
    learner = json.loads(booster.save_config())["learner"]
    booster.set_param({"nthread": threads})
    width = booster.num_features()
    if not width:
        raise RefusedModel("the file contains no fitted XGBoost model: save the booster after training")
    known = categories_of(booster)
    names = [str(name) for name in booster.feature_names or ()]
    model = replace(model, categories=Categories(known, names, reject_unknown=True) if known else None)
    values = _Values(model, learner["gradient_booster"]["name"] == "gblinear")
    functions = BoosterFunctions(values.values, model)
    return Opened(
        format,
        platform,
        functions,
        signature_of(functions, model, names, width, "FP32"),
        _task(str(learner["objective"]["name"]), model),
        booster=model,
        single=True,
        explain=ContributionFunctions(values.contributions, width, model),
        example=model.categories.first() if model.categories else {},
    )


def categories_of(booster: Any) -> dict[int, list[Any]]:
    """Return the categories of a DataFrame by column; see :func:`.xgboost_categories.read`."""
    if "c" not in (booster.feature_types or ()):
        return {}
    return xgboost_categories.read(json.loads(booster.save_raw("json")))


def _task(objective: str, model: Boosted) -> Task:
    if model.kind != "number":
        return "other" if model.labels is None else "classification"
    # A probability or the index of a class is a number too, but its error says nothing.
    return "regression" if objective.startswith(("reg:", "count:")) and objective != "reg:logistic" else "other"


class _Values:
    """The two kinds of values that a booster computes. Only its in-place prediction is safe in several threads."""

    def __init__(self, model: Boosted, linear: bool) -> None:
        self._booster, self._iterations, self._missing = model.booster, model.iterations, model.missing
        self._linear = linear
        self._type = "margin" if model.kind == "margins" else "value"
        self._lock = threading.Lock()

    def values(self, table: Table) -> Array:
        if self._linear:
            return self._predict_matrix(table, output_margin=self._type == "margin")
        values: Array = self._booster.inplace_predict(
            table,
            iteration_range=self._iterations,
            predict_type=self._type,
            missing=self._missing,
            validate_features=False,
        )
        return values

    def contributions(self, table: Table) -> Array:
        return self._predict_matrix(table, pred_contribs=True)

    def _predict_matrix(self, table: Table, **options: bool) -> Array:
        matrix = library("xgboost").DMatrix(table, missing=self._missing, nthread=1)
        with self._lock:
            values: Array = self._booster.predict(
                matrix, iteration_range=self._iterations, validate_features=False, **options
            )
        return values
