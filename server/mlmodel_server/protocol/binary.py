"""Tensors as raw bytes, which follow the JSON of a v2 request or response, or are the raw contents of gRPC.

Source: the binary tensor data extension of the Open Inference Protocol. Row-major, little-endian, no padding; BOOL is
one byte, 0 or 1; each element of BYTES is its length (4 bytes, unsigned) and then the element.
"""

from __future__ import annotations

from math import prod

import numpy as np

from mlmodel_server.errors import RequestError
from mlmodel_server.tensors import DTYPES, Array, Tensor, quoted, shaped, texts_of

_LENGTH = 4


def from_raw(name: str, datatype: str, shape: tuple[int, ...], raw: memoryview) -> Array:
    """Return the bytes as an array, without a copy (BYTES are decoded as UTF-8).

    Raise :class:`RequestError`, which names the tensor, when the bytes do not fit datatype and shape.
    """
    if datatype == "BYTES":
        return _texts(name, shape, raw)
    dtype = DTYPES[datatype]
    expected = prod(shape) * dtype.itemsize
    if len(raw) != expected:
        raise RequestError(
            f"input {quoted(name)}: the binary data has {len(raw)} bytes, "
            f"but shape {list(shape)} of {datatype} takes {expected}"
        )
    if datatype == "BOOL":
        bytewise = np.frombuffer(raw, np.uint8)
        if bytewise.max(initial=0) > 1:
            raise RequestError(f"input {quoted(name)}: a BOOL in binary data must be the byte 0 or 1")
        return shaped(name, bytewise.view(dtype), shape)
    return shaped(name, np.frombuffer(raw, dtype.newbyteorder("<")), shape)


def _texts(name: str, shape: tuple[int, ...], raw: memoryview) -> Array:
    count, data, start = prod(shape), bytes(raw), 0
    texts: list[bytes] = []
    while start + _LENGTH <= len(data) and len(texts) < count:
        end = start + _LENGTH + int.from_bytes(data[start : start + _LENGTH], "little")
        texts.append(data[start + _LENGTH : end])
        start = end
    if start != len(data) or len(texts) != count:
        raise RequestError(
            f"input {quoted(name)}: the binary data must be {count} elements, "
            "each its length in 4 bytes (little-endian) and then its bytes"
        )
    return shaped(name, text_array(name, texts), shape)


def text_array(name: str, texts: list[bytes]) -> Array:
    """Return elements of BYTES as strings, shape [elements]."""
    array: Array = np.empty(len(texts), DTYPES["BYTES"])
    try:
        array[:] = [text.decode() for text in texts]
    except UnicodeDecodeError:
        raise RequestError(f"input {quoted(name)}: BYTES must be text in UTF-8") from None
    return array


def to_utf8(tensor: Tensor) -> list[bytes]:
    """Return the elements of a tensor of BYTES. Raise :class:`~mlmodel_server.errors.ModelFailure` if one is not
    text."""
    return [text.encode() for text in texts_of(tensor.name, tensor.array)]


def to_raw(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor of any datatype."""
    if tensor.datatype == "BYTES":
        parts = [part for text in to_utf8(tensor) for part in (len(text).to_bytes(_LENGTH, "little"), text)]
        return b"".join(parts)
    dtype = tensor.array.dtype
    return tensor.array.astype(dtype.newbyteorder("<"), copy=False).tobytes()
