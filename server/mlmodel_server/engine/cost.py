"""How long this model takes for how many rows, on this CPU: what is answered at once, and what may still wait."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

MEASURED_ROWS = 64
_SECONDS = 0.05


class Cost:
    """Seconds as ``base + rows * per_row``, and a factor that follows what is really seen.

    The factor covers what a quiet measurement at start cannot know: neighbours on the CPU, a frequency that falls, rows
    that are dearer than the example. Thread-safe enough: one thread writes it, and a stale reading does no harm.
    """

    def __init__(self, one: float, many: float, rows: int = MEASURED_ROWS) -> None:
        """From the measured seconds for one row and for ``rows`` rows; infinite when the model cannot be measured."""
        self.per_row = max(0.0, many - one) / (rows - 1) if many < float("inf") else one
        self.base = max(0.0, one - self.per_row) if one < float("inf") else float("inf")
        self.factor = 1.0

    @property
    def known(self) -> bool:
        """Whether it could be measured, or has been seen since."""
        return self.base < float("inf")

    def seconds(self, rows: int, batches: int = 1) -> float:
        """Expected for ``rows`` rows in so many batches; 0 as long as nothing is known."""
        return (self.base * batches + self.per_row * rows) * self.factor if self.known else 0.0

    def seen(self, rows: int, seconds: float) -> None:
        """Learn from one batch. Quick to believe in slowness, slow to believe in speed."""
        expected = self.base + self.per_row * rows
        if not self.known:  # the example could not be answered, these rows could
            self.base, self.per_row = seconds, 0.0
        elif expected > 0.0:
            ratio = min(max(seconds / expected, 0.1), 100.0)
            self.factor += (ratio - self.factor) * (0.3 if ratio > self.factor else 0.05)


def measure(ask: Callable[[], object]) -> float:
    """The best seconds of one call within 50 ms (at least two calls: the first is cold); infinite when it raises."""
    best, end = float("inf"), perf_counter() + _SECONDS
    calls = 0
    while calls < 2 or perf_counter() < end:
        started = perf_counter()
        try:
            ask()
        except Exception:  # whatever the model raises on the example says nothing about other rows
            return float("inf")
        if calls:
            best = min(best, perf_counter() - started)
        calls += 1
    return best
