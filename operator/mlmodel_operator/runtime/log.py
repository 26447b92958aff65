"""One line per message on stderr, as ``key=value`` pairs that both people and log collectors read."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

OURS = "mlmodel_operator"
current_key: ContextVar[tuple[str, str] | None] = ContextVar("current_key", default=None)


class LineFormatter(logging.Formatter):
    """``time=… level=… from=LOGGER model=NAMESPACE/NAME msg="…"``.

    Our own tracebacks stay in the line, escaped; of a library's, which tell of a broken connection as often as of a
    bug, only the error is kept.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        stamp = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        fields = [f"time={stamp}", f"level={record.levelname.lower()}", f"from={record.name}"]
        key = current_key.get()
        if key is not None:
            fields.append(f"model={key[0]}/{key[1]}")
        message = record.getMessage()
        if record.exc_info and record.name.startswith(OURS):
            message += "\n" + self.formatException(record.exc_info)
        elif record.exc_info and record.exc_info[1] is not None:
            message += f" ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})"
        fields.append(f"msg={json.dumps(message, ensure_ascii=False)}")
        return " ".join(fields)


def configure(level: str) -> None:
    """Send everything from ``level`` (``DEBUG`` … ``ERROR``) to stderr; libraries only from WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(OURS).setLevel(level)
