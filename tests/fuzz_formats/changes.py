"""Changes of a file: of its bytes, and of its parts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import onnx

from mlmodel_server.formats import ubjson
from mlmodel_server.formats.onnx_operators import OPERATORS

_WHOLE = (
    -1,
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    255,
    65535,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    -(1 << 31),
    (1 << 63) - 1,
    -(1 << 63),
)
_REAL = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, math.nan, math.inf, -math.inf)
_SPELLED = (
    "-1", "0", "00", "1_0", "+1", " 1", "1 ", "", "٣", "1.0", "1e3", "0x10", "nan", "inf", "-nan", "1e999",
    "99999999999", "4294967296", "2147483647", "-2147483648", "9" * 400, "1\r", "1\x00", "a=b", "none",
    "1e", ".5", "1,", "1\t2",
)  # fmt: skip


def changed(format: str, data: bytes, random: Random) -> bytes:
    """Return ``data`` with a few changes, of which ``random`` decides the kind."""
    kind = random.random()
    if kind < 0.2:
        return of_bytes(data, random)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = _PARTS[format](data, random)
    return of_bytes(data, random) if kind > 0.97 else data


def of_bytes(data: bytes, random: Random) -> bytes:
    """Change bytes without knowing the format."""
    at, size = random.randrange(len(data)), random.choice((1, 2, 4, 8, 64))
    piece = data[at : at + size]
    return random.choice(
        (
            data[:at],
            data[:at] + bytes([random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))]) + data[at + 1 :],
            data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :],
            data[:at] + data[at + size :],
            data[:at] + piece + data[at:],
            data[:at] + bytes([data[at] | 0x80, 0x80, 0x80, 0x80, random.choice((0, 1, 0x10))]) + data[at + 1 :],
            data[:at] + b"\xff" * size + data[at + size :],
            data + data[at:],
        )
    )


def _line(data: bytes, random: Random) -> bytes:
    """Change LightGBM's text, mostly with sizes that fit."""
    lines = data.decode("utf-8", "replace").split("\n")
    end = next((index for index, line in enumerate(lines) if line.startswith("end of trees")), len(lines))
    at = random.randrange(max(1, end))
    name, _, value = lines[at].partition("=")
    values = value.split(" ")
    place = random.randrange(len(values))
    action = random.randrange(8)
    if action == 0:
        lines.insert(at, lines[random.randrange(end or 1)])
    elif action == 1:
        del lines[at]
    elif action == 2:
        values.insert(place, values[random.randrange(len(values))])
    elif action == 3:
        del values[place]
    elif action == 4:
        values[place] = str(random.choice(_WHOLE))
    elif action == 5:
        values[place] = random.choice(_SPELLED)
    elif action == 6:
        random.shuffle(values)
    else:
        values[place] = str(random.randrange(-8, 12))
    if action > 1 and "=" in lines[at]:
        lines[at] = f"{name}={' '.join(values)}"
    text = "\n".join(lines)
    return (_sized(text) if random.random() < 0.9 else text).encode("utf-8", "surrogatepass")


def _sized(text: str) -> str:
    """Return ``text`` with the sizes that its trees have."""
    trees = text[: text.find("end of trees")].split("\nTree=")[1:]
    sizes = " ".join(
        str(len(f"Tree={tree}\n".encode()) - (index == len(trees) - 1)) for index, tree in enumerate(trees)
    )
    return re.sub(r"\ntree_sizes=[^\n]*", f"\ntree_sizes={sizes}", text, count=1)


