"""Learn from the fitted encoders and imputers of an estimator which columns are text, and a value that each accepts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

from mlmodel_server.tensors import is_missing

_KEEP = ("SimpleImputer", "FunctionTransformer", "StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler")
"""Steps that keep columns in their places, so that the next step sees the same ones."""


_LOCATIONS = ("mean_", "center_", "statistics_", "data_min_", "max_abs_")
"""Attributes of scalers and imputers with a number of each column, in its own unit."""

_TIMES = ((1e14, 4.2e15), (1e17, 4.2e18))
"""The years 1973 to 2103 in microseconds and in nanoseconds, the units of pandas."""


def columns(estimator: Any, width: int) -> tuple[dict[int, Any], list[int]]:
    """Return for each column of the table that an encoder knows a value of its training rows (a text, number, boolean
    or date of numpy), and the columns in which a missing text is None to the estimator, and not NaN."""
    found: dict[int, Any] = {}
    none = set()
    for part, places in _parts(estimator, list(range(width)), set()):
        for column, value in _of_encoder(part, places):
            if value is None:
                none.add(column)
            elif isinstance(value, str) or not isinstance(found.get(column), str):
                found[column] = value  # the last step, an encoder, knows better than an imputer before it
    return found, sorted(none)


def dates(estimator: Any, width: int) -> list[int]:
    """Return the columns in which an encoder knows dates."""
    known, _ = columns(estimator, width)
    return [column for column, value in known.items() if isinstance(value, np.datetime64)]


def locations(estimator: Any, width: int) -> dict[int, list[float]]:
    """Return numbers of the training by column, in its own unit, which scalers and imputers learnt."""
    found: dict[int, list[float]] = {}
    for part, places in _parts(estimator, list(range(width)), set(), ("SimpleImputer",)):
        for name in _LOCATIONS:
            values = getattr(part, name, None)
            if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.shape == (len(places),):
                for column, value in zip(places, values.tolist(), strict=True):
                    found.setdefault(column, []).append(value)
    return found


def like_dates(estimator: Any, width: int) -> list[int]:
    """Return the columns whose numbers in training look like times since 1970: it was a DataFrame with dates, which
    scikit-learn turns into numbers, or it had great numbers such as ids."""
    return sorted(
        column
        for column, values in locations(estimator, width).items()
        if any(first <= value <= last for value in values for first, last in _TIMES)
    )


def datatypes(known: Mapping[int, Any]) -> dict[int, str]:
    """Return the datatypes of these columns."""
    return {column: _datatype(value) for column, value in known.items()}


def _datatype(value: Any) -> str:
    return "BYTES" if isinstance(value, str) else "BOOL" if isinstance(value, bool) else "FP64"


def _parts(
    part: Any, columns: Sequence[int], seen: set[int], kept: Sequence[str] = _KEEP
) -> Iterator[tuple[Any, Sequence[int]]]:
    """Yield the parts of an estimator that get columns of the table, with their places in it. Steps of a pipeline
    after the first one that is none of ``kept`` are left out."""
    if id(part) in seen or (not isinstance(part, (BaseEstimator, list, tuple)) and not _is_helper(part)):
        return
    seen.add(id(part))
    if isinstance(part, (list, tuple)):
        for inner in part:
            yield from _parts(inner, columns, seen, kept)
    elif isinstance(part, ColumnTransformer):
        for name, step, _ in getattr(part, "transformers_", ()):
            places = part._transformer_to_input_indices.get(name, [])
            if max(places, default=0) < len(columns):
                yield from _parts(step, [columns[place] for place in places], seen, kept)
    elif isinstance(part, Pipeline):
        for _, step in part.steps:
            yield from _parts(step, columns, seen, kept)
            if not _keeps_columns(step, len(columns), kept):
                return
    elif isinstance(part, FeatureUnion):
        for _, step in part.transformer_list:
            yield from _parts(step, columns, seen, kept)
    elif getattr(part, "n_features_in_", len(columns)) == len(columns):
        yield part, columns
        for inner in vars(part).values():
            yield from _parts(inner, columns, seen, kept)


def _is_helper(part: Any) -> bool:
    """Whether it is a part of scikit-learn that has an estimator but is none, such as a calibrated classifier."""
    return type(part).__module__.startswith("sklearn.") and hasattr(part, "estimator")


def _keeps_columns(step: Any, width: int, kept: Sequence[str]) -> bool:
    if step is None or isinstance(step, str):
        return True
    if type(step).__name__ not in kept or getattr(step, "add_indicator", False):
        return False
    return len(getattr(step, "statistics_", range(width))) == width


def _of_encoder(part: Any, columns: Sequence[int]) -> Iterator[tuple[int, Any]]:
    categories = getattr(part, "categories_", None)
    if isinstance(categories, list) and len(categories) == len(columns):
        for column, known in zip(columns, categories, strict=True):
            if (array := np.asarray(known)).dtype.kind == "M":
                yield from ((column, date) for date in array[:1])
                continue
            values = array.tolist()
            yield from ((column, value) for value in [_first(values)] if value is not None)
            if any(value is None for value in values):
                yield column, None
    if type(part).__name__ == "SimpleImputer" and part.missing_values is None:
        yield from ((column, None) for column in columns)
    statistics = getattr(part, "statistics_", None)
    if isinstance(statistics, np.ndarray) and statistics.dtype == object and len(statistics) == len(columns):
        for column, value in zip(columns, statistics, strict=True):
            if isinstance(value, str):
                yield column, value


def _first(known: list[Any]) -> Any:
    """Return the first of the categories that is not missing, as a type of Python; None if it has no such type."""
    for value in known:
        if not is_missing(value):
            return value if isinstance(value, (str, bool, int, float)) else None
    return None
