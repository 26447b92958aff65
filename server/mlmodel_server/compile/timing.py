"""Measure how long a model and its compiled form take on this CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

from mlmodel_server.compile.verdict import DECISIVE, Times
from mlmodel_server.formats.opened import PREDICT, Functions
from mlmodel_server.tensors import Array

NOISE = 1.05
"""A median must be smaller by this factor to count as faster."""

MIN_ROUNDS = 5

ENOUGH = 20
"""Rounds after which the measurement ends if the medians differ so much that more would not change the result."""


def measure(original: Functions, compiled: Functions, table: Array, seconds: float) -> tuple[Times, Times]:
    """Return the medians of both, for 1 and for 64 of the rows.

    The four calls take turns for ``seconds``, so that a busy moment of the machine affects all of them; less long if
    the result is clear.
    """
    one, many = table[:1].copy(), table[np.arange(64) % len(table)]
    calls: list[Callable[[], Any]] = [
        lambda: original(one, (PREDICT,)),
        lambda: compiled(one, (PREDICT,)),
        lambda: original(many, (PREDICT,)),
        lambda: compiled(many, (PREDICT,)),
    ]
    for call in calls:
        call()
    taken: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while len(taken[0]) < MIN_ROUNDS or (time.perf_counter() < end and not _is_clear(taken)):
        for call, times in zip(calls, taken, strict=True):
            call()  # fills the caches after the other calls
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
    original_1, onnx_1, original_64, onnx_64 = (round(median(times) * 1e6, 2) for times in taken)
    return Times(original_1, original_64), Times(onnx_1, onnx_64)


def _is_clear(taken: Sequence[Sequence[float]]) -> bool:
    """Whether, after some rounds, one of the two is faster for 1 and for 64 rows by twice what is decisive."""
    if len(taken[0]) % ENOUGH:
        return False
    original_1, onnx_1, original_64, onnx_64 = map(median, taken)
    gains, clear = (original_1 / onnx_1, original_64 / onnx_64), 2 * DECISIVE
    return min(gains) > clear or max(gains) < 1 / clear


def faster(original: Times, onnx: Times) -> bool:
    """Whether ONNX is faster by more than noise for 1 row or for 64 rows, and not slower for the other."""
    gains = (original.rows_1 / onnx.rows_1, original.rows_64 / onnx.rows_64)
    return min(gains) >= 1 and max(gains) > NOISE
