"""The training table as v2 tensors: which inputs a model has, of which datatypes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..errors import UsageError
from ..formats.opened import MATRIX
from ..protocol.tensors import Array, Tensor, TensorSpec, datatype_of


def tensors_of(X: Any) -> tuple[Literal["columns", "matrix"], list[Tensor]]:
    """The layout and the tensors of ``X``: a DataFrame gives one of shape [rows] per column, with its name; an array
    of numbers gives one of shape [rows, columns]; an array that holds text gives one per column, ``column-0``...

    Raises :class:`UsageError` when ``X`` is no table.
    """
    if hasattr(X, "columns") and hasattr(X, "iloc"):
        names = [str(name) for name in X.columns]
        if len(set(names)) != len(names):
            raise UsageError("X has two columns of the same name: rename one")
        return "columns", [_column(name, np.asarray(X.iloc[:, index])) for index, name in enumerate(names)]
    if hasattr(X, "toarray"):
        raise UsageError("X is sparse: hand in X.toarray() of the few rows to evaluate on")
    array = np.asarray(X)
    if array.ndim != 2 or not array.size:
        raise UsageError(f"X must be a table of shape [rows, columns], not {list(array.shape)}")
    if array.dtype.kind in "fiub":
        array = array.astype(np.float32 if array.dtype == np.float32 else np.float64)
        return "matrix", [Tensor(MATRIX, datatype_of(array.dtype), array)]
    return "columns", [_column(f"column-{index}", _narrowed(array[:, index])) for index in range(array.shape[1])]


def specs_of(tensors: list[Tensor]) -> tuple[TensorSpec, ...]:
    """The tensors as a signature: any number of rows."""
    return tuple(TensorSpec(t.name, t.datatype, (-1, *t.array.shape[1:])) for t in tensors)


def missing(array: Array) -> Array:
    """True where a value is missing (NaN or None); shape of ``array``."""
    result: Array = np.isnan(array) if array.dtype.kind == "f" else _no_value(array)
    return result


def _no_value(array: Array) -> Array:
    if array.dtype != object:
        return np.zeros(array.shape, dtype=bool)
    absent = [value is None or value != value for value in array.ravel()]  # NaN differs from itself
    return np.array(absent, dtype=bool).reshape(array.shape)


def _narrowed(column: Array) -> Array:
    """A column of an object array, as numbers when all of it is."""
    if all(isinstance(value, (int, float, np.number)) and not isinstance(value, bool) for value in column):
        return column.astype(np.float64)
    return column


def _column(name: str, values: Array) -> Tensor:
    datatype = datatype_of(values.dtype)
    return Tensor(name, datatype, values.astype(object) if datatype == "BYTES" else values)
