"""The table of a model that gets a DataFrame, as the numbers and texts that its compiled form computes with.

A date is the number of its units since 1970, as numpy and scikit-learn take it for a number; a boolean is 0 or 1. Only
values that float64 holds exactly have such a form, so that two of them are equal if and only if the original ones are.
It imports neither scikit-learn nor pandas.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from mlmodel_server.compile.verdict import Unsupported
from mlmodel_server.formats import dates
from mlmodel_server.formats.frame import NULLABLE, NUMBERS, TEXTS
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import DTYPES, Array, TensorSpec

CATEGORY = "category"
EXACT = 2**53 - 1
"""Up to it, no two integers are the same floating-point number."""

_NO_DATE = float(np.iinfo(np.int64).min)
"""The number of a missing date, as numpy and scikit-learn have it."""


def number_of(dtype: str) -> str:
    """Return numpy's dtype for the numbers of a column of a DataFrame; "" if its values are not numbers."""
    return dtype if dtype in NUMBERS else NULLABLE.get(dtype, "")


def is_date(dtype: str) -> bool:
    """Whether a column of a DataFrame has dates."""
    return dates.DTYPE.fullmatch(dtype) is not None


def is_whole(spec: TensorSpec) -> bool:
    """Whether an input has whole numbers only."""
    return not spec.datatype.startswith(("FP", "BYTES"))


def plain(signature: Signature) -> Signature:
    """Return the signature of the compiled form: dates are whole numbers.

    Raise :class:`Unsupported` for a column of another dtype, and for single precision, in which the library computes
    with such a column.
    """
    inputs = []
    for spec in signature.inputs:
        dtype = spec.column.dtype if spec.column else ""
        text = spec.datatype == "BYTES"
        if _unit(spec):
            inputs.append(msgspec.structs.replace(spec, datatype="INT64"))
        elif dtype == CATEGORY or (text and dtype in TEXTS) or number_of(dtype) in _DOUBLE:
            inputs.append(spec)
        else:
            raise Unsupported(f"a column of the dtype {dtype[:40]} is not converted")
    return msgspec.structs.replace(signature, inputs=tuple(inputs))


_DOUBLE = NUMBERS - {"float16", "float32"}


def _unit(spec: TensorSpec) -> str:
    """Return the unit of dates without a time zone; "" if the input has none."""
    match = dates.DTYPE.fullmatch(spec.column.dtype) if spec.column else None
    return match[1] if match and not match[2] else ""


def _limits(spec: TensorSpec) -> tuple[float, float] | None:
    """Return the least and the greatest number of an input with whole numbers, of those that are exact."""
    if unit := _unit(spec):
        return dates.limits(unit)
    if not is_whole(spec):
        return None
    if spec.datatype == "BOOL":
        return 0.0, 1.0
    of = np.iinfo(DTYPES[spec.datatype])
    return float(max(of.min, -EXACT)), float(min(of.max, EXACT))


class Plain:
    """Turns the table of a model into the table of its compiled form, and back. ``inputs`` are those of the model."""

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self._units = {place: unit for place, spec in enumerate(inputs) if (unit := _unit(spec))}
        self._whole = [place for place, spec in enumerate(inputs) if is_whole(spec)]
        self._wide = [place for place, spec in enumerate(inputs) if spec.datatype in ("INT64", "UINT64")]
        self._numbers = [place for place, spec in enumerate(inputs) if spec.datatype != "BYTES" or _unit(spec)]
        self._limits = {place: limits for place, spec in enumerate(inputs) if (limits := _limits(spec))}

    def __call__(self, table: Array) -> Array:
        """Return the rows for the compiled form. Raise ValueError if a value is not exact as a floating-point number,
        or not a value of its column."""
        found = table.copy()
        for place, unit in self._units.items():
            instants = dates.parse(table[:, place].tolist(), unit, aware=False).view(np.int64)
            numbers = instants.astype(np.float64)
            if not np.array_equal(numbers.astype(np.int64), instants):
                raise ValueError("a date that is not exact as a floating-point number")
            found[:, place] = numbers
        for place in self._wide:
            if any(value is not None and abs(value) > EXACT for value in table[:, place].tolist()):
                raise ValueError("an integer that is not exact as a floating-point number")
        if self._whole and None in (whole := table[:, self._whole]).ravel().tolist():
            found[:, self._whole] = np.where(np.equal(whole, None), np.nan, whole)  # type: ignore[call-overload]
        return found

    def rounded(self, table: Array) -> Array:
        """Return rows of any numbers in the compiled form, with the nearest that each column can have."""
        found = table.copy()
        for place in self._numbers:
            values = table[:, place].astype(np.float64)
            if place in self._units:
                values[values == _NO_DATE] = np.nan
            if limits := self._limits.get(place):
                values = np.clip(np.rint(values), *limits)
            if place in self._units:
                values[np.isnan(values)] = _NO_DATE
            found[:, place] = values
        return found

    def back(self, table: Array) -> Array:
        """Return rows of the compiled form, rounded, as the model has them."""
        found: Array = self.rounded(table).astype(object)
        for place in self._whole:
            found[:, place] = [None if value != value else value for value in found[:, place].tolist()]
        for place, unit in self._units.items():
            instants: Array = found[:, place].astype(np.float64).astype(np.int64).view(f"datetime64[{unit}]")
            texts = np.datetime_as_string(instants).astype(object)
            texts[np.isnat(instants)] = None
            found[:, place] = texts
        return found
