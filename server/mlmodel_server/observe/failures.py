"""The log of failed predictions, with a limited rate: a model may fail on every request."""

from __future__ import annotations

import logging
import time

from mlmodel_server.errors import ModelFailure

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Minimum seconds between two lines."""


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
