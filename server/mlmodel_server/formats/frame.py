"""Tables as the DataFrame that a model was fitted on: the same names, dtypes and categories.

A server imports pandas only for a package that says that its model needs this: see docs/adr/0020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel, RequestError
from mlmodel_server.formats import dates
from mlmodel_server.formats.opened import Table
from mlmodel_server.formats.table import library
from mlmodel_server.tensors import DTYPES, Array, Column, TensorSpec, is_missing, quoted

NUMBERS = frozenset(str(dtype) for datatype, dtype in DTYPES.items() if datatype != "BYTES")
"""The dtypes of numbers and booleans in numpy."""

NULLABLE = {
    **{name.capitalize().replace("Uint", "UInt"): name for name in NUMBERS if name not in ("bool", "float16")},
    "boolean": "bool",
}
"""The nullable dtypes of pandas, and those of numpy for their values."""

TEXTS = ("str", "string", "object")

Build = Callable[[list[Any]], Any]


class _Rounded(ValueError):
    """An integer is another number in a column that has missing values too."""


class Frames:
    """Makes the DataFrame of a table of objects. Safe to call from several threads."""

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        """``inputs`` are the columns of a package. Raise :class:`RefusedModel` if one has a dtype that is unknown."""
        self._pandas = library("pandas")
        self._columns = [(spec.name, self._label(spec), self._builder(spec)) for spec in inputs]

    def __call__(self, table: Table) -> Any:
        """Return the rows [rows, columns] as a DataFrame.

        Raise :class:`RequestError`, which names the column, for a value that its dtype cannot hold.
        """
        assert isinstance(table, np.ndarray)
        found = {}
        for (name, label, build), values in zip(self._columns, table.T.tolist(), strict=True):
            try:
                found[label] = build(values)
            except dates.NotADate as error:
                raise RequestError(f"row {error.row}: input {quoted(name)} must be a date in {error}") from None
            except _Rounded:
                raise RequestError(
                    f"input {quoted(name)} has an integer beyond 2^53 and a missing value, which make floating-point "
                    "numbers of the integers in pandas: send the rows with a missing value in another request"
                ) from None
            except (ValueError, TypeError, OverflowError):
                raise RequestError(
                    f"input {quoted(name)} has a value that the column of the model cannot hold: send values like "
                    "those of its training"
                ) from None
        return self._pandas.DataFrame(found, copy=False)

    @staticmethod
    def _label(spec: TensorSpec) -> str | int:
        return int(spec.name) if spec.column is not None and spec.column.number else spec.name

    def _builder(self, spec: TensorSpec) -> Build:
        column = spec.column or Column("")
        if column.dtype == "category":
            return self._categories(column)
        if column.dtype in NUMBERS:
            return _numbers(column.dtype)
        if column.dtype in NULLABLE:
            return self._nullable(column.dtype)
        if column.dtype in TEXTS:
            return self._objects(column)
        match = dates.DTYPE.fullmatch(column.dtype)
        if match is None:
            raise RefusedModel(
                f"the column {quoted(spec.name)} of its package has an unknown dtype: save the package again"
            )
        return self._dates(match[1], match[2])

    def _nullable(self, dtype: str) -> Build:
        array, plain = self._pandas.array, NULLABLE[dtype]

        def build(values: list[Any]) -> Any:
            if not any(map(is_missing, values)):
                return array(_numbers(plain)(values), dtype=dtype)
            # NaN of a request is missing, as null is.
            return array([None if is_missing(value) else value for value in values], dtype=dtype)

        return build

    def _objects(self, column: Column) -> Build:
        pandas = self._pandas
        if column.dtype == "object":
            missing = None if column.none else np.nan

            def of_objects(values: list[Any]) -> Any:
                objects: Array = np.empty(len(values), object)
                objects[:] = [missing if is_missing(value) else value for value in values]
                return pandas.Series(objects, dtype=object, copy=False)

            return of_objects
        dtype = pandas.api.types.pandas_dtype(column.dtype)
        sequence = dtype.construct_array_type()._from_sequence

        def of_texts(values: list[Any]) -> Any:
            return sequence([dtype.na_value if value is None else value for value in values], dtype=dtype)

        return of_texts

    def _categories(self, column: Column) -> Build:
        pandas, known = self._pandas, list(column.categories)
        dtype = pandas.CategoricalDtype(known, column.ordered)
        codes = {value: code for code, value in enumerate(known)}
        whole = all(isinstance(value, int) for value in known)

        def build(values: list[Any]) -> Any:
            if whole:  # an unknown category 9 comes as 9.0, and would turn the known ones into floating-point numbers
                values = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
            found = [-1 if is_missing(value) else codes.get(value) for value in values]
            if None not in found:
                return pandas.Categorical.from_codes(found, dtype=dtype, validate=False)
            # As in a DataFrame that has other categories too: the model says what it does with them.
            unknown = dict.fromkeys(value for value, code in zip(values, found, strict=True) if code is None)
            places = {value: len(known) + place for place, value in enumerate(unknown)}
            wider = pandas.CategoricalDtype([*known, *unknown], column.ordered)
            found = [places[value] if code is None else code for value, code in zip(values, found, strict=True)]
            return pandas.Categorical.from_codes(found, dtype=wider)

        return build

    def _dates(self, unit: str, zone: str | None) -> Build:
        if zone is None:
            return lambda texts: dates.parse(texts, unit, aware=False)
        index = self._pandas.DatetimeIndex
        try:
            index(np.array([0], f"datetime64[{unit}]")).tz_localize("UTC").tz_convert(zone)
        except Exception:
            raise RefusedModel(
                "its package has a time zone that this server does not have: convert the column to UTC, with "
                'X[column].dt.tz_convert("UTC"), before training'
            ) from None
        return lambda texts: index(dates.parse(texts, unit, aware=True)).tz_localize("UTC").tz_convert(zone)


def _numbers(dtype: str) -> Build:
    """Return values of this dtype; integers with missing values as floating-point numbers, as pandas has them."""
    kind = np.dtype(dtype)

    def build(values: list[Any]) -> Array:
        if kind.kind != "f":
            if any(map(is_missing, values)):
                numbers: Array = np.array(values, np.float64)
                for number, value in zip(numbers.tolist(), values, strict=True):
                    if number != value and not is_missing(value):
                        raise _Rounded
                return numbers
            whole: Array = np.array(values, kind)
            if whole.tolist() != values:
                raise ValueError("a fraction")
            return whole
        if kind.itemsize == 8:
            return np.array(values, kind)
        wide: Array = np.array(values, np.float64)
        with np.errstate(over="ignore"):
            narrow = wide.astype(kind)
        if not np.array_equal(np.isinf(wide), np.isinf(narrow)):
            raise OverflowError
        return narrow

    return build
