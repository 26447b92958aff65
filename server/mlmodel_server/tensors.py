"""Tensors of the Open Inference Protocol: names, the thirteen datatypes, and their numpy counterparts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlmodel_server.errors import ModelFailure, RequestError

Array = NDArray[Any]

Parameter = str | int | float | bool
"""Value of a parameter of a request, a response or a tensor."""

Parameters = Mapping[str, Parameter]
NO_PARAMETERS: Parameters = MappingProxyType({})

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
"""Datatype to numpy. BYTES are Python strings, the text of a table; every wire format rejects what is not UTF-8."""

EXACT_INTEGER = 2**53
"""Greater integers may not be exact as floating-point numbers: two of them can become one."""

WRITE_DIGITS = "has an integer from 2^53 on with a fraction or an exponent: write all of its digits, and nothing else"
"""Completes the error about a number that JSON and CSV have rounded before it could become an integer."""

MAX_DIMENSIONS = 8
"""Maximum number of dimensions, and of levels of nested data; models of tables need fewer."""

SHAPE_RULE = f"shape must be 1 to {MAX_DIMENSIONS} integers, none below 0"

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_FEW = 64  # up to here a loop is faster than a call of numpy


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """A column of the DataFrame that a model was packaged with.

    ``dtype`` is that of pandas, such as ``category`` or ``datetime64[us, Europe/Rome]``; ``missing`` says whether the
    model accepts a missing value; ``format`` how a date is written; ``categories`` are the known ones in their order,
    and ``ordered`` is that of pandas. ``none`` says that a missing value is None and not NaN in a column of objects,
    and ``number`` that the label of the column is an integer.
    """

    dtype: str
    missing: bool = False
    format: str = ""
    categories: tuple[str | bool | int | float, ...] = ()
    ordered: bool = False
    none: bool = False
    number: bool = False


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One input or output, as in the metadata; -1 in ``shape`` is any length. ``column`` describes an input that is a
    column of a DataFrame; None if that is not known."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    column: Column | None = None

    @property
    def is_nullable(self) -> bool:
        """Whether integers and booleans of this input may be missing; floating-point numbers and texts always may."""
        return self.column is not None and self.column.missing


class ModelMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata of a model, for both transports."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    properties: dict[str, str] = {}


class Tensor(msgspec.Struct, frozen=True, eq=False):
    """A named array; ``datatype`` is the one of the request or response, ``array.dtype`` its numpy counterpart.

    An array that was sent as binary data is a view of the request's bytes: read-only, and not always aligned.
    """

    name: str
    datatype: str
    array: Array
    parameters: Parameters = NO_PARAMETERS


class InferRequest(msgspec.Struct, frozen=True, eq=False):
    """A decoded inference request; ``outputs`` None means the model's default.

    ``output_parameters`` has the parameters of the requested outputs, by name, for outputs that have any.
    """

    id: str | None
    inputs: list[Tensor]
    outputs: list[str] | None
    parameters: Parameters = NO_PARAMETERS
    output_parameters: Mapping[str, Parameters] = MappingProxyType({})


class InferResponse(msgspec.Struct, frozen=True, eq=False):
    """Outputs of the model; ``parameters`` are those of the response."""

    id: str | None
    outputs: list[Tensor]
    parameters: Parameters = NO_PARAMETERS


def kind(datatype: str) -> type:
    """Return the Python type of one element in JSON."""
    if datatype == "BYTES":
        return str
    if datatype == "BOOL":
        return bool
    return float if datatype.startswith("FP") else int


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return the v2 datatype of a numpy dtype; what is neither a number nor a boolean is sent as text (BYTES)."""
    return _NAMES.get(dtype if dtype.isnative else dtype.newbyteorder("="), "BYTES")


def named(name: str, array: Array) -> Tensor:
    """Return a tensor with the datatype of the array."""
    return Tensor(name, datatype_of(array.dtype), array)


def is_missing(value: Any) -> bool:
    """Whether a value of a table is missing: None or NaN, which differs from itself."""
    return value is None or bool(value != value)


def missing_texts(table: Array) -> Array:
    """Return where a table of objects has None, in its shape."""
    return np.asarray(np.equal(table, None))  # type: ignore[call-overload]  # numpy compares objects with any object


def finite(array: Array) -> bool:
    """Return whether an array of floats has neither NaN nor infinity."""
    if array.size <= _FEW:
        return all(map(isfinite, array.ravel().tolist()))
    return bool(np.isfinite(array).all())


def elements(array: Array) -> list[Any]:
    """Return the elements, row-major, as int, float, bool or str of Python. Raise UnicodeDecodeError for bytes that are
    not text."""
    flat: list[Any] = array.ravel().tolist()
    if array.dtype.kind == "U" or datatype_of(array.dtype) != "BYTES":
        return flat
    return [text_of(element) for element in flat]