def _xgboost(data: bytes, random: Random) -> bytes:
    text = data.lstrip()[1:2] == b'"'
    try:
        content = json.loads(data) if text else ubjson.decode(data)
    except ValueError:
        return of_bytes(data, random)
    holders = list(_holders(content))
    holder, key = random.choice(holders)
    value, action = holder[key], random.randrange(7)
    if action == 0 and isinstance(holder, dict):
        del holder[key]
    elif action == 1 and isinstance(holder, dict):
        holder[random.choice(list(holder)) + random.choice(("", "_", "s"))] = value
    elif isinstance(value, (list, np.ndarray)) and len(value):
        holder[key] = _array(value, random)
    elif isinstance(value, str):
        holder[key] = random.choice((*map(str, _WHOLE), *_SPELLED, value + value))
    elif isinstance(value, (int, float)):
        holder[key] = random.choice((*_WHOLE, *_REAL))
    else:
        holder[key] = random.choice((None, True, "", [], {}, 1))
    try:
        encoded = json.dumps(content, default=np.ndarray.tolist).encode() if text else ubjson.encode(content)
    except Exception:  # a value that the format cannot spell
        return of_bytes(data, random)
    if text and random.random() < 0.1:  # a key twice
        name = random.choice(("num_nodes", "num_trees", "left_children", "weights", "num_class", "name"))
        encoded = encoded.replace(f'"{name}":'.encode(), f'"{name}":"1","{name}":'.encode(), 1)
    return encoded


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if not isinstance(value, list) or isinstance(inner, (dict, list, np.ndarray)):
            yield value, key
        yield from _holders(inner)


def _array(value: Any, random: Random) -> Any:
    at, action = random.randrange(len(value)), random.randrange(9)
    if action < 2:
        return value[:at] if action else value[:0]
    if action == 2:
        return np.concatenate((value, value[:1])) if isinstance(value, np.ndarray) else [*value, *value[:1]]
    if action == 3 and isinstance(value, np.ndarray):
        return value.astype(random.choice(("i1", "u1", "i2", "i4", "i8", "f4", "f8")))
    if action == 4 and isinstance(value, np.ndarray):
        return value.tolist()
    copy = value.copy()
    new = random.choice(_WHOLE if random.random() < 0.4 else range(-2, 9))
    if isinstance(value, np.ndarray):
        copy[at] = random.choice(_REAL) if value.dtype.kind == "f" else np.array(new).astype(value.dtype)
    elif not isinstance(value[at], (dict, list)):
        copy[at] = random.choice(_REAL) if isinstance(value[at], float) else new
    elif action == 5:
        del copy[at]
    else:
        copy[at] = copy[random.randrange(len(copy))]
    return copy


def _message(data: bytes, random: Random) -> bytes:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:
        return of_bytes(data, random)
    message = random.choice([part for part in _messages(model) if part.ListFields()] or [model])
    field, value = random.choice(message.ListFields())
    if field.is_repeated:
        _repeated(message, field, value, random)
    elif field.message_type is not None:
        if random.random() < 0.3:
            message.ClearField(field.name)
    else:
        _put(lambda new: setattr(message, field.name, new), field, value, random)
    return model.SerializeToString()


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                yield from _messages(part)


def _repeated(message: Any, field: Any, value: Any, random: Random) -> None:
    at, action = random.randrange(len(value)), random.randrange(6)
    if action == 0:
        del value[at]
    elif action == 1:
        del value[at:]
    elif action == 2:
        value.append(value[at])
    elif field.message_type is not None:
        other = random.choice(value)
        value[at].MergeFrom(other) if action == 3 else value[at].CopyFrom(other)
    else:
        _put(lambda new: value.__setitem__(at, new), field, value[at], random)


def _put(put: Any, field: Any, value: Any, random: Random) -> None:
    new: Any = random.choice(_WHOLE if random.random() < 0.6 else range(-3, 9))
    if field.name == "op_type":
        new = random.choice(sorted(random.choice(list(OPERATORS.values()))))
    elif isinstance(value, bytes):
        new = of_bytes(value, random) if value else b"\x01"
    elif isinstance(value, str):
        new = random.choice(("", "x", "y", "w", "b", "ai.onnx.ml", "com.microsoft", value + value))
    elif isinstance(value, float):
        new = random.choice(_REAL)
    try:
        put(new)
    except (ValueError, TypeError):
        put(value)


_PARTS = {"onnx": _message, "lightgbm": _line, "xgboost": _xgboost}
