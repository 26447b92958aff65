"""Mutated requests: a valid one with a few random changes, from a seeded generator."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

from mlmodel_server.tensors import DTYPES
from tests.conformance.target import Target
from tests.conformance.test_binary import all_binary

# No number is so large that a model overflows, because 500 would then be the correct status.
JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 255, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**30, 0.5, -0.0, 1e-320,
    1e38, 1e39, 1e154, "", "a", "1", "NaN", "\0", "größe 雪 😀", "x" * 300, [], [[]], [[[]]], [1, [2]], ["a", 1],
    [0], [1], [1, 4], [2**62], [-1], {}, {"a": {}}, {"name": "predict"}, {"binary_data": True}, {"binary_data_size": 8},
    {"binary_data_output": True}, *DTYPES, "BF16", "predict", "predict_proba",
]  # fmt: skip
ROWS: list[Any] = [{"instances": [[1, 2, 3, 4]]}, {"dataframe_split": {"data": [[1, 2, 3, 4]]}}, [{"input-0": 1}]]
KEYS = [
    "id",
    "inputs",
    "outputs",
    "parameters",
    "name",
    "shape",
    "datatype",
    "data",
    "binary_data_size",
    "instances",
    "x",
]


@dataclass
class Sent:
    """One request."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def mutated(random: Random, target: Target) -> Sent:
    """Return a request of the v2 protocol, JSON or binary, or to another path; mostly invalid, sometimes valid."""
    path = f"{target.base}/infer"
    headers = {"Content-Type": "application/json"}
    value: Any
    tail = b""
    if binary := random.random() < 0.3:
        value, tail = all_binary(target)
    else:
        value = target.request()
        if random.random() < 0.1 and target.own:
            path = random.choice(["/predict", "/invocations", f"/v1/models/{target.model}:predict"])
            value = random.choice(ROWS)
    for _ in range(random.randrange(4)):
        value = _changed(random, value)
    head = json.dumps(value, ensure_ascii=random.random() < 0.5).encode(errors="replace")
    if binary:
        length = len(head) if random.random() < 0.9 else random.randrange(len(head) + 50)
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(length)}
    if random.random() < 0.1:
        tail = tail[: random.randrange(len(tail) + 1)] + bytes(random.choice([0, 0, 1, 8]))
    return Sent(path, _spoiled(random, head) + tail, headers)


def _changed(random: Random, value: Any) -> Any:
    """Return ``value`` with one part replaced, removed, repeated or added."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(list(value))
        action = random.random()
        if action < 0.1:
            return {name: inner for name, inner in value.items() if name != key}
        if action < 0.2:
            return {**value, random.choice(KEYS): random.choice(JUNK)}
        return {**value, key: _changed(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.7:
        index = random.randrange(len(value))
        action = random.random()
        if action < 0.1:
            return value[:index] + value[index + 1 :]
        if action < 0.2:
            return value + [value[index]] * random.choice([1, 1, 1, 200])
        return [*value[:index], _changed(random, value[index]), *value[index + 1 :]]
    return random.choice(JUNK)


def _spoiled(random: Random, raw: bytes) -> bytes:
    """Return the bytes, rarely cut, with one byte changed, or with more bytes at the end."""
    action = random.random()
    if not raw or action < 0.9:
        return raw
    index = random.randrange(len(raw))
    if action < 0.94:
        return raw[:index]
    if action < 0.98:
        return raw[:index] + bytes([random.randrange(256)]) + raw[index + 1 :]
    return raw + random.randbytes(random.choice([1, 8, 100]))
