"""Parse UBJSON as XGBoost writes it into dictionaries, lists and arrays, and write these, as XGBoost reads them."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from mlmodel_server.errors import Unreadable

MAX_DEPTH = 64

_INTEGERS = {"i": ">i1", "U": "u1", "I": ">i2", "l": ">i4", "L": ">i8"}
_FLOATS = {"d": ">f4", "D": ">f8"}
_NUMBERS = {**_INTEGERS, **_FLOATS}
_MARKERS = {kind.lstrip(">"): marker.encode() for marker, kind in _NUMBERS.items()}
_CONSTANTS: dict[str, Any] = {"Z": None, "T": True, "F": False}


def decode(data: bytes) -> Any:
    """Return the value in ``data``. Raise ValueError if it is damaged, nested too deep, has a key twice, or has data
    after it."""
    try:
        value, end = _value(data, 0, _marker(data, 0), 0)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise Unreadable("it is cut off or damaged") from error
    if end != len(data):
        raise Unreadable("it has data after the model")
    return value


def encode(value: Any) -> bytes:
    """Return what :func:`decode` returned, in the one spelling that XGBoost writes."""
    parts: list[bytes] = []
    _encode(value, parts)
    return b"".join(parts)


def _encode(value: Any, parts: list[bytes]) -> None:
    if isinstance(value, dict):
        parts.append(b"{")
        for name, inner in value.items():
            parts.append(_encoded_text(name))
            _encode(inner, parts)
        parts.append(b"}")
    elif isinstance(value, np.ndarray):
        marker = _MARKERS[value.dtype.str.lstrip("<>=|")]
        parts.append(
            b"[$" + marker + b"#" + _length(len(value)) + value.astype(value.dtype.newbyteorder(">")).tobytes()
        )
    elif isinstance(value, list):
        parts.append(b"[#" + _length(len(value)))
        for inner in value:
            _encode(inner, parts)
    elif isinstance(value, str):
        parts.append(b"S" + _encoded_text(value))
    elif value is None or isinstance(value, bool):
        parts.append({None: b"Z", True: b"T", False: b"F"}[value])
    elif isinstance(value, int):
        parts.append(_length(value))
    else:
        exact = value != value or struct.unpack(">f", struct.pack(">f", value))[0] == value
        parts.append(struct.pack(">cf", b"d", value) if exact else struct.pack(">cd", b"D", value))


def _length(number: int) -> bytes:
    return struct.pack(">cq", b"L", number)


def _encoded_text(text: str) -> bytes:
    data = text.encode("utf-8")
    return _length(len(data)) + data


def _marker(data: bytes, at: int) -> str:
    return chr(data[at])


def _value(data: bytes, at: int, marker: str, depth: int, marked: bool = True) -> tuple[Any, int]:
    """Return the value at ``at`` and its end; with ``marked``, its marker is at ``at``."""
    at += marked
    if depth > MAX_DEPTH:
        raise Unreadable("it is nested too deep")
    if marker in _NUMBERS:
        kind = np.dtype(_NUMBERS[marker])
        number = np.frombuffer(data[at : at + kind.itemsize], kind)
        return number[0].item(), at + kind.itemsize
    if marker in _CONSTANTS:
        return _CONSTANTS[marker], at
    if marker == "S":
        size, at = _size(data, at)
        return _text(data, at, size), at + size
    if marker == "{":
        return _object(data, at, depth)
    if marker == "[":
        return _array(data, at, depth)
    raise Unreadable("it has a marker that XGBoost does not write")


def _size(data: bytes, at: int) -> tuple[int, int]:
    marker = _marker(data, at)
    if marker not in _INTEGERS:
        raise Unreadable("it has a length that is not an integer")
    size, at = _value(data, at, marker, 0)
    if not 0 <= size <= len(data):
        raise Unreadable("it is cut off or damaged")
    return size, at


def _text(data: bytes, at: int, size: int) -> str:
    if at + size > len(data):
        raise Unreadable("it is cut off or damaged")
    return data[at : at + size].decode("utf-8")


def _header(data: bytes, at: int) -> tuple[str, int | None, int]:
    """Return the type of all elements and their number, if the container declares them, and the end of the header."""
    kind, count = "", None
    if _marker(data, at) == "$":
        kind, at = _marker(data, at + 1), at + 2
    if _marker(data, at) == "#":
        count, at = _size(data, at + 1)
    if kind and count is None:
        raise Unreadable("it has a typed list without a length")
    return kind, count, at


def _array(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    kind, count, at = _header(data, at)
    if kind in _NUMBERS and count is not None:
        dtype = np.dtype(_NUMBERS[kind])
        end = at + count * dtype.itemsize
        return np.frombuffer(data[at:end], dtype, count).astype(dtype.newbyteorder("=")), end
    if kind:
        raise Unreadable("it has a typed list that is not of numbers")
    items: list[Any] = []
    while len(items) < count if count is not None else _marker(data, at) != "]":
        item, at = _value(data, at, _marker(data, at), depth + 1)
        items.append(item)
    return items, at if count is not None else at + 1


def _object(data: bytes, at: int, depth: int) -> tuple[dict[str, Any], int]:
    kind, count, at = _header(data, at)
    if kind:
        raise Unreadable("it has a typed object")
    items: dict[str, Any] = {}
    while len(items) < count if count is not None else _marker(data, at) != "}":
        size, at = _size(data, at)
        key = _text(data, at, size)
        at += size
        if key in items:
            raise Unreadable(f"it has {key[:40]!r} twice")
        items[key], at = _value(data, at, _marker(data, at), depth + 1)
    return items, at if count is not None else at + 1
