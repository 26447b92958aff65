"""LightGBM models: the text that ``save_model`` writes, and scikit-learn wrappers from a pickle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel, Unreadable
from mlmodel_server.formats.boosters import Boosted, BoosterFunctions, ContributionFunctions, signature_of
from mlmodel_server.formats.categories import Categories, placement
from mlmodel_server.formats.lightgbm_trees import rewritten
from mlmodel_server.formats.opened import Artefact, Opened, Table, Task, UnplacedCategories
from mlmodel_server.formats.table import library
from mlmodel_server.tensors import Array

_NUMBERS = (
    "regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie",
)  # fmt: skip
_OPTIONS = ("pred_early_stop", "pred_early_stop_freq", "pred_early_stop_margin")
"""Parameters of a wrapper that it passes on with each prediction, and that change it. The others do not: they only
count in training, or the wrapper removes them."""


def check(artefact: Artefact) -> Artefact:
    """Return the model as it was read and checked, which is what to open. Raise ValueError for a damaged one."""
    text = rewritten(artefact.data.decode("utf-8"))
    return replace(artefact, files={**artefact.files, artefact.name: text.encode("utf-8")})


def opened(artefact: Artefact, threads: int) -> Opened:
    """Return the model in a file. Raise :class:`RefusedModel` if it has none."""
    booster = library("lightgbm").Booster(model_str=artefact.data.decode("utf-8"))
    return _opened(Boosted("lightgbm", booster), "lightgbm", "lightgbm_text", threads)


def opened_wrapper(estimator: Any, format: str, threads: int) -> Opened:
    """Return a scikit-learn wrapper as the booster in it."""
    return _opened(boosted(estimator), format, f"lightgbm_{format}", threads)


def opened_booster(booster: Any, format: str, threads: int) -> Opened:
    """Return a booster that was pickled, which predicts as LightGBM's ``Booster.predict``."""
    return _opened(Boosted("lightgbm", booster), format, f"lightgbm_{format}", threads)


def boosted(estimator: Any) -> Boosted:
    """Return the booster of a wrapper with all that decides the predictions of the wrapper."""
    given = estimator.get_params()
    options = {name: given[name] for name in _OPTIONS if name in given}
    booster, classes = estimator.booster_, getattr(estimator, "classes_", None)
    if classes is None or callable(getattr(estimator, "_objective", None)):  # then a classifier returns the raw scores
        return Boosted("lightgbm", booster, options=options)
    several = booster.num_model_per_iteration() > 1
    return Boosted(
        "lightgbm", booster, "probabilities" if several else "probability", np.asarray(classes), options=options
    )


def _opened(model: Boosted, format: str, platform: str, threads: int) -> Opened:
    booster = model.booster
    width = booster.num_feature()
    if not width:
        raise RefusedModel("the file contains no fitted LightGBM model: save the booster after training")
    text = booster.model_to_string(num_iteration=1)
    header, is_linear = _header(text), "\nis_linear=1\n" in text
    objective = header.get("objective", "").partition(" ")[0]
    task: Task = "other" if objective not in _NUMBERS else "regression"
    task = task if model.labels is None else "classification"
    names = booster.feature_name()
    lists = booster.pandas_categorical or []
    if names == [f"Column_{index}" for index in range(width)] and not lists:
        names = []

    def placed(columns: Sequence[int]) -> Opened:
        if len(columns) != len(lists):
            raise RefusedModel(f"it was trained on {len(lists)} columns of categories, not {len(columns)}")
        categories = Categories(dict(zip(columns, lists, strict=True))) if lists else None
        whole = replace(model, categories=categories)
        values = _Values(whole, threads)
        functions = BoosterFunctions(values.values, whole)
        return Opened(
            format,
            platform,
            functions,
            signature_of(functions, whole, names, width, "FP64"),
            task,
            booster=whole,
            # LightGBM does not explain linear trees.
            explain=None if is_linear else ContributionFunctions(values.contributions, width, whole),
            example=categories.first() if categories else {},
        )

    if not lists:
        return placed(())
    infos = header.get("feature_infos", "").split(" ")
    only = placement([[_may_have(info, len(values)) for info in infos] for values in lists])
    if only is not None and len(infos) == width:
        return placed(only)
    unplaced = UnplacedCategories(lists, names, placed)
    return Opened(format, platform, no_functions, None, task, categories=unplaced)


def no_functions(_table: Table, _outputs: Sequence[str]) -> list[Array]:
    """Stand for the functions of a model whose columns are not known: nothing calls them."""
    raise Unreadable("its columns are not known")


def _may_have(info: str, count: int) -> bool:
    """Return whether a column may have had ``count`` categories, from what LightGBM writes about it: all codes
    (``0:2:1``), the least and the greatest (``[0:2]``; the categories are ordered, or LightGBM was given other columns
    as categorical), or ``none`` (one value)."""
    if info == "none":
        return True
    try:
        codes = [float(code) for code in info.strip("[]").split(":")]
    except ValueError:
        return False
    return all(code.is_integer() and -1 <= code < count for code in codes)


def _header(text: str) -> dict[str, str]:
    """Return the ``name=value`` lines before the first tree."""
    lines = text.partition("\n\n")[0].splitlines()
    return {name: value for name, separator, value in (line.partition("=") for line in lines) if separator}


class _Values:
    """The two kinds of values that a booster computes."""

    def __init__(self, model: Boosted, threads: int) -> None:
        self._booster, self._options = model.booster, {"num_threads": threads, **model.options}

    def values(self, table: Table) -> Array:
        values: Array = self._booster.predict(table, **self._options)
        return values

    def contributions(self, table: Table) -> Array:
        contributions: Array = self._booster.predict(table, pred_contrib=True, **self._options)
        return contributions
