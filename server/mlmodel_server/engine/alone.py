"""The time of one prediction alone: without the time for which its thread waited for a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns, thread_time_ns
from typing import TypeVar

T = TypeVar("T")

_SCHEDULER = Path("/proc/thread-self/schedstat")
"""Nanoseconds that this thread ran, nanoseconds that it waited for a CPU, and a count."""


def timed(work: Callable[[], T]) -> tuple[T, int]:
    """Return the result of ``work`` and its time in microseconds, at least 1.

    The time is what passed, minus what this thread waited for a CPU while others had it; at least the time that it
    ran, because it may also have waited just before or after the work. Where the system does not count the waits, it is
    all that passed.
    """
    waited, ran, started = _waited(), thread_time_ns(), perf_counter_ns()
    result = work()
    passed, ran = perf_counter_ns() - started, thread_time_ns() - ran
    waited = _waited() - waited
    return result, max(1, (passed - waited) // 1000, ran // 1000)


def _waited() -> int:
    try:
        return int(_SCHEDULER.read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