def text_of(element: Any) -> str:
    """Return an element of a response that is neither a number nor a boolean. Raise UnicodeDecodeError for bytes that
    are not text."""
    return element.decode() if isinstance(element, bytes) else str(element)


def texts_of(name: str, array: Array) -> list[str]:
    """Return the elements of the output ``name``, row-major, as texts.

    Raise :class:`ModelFailure` for half of a surrogate pair, and for bytes that are not UTF-8: any text in their place
    would be another answer.
    """
    try:
        found = elements(array)
        "".join(found).encode()
    except UnicodeError:
        raise ModelFailure(
            f"output {name} has half of a surrogate pair, or bytes that are not UTF-8, which no response can have"
        ) from None
    return found


def shaped(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    """Return ``array`` in a shape of as many elements; raise :class:`RequestError` when no array can be that large."""
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError):  # one dimension is 0, and another is too large for numpy
        raise RequestError(f"input {quoted(name)}: shape is too large") from None


def unknown_datatype(name: str, datatype: str) -> RequestError:
    """Return the error for an unknown datatype."""
    return RequestError(f"input {quoted(name)}: datatype {quoted(datatype)} is unknown; use one of {', '.join(DTYPES)}")


def quoted(text: str) -> str:
    """Quote a name that the client sent, cut to at most 64 characters, for an error."""
    return repr(text if len(text) <= 64 else text[:61] + "...")


_BITS = {datatype: np.finfo(dtype).nmant + 1 for datatype, dtype in DTYPES.items() if dtype.kind == "f"}
"""Up to 2 to this power, a floating-point number holds every integer."""


def beyond_exact(what: str, datatype: str) -> RequestError:
    """Return the error about an integer that is another number in ``datatype``, with which a model computes; ``what``
    names the input."""
    return RequestError(
        f"{what} has an integer beyond 2^{_BITS[datatype]} that is not exact in {datatype}, with which this model "
        "computes: if rounding is meant, send a floating-point number (FP64 in a tensor, with .0 in a row); if it is "
        "an id, train the model on texts, and send text (BYTES)"
    )


def is_changed(integers: Array, datatype: str) -> bool:
    """Whether one of these integers is another number in a floating-point ``datatype``."""
    if integers.itemsize * 8 <= _BITS[datatype] or _are_within(integers, 2 ** _BITS[datatype]):
        return False
    dtype, top = DTYPES[datatype], 2.0 ** (8 * integers.itemsize - (integers.dtype.kind == "i"))
    with np.errstate(over="ignore"):  # 70,000 is infinite in FP16
        floats = integers.astype(dtype).astype(np.float64)
    inside = np.abs(floats) < top  # 2^63 - 1 has become 2^63
    inside |= floats == -top
    return not bool((inside & (np.where(inside, floats, 0.0).astype(integers.dtype) == integers)).all())


def _are_within(integers: Array, limit: int) -> bool:
    if integers.size <= _FEW:
        return all(-limit <= integer <= limit for integer in integers.ravel().tolist())
    return bool(integers.min() >= -limit and integers.max() <= limit)


def are_rounded_twice(integers: Array) -> bool:
    """Whether one of these integers is another number in single precision if it is rounded to double precision first:
    it is near the middle of two numbers, and the first rounding moves it there."""
    if _are_within(integers, EXACT_INTEGER):
        return False
    return not np.array_equal(integers.astype(np.float64).astype(np.float32), integers.astype(np.float32))


def is_rounded_twice(integer: int, double: float) -> bool:
    """The same for one integer of at most 64 bits and its ``double``. The middle of two numbers of 24 significant bits
    has 25. From there, single precision takes the even number, which may not be the nearer one to the integer."""
    whole = abs(int(double))
    is_middle = whole.bit_length() - (whole & -whole).bit_length() == 24
    return is_middle and integer != double and (float(np.float32(double)) > double) != (integer > double)


def about_dates(value: Any) -> str:
    """Return what an error adds about a text in a column of numbers; "" unless the text looks like a date."""
    if isinstance(value, str) and _DATE.match(value):
        return (
            "; a model that was fitted on dates takes them with a package that says so: mlmodel package FILE --data "
            "rows.csv --dates COLUMN --out DIR"
        )
    return ""


def reject_duplicates(names: list[str], what: str) -> None:
    """Raise :class:`RequestError` when a name appears twice; ``what`` is input, output or column."""
    if len(set(names)) != len(names):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        raise RequestError(f"{what} {quoted(twice)} appears twice: names must be unique")
