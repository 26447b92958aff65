"""Prepare a fitted estimator for serving: on plain arrays, without pandas, and on one thread.

pandas takes 30 MB of memory, and milliseconds for a row, so names of columns become positions here. ``package.save``
compares the predictions before and after: a model that this would change gets a DataFrame (:mod:`.frame`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import FunctionTransformer

_EXACT = (np.absolute, np.negative, np.sign)
"""Functions whose answer to an int64 is an integer no larger than it."""


def prepare(model: Any, *, frame: bool = False) -> Any:
    """Change ``model`` in place and return it, or its best estimator if it is a fitted search. A model that gets a
    DataFrame (``frame``) keeps the names of its columns."""
    model = getattr(model, "best_estimator_", model)
    found = parts(model)
    for part in [] if frame else found:
        if isinstance(part, ColumnTransformer) and "feature_names_in_" in vars(part):
            _select_by_position(part)
    for part in found:
        if is_own(part):  # its code may use any of these
            continue
        if not frame:
            if isinstance(part, FunctionTransformer) and isinstance(part.func, np.ufunc):
                part.func = Arithmetic(part.func)
            # With names, scikit-learn warns in each call that arrays have none.
            vars(part).pop("feature_names_in_", None)
            vars(part).pop("_sklearn_output_config", None)  # set_output("pandas")
        if "_n_threads" in vars(part):
            part._n_threads = 1  # of clusters: as many as the machine had that fitted it, in every call
        if vars(part).get("n_jobs", 1) != 1:
            part.n_jobs = 1  # for a few rows, starting threads takes longer than predicting
        if vars(part).get("verbose"):
            part.verbose = 0
    return model


def is_own(part: Any) -> bool:
    """Whether the class of an estimator is not of a library that this server knows."""
    return type(part).__module__.partition(".")[0] not in ("sklearn", "xgboost", "lightgbm")


def has_own_code(model: Any) -> bool:
    """Whether the model, or a step of its pipelines, is of a class that no library has."""
    steps = [step for part in parts(model) for _, step, *_ in getattr(part, "steps", ()) if hasattr(step, "fit")]
    return any(map(is_own, (model, *parts(model), *steps)))


class Arithmetic:
    """A function of numpy for numbers in a table of objects, of which some columns are text. A DataFrame has numbers
    there, and numpy's functions raise on objects."""

    def __init__(self, function: np.ufunc) -> None:
        self.function = function

    def __call__(self, rows: Any) -> Any:
        """Return the function of each number."""
        return self.function(rows.astype(np.float64) if rows.dtype == object else rows)


def in_double(function: Any, dtype: np.dtype[Any]) -> bool:
    """Whether a function of one argument computes for values of this dtype as it does in float64."""
    if function in _EXACT and dtype == np.int64:
        return True
    try:
        return bool(function.resolve_dtypes((dtype, None))[0] == np.float64)
    except (AttributeError, TypeError, ValueError):  # it is not a function of numpy, or not of one argument
        return False


def parts(model: Any) -> list[Any]:
    """Return all estimators in an estimator, itself included."""
    return list(_parts(model, set()))


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    if id(value) in seen:
        return
    if isinstance(value, BaseEstimator):
        seen.add(id(value))
        yield value
        for inner in list(vars(value).values()):
            yield from _parts(inner, seen)
    elif type(value).__module__.startswith("sklearn.") and hasattr(value, "__dict__"):  # a calibrated classifier, …
        seen.add(id(value))
        for inner in list(vars(value).values()):
            yield from _parts(inner, seen)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _parts(inner, seen)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _parts(inner, seen)
    elif isinstance(value, np.ndarray) and value.dtype.hasobject:  # the trees of a boosting ensemble
        for inner in value.ravel():
            yield from _parts(inner, seen)


def _select_by_position(transformer: Any) -> None:
    position = {name: index for index, name in enumerate(transformer.feature_names_in_)}

    def positions(columns: Any) -> Any:
        if isinstance(columns, str):
            return position[columns]
        if isinstance(columns, slice):
            start, stop = position.get(columns.start, columns.start), columns.stop
            end = position[stop] + 1 if stop in position else stop  # a slice of labels includes its end
            return slice(start, end, columns.step)
        if isinstance(columns, (list, tuple)) or hasattr(columns, "tolist"):
            return [position.get(column, column) if isinstance(column, str) else column for column in list(columns)]
        return columns

    transformer.transformers_ = [(name, part, positions(columns)) for name, part, columns in transformer.transformers_]
