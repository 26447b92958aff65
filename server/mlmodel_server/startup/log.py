"""Log lines of ``key=value`` pairs on stderr."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

from mlmodel_server.texts import printable

OURS = __name__.partition(".")[0]
_OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime"}  # other formatters set the last two
INTERVAL, BURST = 1.0, 10
"""Seconds for each line from one place in the code, and the lines that may come at once."""

MORE = "more_since_last_line"

_PLAIN = re.compile(r"[^\s\"=]+")


class Sparse(logging.Filter):
    """Bounds the lines from each place in the code. What any request may cause must not fill the log: a server whose
    lines are not read fast enough waits until there is room for them, and answers no request meanwhile."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._places: dict[tuple[str, int], tuple[float, int]] = {}  # time of the next line, lines left out

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a line; the next one that is written has ``more_since_last_line``."""
        now, place = self._clock(), (record.pathname, record.lineno)
        due, skipped = self._places.get(place, (now, 0))
        if due - now > (BURST - 1) * INTERVAL:
            self._places[place] = (due, skipped + 1)
            return False
        self._places[place] = (max(due, now) + INTERVAL, 0)
        if skipped:
            setattr(record, MORE, skipped)
        return True


class LineFormatter(logging.Formatter):
    """``time=… level=… from=LOGGER msg="an event" KEY=VALUE …``; a traceback stays in the line, escaped.

    The values of an event are those in ``extra``: ``logger.info("ready", extra={"port": 8080})``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        stamp = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        fields = [
            f"time={stamp}",
            f"level={record.levelname.lower()}",
            f"from={record.name}",
            f"msg={_quoted(message)}",
        ]
        is_ours = record.name.startswith(OURS)
        fields += [
            f"{key}={_text(value)}"
            for key, value in vars(record).items()
            if key == MORE or (is_ours and key not in _OF_EVERY_RECORD)
        ]
        return " ".join(fields)


def _text(value: object) -> str:
    """Return a value for a line: quoted unless it is one plain word or number."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) and text.isprintable() else _quoted(text)


def _quoted(text: str) -> str:
    """Return the text as a JSON string in which every character that is not printable is escaped, not only those that
    JSON requires: a terminal interprets the others."""
    return printable(json.dumps(text, ensure_ascii=False))


def configure() -> None:
    """Write what comes from INFO to stderr, of uvicorn from WARNING, and a bounded number of lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    handler.addFilter(Sparse())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
