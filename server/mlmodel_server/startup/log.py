"""One line per message on stderr, as ``key=value`` pairs that both people and log collectors read."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime


class LineFormatter(logging.Formatter):
    """``time=… level=… from=LOGGER msg="…"``; a traceback stays in the line, escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        stamp = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        return (
            f"time={stamp} level={record.levelname.lower()} from={record.name} "
            f"msg={json.dumps(message, ensure_ascii=False)}"
        )


def configure() -> None:
    """Send everything from INFO to stderr; of uvicorn from WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
