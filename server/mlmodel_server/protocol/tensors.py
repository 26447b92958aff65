"""Tensors of the Open Inference Protocol: names, the thirteen datatypes, and their numpy counterparts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

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
"""Datatype to numpy. BYTES holds Python strings: JSON carries text only."""

_NAMES = {dtype: name for name, dtype in DTYPES.items() if name != "BYTES"}


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The v2 datatype of a numpy dtype; whatever is not a number or a truth value travels as text (BYTES)."""
    return _NAMES.get(dtype.newbyteorder("="), "BYTES")


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output as metadata shows it; -1 in ``shape`` is any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array; ``datatype`` is what was declared on the wire, ``array.dtype`` its numpy counterpart."""

    name: str
    datatype: str
    array: Array


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded inference request; ``outputs`` None means the model's default."""

    id: str | None
    inputs: list[Tensor]
    outputs: list[str] | None


@dataclass(frozen=True, slots=True)
class InferResponse:
    """What the model answered."""

    id: str | None
    outputs: list[Tensor]
