"""The time of one prediction alone: without the time for which its thread waited for a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import TypeVar

T = TypeVar("T")

_SCHEDULER = Path("/proc/thread-self/schedstat")
"""Nanoseconds that this thread ran, nanoseconds that it waited for a CPU, and a count."""


def timed(work: Callable[[], T]) -> tuple[T, int]:
    """Return the result of ``work`` and its time in microseconds, at least 1.

    The time is what passed, minus what this thread waited for a CPU while others had it. A wait beside the work, while
    the count is read, must not make it shorter: so only what is more than the time beside the work is subtracted. Where
    the system does not count the waits, the time is all that passed.
    """
    before = perf_counter_ns()
    waited = _waited()
    started = perf_counter_ns()
    result = work()
    ended = perf_counter_ns()
    waited = _waited() - waited
    beside = started - before + perf_counter_ns() - ended
    return result, max(1, (ended - started - max(0, waited - beside)) // 1000)


def _waited() -> int:
    try:
        return int(_SCHEDULER.read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
