"""Log lines of ``key=value`` pairs on stderr."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime

from mlmodel_server.texts import printable

OURS = __name__.partition(".")[0]
_OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime"}  # other formatters set the last two
_PLAIN = re.compile(r"[^\s\"=]+")


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
        if record.name.startswith(OURS):
            fields += [f"{key}={_text(value)}" for key, value in vars(record).items() if key not in _OF_EVERY_RECORD]
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
    """Write everything from INFO to stderr; of uvicorn from WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
