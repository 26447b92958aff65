"""Tensors of the Open Inference Protocol: names, the thirteen datatypes, and their numpy counterparts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlmodel_server.errors import RequestError

Array = NDArray[Any]

Parameter = str | int | float | bool
"""What a parameter may be, of a request, a response or a tensor."""

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
"""Datatype to numpy. BYTES holds Python strings: a table's text; every wire format refuses what is not UTF-8."""

MAX_DIMENSIONS = 8
"""More than any model of tables has, and how deep data may be nested."""

SHAPE_RULE = f"shape must be 1 to {MAX_DIMENSIONS} whole numbers, none below 0"

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_FEW = 64  # below it, calling numpy costs more than a loop


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output as metadata shows it; -1 in ``shape`` is any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model as both transports describe it."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    properties: dict[str, str] = {}


class Tensor(msgspec.Struct, frozen=True, eq=False):
    """A named array; ``datatype`` is what was declared on the wire, ``array.dtype`` its numpy counterpart.

    An array that came as binary data shows the bytes of the request themselves: read-only, and not always aligned.
    """

    name: str
    datatype: str
    array: Array
    parameters: Parameters = NO_PARAMETERS


class InferRequest(msgspec.Struct, frozen=True, eq=False):
    """A decoded inference request; ``outputs`` None means the model's default.

    ``output_parameters`` holds those of the requested outputs that have any, by name.
    """

    id: str | None
    inputs: list[Tensor]
    outputs: list[str] | None
    parameters: Parameters = NO_PARAMETERS
    output_parameters: Mapping[str, Parameters] = MappingProxyType({})


class InferResponse(msgspec.Struct, frozen=True, eq=False):
    """What the model answered; ``parameters`` is what else is to be told about it."""

    id: str | None
    outputs: list[Tensor]
    parameters: Parameters = NO_PARAMETERS


def kind(datatype: str) -> type:
    """The Python type of one element, as JSON carries it."""
    if datatype == "BYTES":
        return str
    if datatype == "BOOL":
        return bool
    return float if datatype.startswith("FP") else int


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The v2 datatype of a numpy dtype; whatever is not a number or a truth value travels as text (BYTES)."""
    return _NAMES.get(dtype if dtype.isnative else dtype.newbyteorder("="), "BYTES")


def named(name: str, array: Array) -> Tensor:
    """A tensor whose datatype follows from the array."""
    return Tensor(name, datatype_of(array.dtype), array)


def finite(array: Array) -> bool:
    """Whether an array of floats holds neither NaN nor infinity."""
    if array.size <= _FEW:
        return all(map(isfinite, array.ravel().tolist()))
    return bool(np.isfinite(array).all())


def elements(array: Array) -> list[Any]:
    """The elements, row-major, as Python's own int, float, bool or str."""
    flat: list[Any] = array.ravel().tolist()
    if array.dtype.kind == "U" or datatype_of(array.dtype) != "BYTES":
        return flat
    return [_text(element) for element in flat]


def _text(element: Any) -> str:
    return element.decode(errors="replace") if isinstance(element, bytes) else str(element)


def shaped(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    """``array`` in a shape that has as many elements; :class:`RequestError` when no array can be that large."""
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError):  # no elements, as one dimension is 0, and beyond all bounds in the others
        raise RequestError(f"input {shown(name)}: shape is too large") from None


def unknown(name: str, datatype: str) -> RequestError:
    """The error for a datatype that is none."""
    return RequestError(f"input {shown(name)}: datatype {shown(datatype)} is unknown; use one of {', '.join(DTYPES)}")


def shown(text: str) -> str:
    """A name that came from the client, short enough to quote in an error."""
    return repr(text if len(text) <= 64 else text[:61] + "...")


def refuse_twice(names: list[str], what: str) -> None:
    """:class:`RequestError` when a name is there twice; ``what`` it names."""
    if len(set(names)) != len(names):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        raise RequestError(f"{what} {shown(twice)} is there twice")
