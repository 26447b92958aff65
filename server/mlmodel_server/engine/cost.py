"""Expected time of a prediction on this CPU. It decides which requests run at once, and which are shed."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from mlmodel_server.engine.alone import timed

_LEAST, _MOST = 0.01, 0.05
"""Seconds of a measurement: at least, and at most unless one call takes longer. The first milliseconds of a quick model
may be slow, while its caches fill and the CPU speeds up."""

_SETTLED = 100
"""After so many calls without a faster one, more of them would hardly find one."""


class Cost:
    """Seconds as ``base + rows * per_row``, times a factor that follows the measured batches.

    The factor covers what the measurement at start cannot: other load on the CPU, a lower frequency, rows that take
    longer than the example. Thread-safe enough: one thread writes it, and a stale value does no harm.
    """

    def __init__(self, one: float, many: float, rows: int = 1) -> None:
        """``one`` and ``many``: measured seconds for one row and for ``rows`` rows, infinite when the model failed."""
        self.per_row = max(0.0, many - one) / (rows - 1) if rows > 1 and many < float("inf") else one
        self.base = max(0.0, one - self.per_row) if one < float("inf") else float("inf")
        self.factor = 1.0

    @property
    def is_known(self) -> bool:
        """Whether the cost was measured at start or observed since."""
        return self.base < float("inf")

    def seconds(self, rows: int, batches: int = 1) -> float:
        """Return the expected seconds for ``rows`` rows in this number of batches; 0 while the cost is unknown."""
        return (self.base * batches + self.per_row * rows) * self.factor if self.is_known else 0.0

    def least(self, rows: int) -> float:
        """Return the expected seconds for ``rows`` rows when nothing else slows them down."""
        return self.seconds(rows) / max(1.0, self.factor)

    def relax(self) -> None:
        """Move the factor back to 1, because a request was rejected and none is predicted: while all are rejected,
        nothing is measured, and a factor from one slow batch would reject them forever."""
        if self.factor > 1.0:
            self.factor += (1.0 - self.factor) * 0.05

    def observe(self, rows: int, seconds: float) -> None:
        """Update the factor from one batch: fast when it was slower than expected, slowly when it was faster."""
        expected = self.base + self.per_row * rows
        if not self.is_known:  # the model failed on the example, but not on these rows
            self.base, self.per_row = seconds, 0.0
        elif expected > 0.0:
            ratio = min(max(seconds / expected, 0.1), 100.0)
            self.factor += (ratio - self.factor) * (0.3 if ratio > self.factor else 0.05)


def measure(predict: Callable[[], object], clock: Callable[[], float] = perf_counter) -> float:
    """Return the seconds of the fastest call within 50 ms, infinite when one raises. The first only warms up. It ends
    earlier, after 10 ms, when the last hundred calls were not faster. ``clock`` returns seconds.

    A wait for a CPU does not count: on a busy node a row once seemed to take 50 ms, and requests of many rows were
    rejected.
    """
    best, began, passed = float("inf"), clock(), 0.0
    calls = fastest = 0
    while calls < 2 or passed < _LEAST or (passed < _MOST and calls - fastest <= _SETTLED):
        try:
            _, microseconds = timed(predict)
        except Exception:  # a failure on the example does not mean that other rows fail
            return float("inf")
        if calls and microseconds / 1e6 < best:
            best, fastest = microseconds / 1e6, calls
        calls += 1
        passed = clock() - began
    return best
