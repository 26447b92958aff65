"""Prepare a fitted estimator for serving: on plain arrays, without pandas, and on one thread.

pandas takes 30 MB of memory, and milliseconds for a row, so names of columns become positions here. ``package.save``
compares the predictions before and after: a model that this would change gets a DataFrame (:mod:`.frame`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np


class Arithmetic:
    """A function of numpy for numbers in a table of objects, of which some columns are text. A DataFrame has numbers
    there, and numpy's functions raise on objects."""

    def __init__(self, function: np.ufunc) -> None:
        self.function = function

    def __call__(self, rows: Any) -> Any:
        """Return the function of each number."""
        return self.function(rows.astype(np.float64) if rows.dtype == object else rows)


_KNOWN = {"sklearn", "xgboost", "lightgbm", "numpy", "scipy", "pandas", "joblib", *sys.stdlib_module_names}
_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, partial, np.ufunc, type(np.mean), Arithmetic)
_EXACT = (np.absolute, np.negative, np.sign)
"""Functions whose answer to an int64 is an integer no larger than it."""


def prepare(model: Any, *, frame: bool = False) -> Any:
    """Change ``model`` in place and return it, or its best estimator if it is a fitted search. A model that gets a
    DataFrame (``frame``) keeps the names of its columns."""
    model = getattr(model, "best_estimator_", model)
    found = parts(model)
    for part in [] if frame else found:
        if _is_a(part, "sklearn.compose.ColumnTransformer") and "feature_names_in_" in vars(part):
            _select_by_position(part)
    for part in found:
        if is_own(part):  # its code may use any of these
            continue
        if not frame:
            if _is_a(part, "sklearn.preprocessing.FunctionTransformer") and isinstance(part.func, np.ufunc):
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
    """Whether the class of an object is the author's own, or of a library that this server does not know."""
    return type(part).__module__.partition(".")[0] not in _KNOWN


def has_own_code(model: Any) -> bool:
    """Whether the model, or an estimator within it, is of a class that no library has."""
    return any(map(is_own, (model, *parts(model))))


def in_double(function: Any, dtype: np.dtype[Any]) -> bool:
    """Whether a function of one argument computes for values of this dtype as it does in float64."""
    if function in _EXACT and dtype == np.int64:
        return True
    try:
        return bool(function.resolve_dtypes((dtype, None))[0] == np.float64)
    except (AttributeError, TypeError, ValueError):  # it is not a function of numpy, or not of one argument
        return False


def parts(model: Any) -> list[Any]:
    """Return all estimators in an estimator, itself included, and those of the author, which need not be derived from
    scikit-learn's."""
    return [part for part in _reached(model, set()) if _is_estimator(part)]


def is_by_row(model: Any) -> bool:
    """Whether no function within an estimator computes with several rows. As a step, only functions of numpy that
    compute with each number alone are known not to; elsewhere also those of scikit-learn, and the mean over the columns
    of a FeatureAgglomeration."""
    reached = list(_reached(model, set()))
    steps = [part for part in reached if _is_a(part, "sklearn.preprocessing.FunctionTransformer")]
    alone = (np.ufunc, Arithmetic)
    if not all(f is None or isinstance(f, alone) for step in steps for f in (step.func, step.inverse_func)):
        return False
    others = [part for part in reached if not _is_estimator(part)]
    return all(isinstance(f, alone) or f is np.mean or module_of(f) == "sklearn" for f in others)


def module_of(function: Any) -> str:
    """Return the library of a function; of a partial, that of the function within."""
    function = getattr(function, "func", function)
    return str(getattr(function, "__module__", None)).partition(".")[0]


def _is_a(value: Any, name: str) -> bool:
    """Whether a value is an instance of this class. If nothing has imported the class, there is none: a booster is
    compiled without scikit-learn."""
    module, _, name = name.rpartition(".")
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))


def _is_estimator(part: Any) -> bool:
    if _is_a(part, "sklearn.base.BaseEstimator"):
        return True
    return is_own(part) and any(hasattr(type(part), name) for name in ("fit", "transform", "predict"))


def _reached(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the estimators and functions in a value, itself included."""
    if id(value) in seen or isinstance(value, type):
        return
    estimator = _is_estimator(value)
    if estimator:
        yield value
    elif isinstance(value, _FUNCTIONS) or (callable(value) and is_own(value)):
        yield value
        return
    if isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, (list, tuple)):
        inner = list(value)
    elif isinstance(value, np.ndarray):  # the trees of a boosting ensemble
        inner = value.ravel().tolist() if value.dtype.hasobject else []
    elif estimator or type(value).__module__.startswith("sklearn."):  # a calibrated classifier, …
        seen.add(id(value))
        inner = list(getattr(value, "__dict__", {}).values())
    else:
        return
    for part in inner:
        yield from _reached(part, seen)


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
