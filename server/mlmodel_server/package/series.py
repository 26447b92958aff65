"""Columns of a DataFrame: their values as users send them, and what a server must know to make the column again."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel, UsageError
from mlmodel_server.formats import categories, dates
from mlmodel_server.formats.frame import NULLABLE, NUMBERS, TEXTS
from mlmodel_server.tensors import DTYPES, Array, Column, Tensor, datatype_of, is_missing

_KINDS = {"boolean": "BOOL", "integer": "INT64", "floating": "FP64", "mixed-integer-float": "FP64", "empty": "FP64"}
"""Datatypes of columns of Python objects that are not text."""


def tensor(name: str, series: Any) -> Tensor:
    """Return the values of a column [rows] as requests have them: a missing text, integer or boolean is None, a missing
    number NaN, and a date is text in ISO 8601.

    Raise :class:`UsageError` if no request can have its values.
    """
    dtype, datatype = str(series.dtype), _datatype(name, series)
    if dates.DTYPE.fullmatch(dtype):
        return Tensor(name, datatype, _iso(series))
    if dtype in NUMBERS:
        return Tensor(name, datatype, series.to_numpy())
    gaps = series.isna().to_numpy(dtype=bool)
    objects = series.to_numpy(dtype=object).copy()
    if datatype.startswith("FP"):
        objects[gaps] = np.nan
        return Tensor(name, datatype, objects.astype(DTYPES[datatype]))
    objects[gaps] = None
    if datatype == "BYTES" or gaps.any():
        return Tensor(name, datatype, objects)
    return Tensor(name, datatype, objects.astype(DTYPES[datatype]))


def column(series: Any) -> Column | None:
    """Return the description of a column; None if a server cannot make such a column."""
    dtype, missing = str(series.dtype), bool(series.isna().any())
    number = isinstance(series.name, (int, np.integer))
    if dtype == "category":
        known, ordered = tuple(series.cat.categories.tolist()), bool(series.cat.ordered)
        return Column(dtype, missing, categories=known, ordered=ordered, number=number)
    if dtype not in (*NUMBERS, *NULLABLE, *TEXTS) and not dates.DTYPE.fullmatch(dtype):
        return None
    none = dtype == "object" and any(value is None for value in series)
    return Column(dtype, missing, dates.format_of(dtype), none=none, number=number)


def missing_objects(array: Array) -> Array:
    """Return True where an object is missing: None, NaN, pandas' NA or NaT; in the shape of ``array``."""
    return np.array([_is_missing(value) for value in array.ravel()], dtype=bool).reshape(array.shape)


def _is_missing(value: Any) -> bool:
    # pandas' NA compares as NA, which is neither true nor false.
    return type(value).__name__ in ("NAType", "NaTType") or is_missing(value)


def _datatype(name: str, series: Any) -> str:
    dtype = str(series.dtype)
    if dtype in NUMBERS or dtype in NULLABLE:
        return datatype_of(np.dtype(NULLABLE.get(dtype, dtype)))
    if dtype in TEXTS:
        return "BYTES" if dtype != "object" else _datatype_of_objects(name, series)
    if dates.DTYPE.fullmatch(dtype):
        return "BYTES"
    if dtype == "category":
        try:
            return categories.datatype(series.cat.categories.tolist())
        except RefusedModel:
            raise _unfit(name, "categories of several types", "text") from None
    how = ".dt.total_seconds()" if dtype.startswith("timedelta") else ".astype(str)"
    try:
        return datatype_of(series.to_numpy().dtype)
    except (TypeError, ValueError):
        raise _unfit(name, f"the dtype {dtype[:40]}", f"numbers or text, such as X[{name!r}]{how}") from None


def _datatype_of_objects(name: str, series: Any) -> str:
    import pandas

    kind = pandas.api.types.infer_dtype(series, skipna=True)
    if kind == "string":
        return "BYTES"
    if kind in _KINDS:
        return _KINDS[kind]
    if kind in ("date", "datetime", "datetime64"):
        raise _unfit(name, "dates as Python objects", f"dates of pandas, with pandas.to_datetime(X[{name!r}])")
    raise _unfit(name, "values that are neither all text nor all numbers", "one of them")


def _unfit(name: str, what: str, to: str) -> UsageError:
    return UsageError(f"column {name!r} of X has {what}, which no request can have: convert it to {to}, and fit again")


def _iso(series: Any) -> Array:
    """Return dates as text, as short as each allows; None where one is missing."""
    texts: Array = np.empty(len(series), object)
    if getattr(series.dtype, "tz", None) is None:
        values = series.to_numpy()
        texts[:] = [str(np.datetime_as_string(value, unit="auto")) for value in values]
    else:
        texts[:] = [value.isoformat() for value in series]
    texts[series.isna().to_numpy(dtype=bool)] = None
    return texts
