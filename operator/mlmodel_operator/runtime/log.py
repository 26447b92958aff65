"""One line per message on stderr, as ``key=value`` pairs, which people and log collectors can read."""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

OURS = __name__.partition(".")[0]
current_key: ContextVar[tuple[str, str] | None] = ContextVar("current_key", default=None)


# Other formatters set the last two.
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_PLAIN = re.compile(r'[^\s"=]+')


class LineFormatter(logging.Formatter):
    """``time=… level=… from=LOGGER model=NAMESPACE/NAME msg="an event" KEY=VALUE …``.

    The values of an event are those in ``extra``: ``logger.info("leading", extra={"pod": name})``. Our own tracebacks
    are part of the message, escaped. A traceback of a library, often for a broken connection, is reduced to its error.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        stamp = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        fields = [f"time={stamp}", f"level={record.levelname.lower()}", f"from={record.name}"]
        key = current_key.get()
        if key is not None:
            fields.append(f"model={key[0]}/{key[1]}")
        message = record.getMessage()
        extra = {}
        if record.name.startswith(OURS):
            extra = {key: value for key, value in vars(record).items() if key not in _STANDARD_FIELDS}
            if record.exc_info:
                message += "\n" + self.formatException(record.exc_info)
        elif record.exc_info and record.exc_info[1] is not None:
            message += f" ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})"
        fields.append(f"msg={_quoted(message)}")
        fields += [f"{key}={_text(value)}" for key, value in extra.items()]
        return " ".join(fields)


def _text(value: object) -> str:
    """Return the text of a value: quoted unless it is one plain word or number."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) and text.isprintable() else _quoted(text)


def _quoted(text: str) -> str:
    """Return the text as a JSON string in which every character that is not printable is escaped, not only those that
    JSON requires: a terminal interprets the others."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else _escaped(c) for c in quoted)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if ord(character) > 0x7F else f"\\u{ord(character):04x}"


def configure(level: str) -> None:
    """Log to stderr from ``level`` (``DEBUG`` … ``ERROR``); libraries only from WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(OURS).setLevel(level)
