"""Logs with a limited rate: a model may fail on every request, and any client may send wrong feedback."""

from __future__ import annotations

import logging
import time

from mlmodel_server.errors import ModelFailure, RequestError
from mlmodel_server.observe.cells import Cells

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Minimum seconds between two lines about predictions."""

REJECTED_INTERVAL = 60.0
"""Minimum seconds between two lines about rejected feedback, of all workers together."""


class RejectedLog:
    """At most one line a minute, of all workers together. Create it before the fork."""

    def __init__(self) -> None:
        self._shared = Cells(1, 2).row(0)  # time of the next line, number of requests without one

    def log(self, error: RequestError) -> None:
        """Log a rejected request of feedback, with the number of those that were not logged."""
        now = time.monotonic()  # the same clock in every process
        if now < self._shared[0]:
            self._shared[1] += 1
            return
        skipped, self._shared[:] = int(self._shared[1]), (now + REJECTED_INTERVAL, 0)
        logger.warning("feedback rejected", extra={"error": error, "more_since_last_line": skipped})


class FailureLog:
    """At most one line per second, with the place in the code and never the input."""

    def __init__(self) -> None:
        self._next, self._skipped = 0.0, 0

    def log(self, failure: ModelFailure) -> None:
        """Log a failed prediction, with the number of those that were not logged."""
        now = time.monotonic()
        if now < self._next:
            self._skipped += 1
            return
        values = {"error": failure, "place": _place(failure.__cause__), "more_since_last_line": self._skipped}
        self._next, self._skipped = now + INTERVAL, 0
        logger.error("prediction failed", extra=values)


def _place(cause: BaseException | None) -> str:
    trace = cause.__traceback__ if cause else None
    if trace is None:
        return "unknown"
    while trace.tb_next:
        trace = trace.tb_next
    frame = trace.tb_frame
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_name}, line {trace.tb_lineno}"
