"""The categories of a DataFrame that a booster was trained on: values as users send them, to the codes in its trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel, RequestError
from mlmodel_server.formats.opened import Table
from mlmodel_server.tensors import EXACT_INTEGER, Array, is_missing, quoted


class Categories:
    """The known values of some columns, by position; the code of a value is its place among them.

    A missing value has the code NaN. So has an unknown value, unless ``reject_unknown``: then it raises
    :class:`RequestError`. XGBoost raises for an unknown text, and takes an unknown integer for another category.
    """

    def __init__(
        self, known: Mapping[int, Sequence[Any]], names: Sequence[str] = (), *, reject_unknown: bool = False
    ) -> None:
        """``names`` are those of all columns, for the error about an unknown value."""
        self.datatypes = {column: datatype(values) for column, values in known.items()}
        """The datatype of each column, as users send its values."""
        self._known = {column: list(values) for column, values in known.items()}
        self._codes = {
            column: {value: float(code) for code, value in enumerate(values)} for column, values in known.items()
        }
        self._reject_unknown, self._names = reject_unknown, names

    def encode(self, table: Table) -> Array:
        """Return [rows, columns] of numbers, with codes in place of the categories."""
        assert isinstance(table, np.ndarray)
        dtype = np.float64 if table.dtype == object else table.dtype
        others = [column for column in range(table.shape[1]) if column not in self._codes]
        encoded: Array = np.empty(table.shape, dtype)
        encoded[:, others] = table[:, others]
        for column, codes in self._codes.items():
            values = table[:, column].tolist()
            encoded[:, column] = [codes.get(value, np.nan) for value in values]
            if self._reject_unknown and any(value not in codes and not is_missing(value) for value in values):
                where = f"input {quoted(self._names[column])}" if self._names else "the request"
                raise RequestError(
                    f"{where} has a category that was not in the training rows, which this model does not accept: "
                    "send a known category, or a missing value"
                )
        return encoded

    def example(self, table: Array) -> Array:
        """Return ``table`` with the first category of each column in every row."""
        text = any(datatype == "BYTES" for datatype in self.datatypes.values())
        copy = table.astype(object) if text else table.copy()
        for column, values in self._known.items():
            copy[:, column] = values[0] if values else np.nan
        return copy

    def first(self) -> dict[int, Any]:
        """Return the first known value of each column."""
        return {column: values[0] for column, values in self._known.items() if values}


def datatype(values: Sequence[Any]) -> str:
    """Return the datatype in which users send these categories. Raise :class:`RefusedModel` if they have no type."""
    kinds = {type(value) for value in values}
    if kinds <= {str}:
        return "BYTES"
    if kinds == {bool}:
        return "BOOL"
    if kinds <= {int, float} and all(abs(value) <= EXACT_INTEGER for value in values):
        return "FP64"  # which may be missing, and takes integers too
    if kinds == {int}:
        return "INT64"
    raise RefusedModel(
        "its DataFrame has a column of categories of several types: convert the column to text before training"
    )


def placement(fits: Sequence[Sequence[bool]]) -> tuple[int, ...] | None:
    """Return the only way to give each list of categories a column, in the order of the columns; None if there is no
    way, or more than one.

    ``fits[list][column]`` says whether the column may have the categories of the list.
    """
    first = _leftmost(fits)
    if first is None:
        return None
    mirrored = _leftmost([row[::-1] for row in fits[::-1]])
    assert mirrored is not None
    last = tuple(len(fits[0]) - 1 - column for column in reversed(mirrored)) if fits else ()
    return first if first == last else None


def _leftmost(fits: Sequence[Sequence[bool]]) -> tuple[int, ...] | None:
    columns: list[int] = []
    for row in fits:
        start = columns[-1] + 1 if columns else 0
        column = next((column for column in range(start, len(row)) if row[column]), None)
        if column is None:
            return None
        columns.append(column)
    return tuple(columns)
