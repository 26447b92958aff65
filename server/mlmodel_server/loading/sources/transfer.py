"""Download with retries that resume: one loop for web servers, registries and object stores."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from mlmodel_server.errors import UnreachableSource
from mlmodel_server.loading.limits import Allowance

TRIES = 4
"""Maximum number of failures in a row, without a byte in between. After that the kubelet restarts the pod."""

PAUSE = 0.5
"""Seconds before the first retry; each further retry waits twice as long."""

DEADLINE = 900.0
"""Maximum seconds for one file."""

PROGRESS_SECONDS = 5.0
"""Seconds between two log lines about the same file."""

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP codes after which a retry may succeed."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Broken(Exception):
    """A request failed, but a retry may succeed. The text is the reason, for a user."""


@dataclass(frozen=True)
class Part:
    """The bytes that a source returns: from ``start`` on, of ``total`` bytes if that is known."""

    start: int
    total: int | None
    chunks: Iterable[bytes | memoryview]


class Retries:
    """Counts the failures in a row of ``what``, and waits after each."""

    def __init__(self, what: str) -> None:
        self._what, self._failures = what, 0

    def wait(self, reason: object) -> None:
        """Count a failure and wait before the retry; raise :class:`UnreachableSource` after :data:`TRIES` failures."""
        self._failures += 1
        if self._failures == TRIES:
            raise UnreachableSource(f"{self._what} failed {TRIES} times: {reason}")
        time.sleep(PAUSE * 2 ** (self._failures - 1))

    def reset(self) -> None:
        """Count from zero again, after progress."""
        self._failures = 0


def with_retries(what: str, call: Callable[[], T]) -> T:
    """Return what ``call`` returns; call it again when it raises :class:`Broken`."""
    retries = Retries(what)
    while True:
        try:
            return call()
        except Broken as error:
            retries.wait(error)


def receive(name: str, open_at: Callable[[int], Part], allowance: Allowance) -> bytes:
    """Download the whole file ``name``.

    ``open_at(offset)`` requests it from that byte on, and may return another start (0, if the file has changed or the
    server cannot resume). It is called until all bytes have arrived; it and its chunks raise :class:`Broken` if a retry
    may succeed.
    """
    started = logged = time.monotonic()
    retries = Retries(name)
    buffer = io.BytesIO()  # returns its content without a copy
    furthest = 0
    while True:
        try:
            part = open_at(buffer.tell())
            buffer.seek(part.start)
            buffer.truncate()
            allowance.check(name, part.total or 0)
            for chunk in part.chunks:
                buffer.write(chunk)
                allowance.check(name, buffer.tell())
                now = time.monotonic()
                if now - started > DEADLINE:
                    raise UnreachableSource(
                        f"{name}: the download took longer than {DEADLINE:.0f} s: use a faster source, such as a volume"
                    )
                if now - logged > PROGRESS_SECONDS:
                    logged = now
                    total = round(part.total / 1e6) if part.total else "unknown"
                    values = {"file": name, "received_mb": round(buffer.tell() / 1e6), "total_mb": total}
                    logger.info("downloading", extra=values)
            if part.total is None or buffer.tell() >= part.total:
                return allowance.count(name, buffer.getvalue())
            if buffer.tell() == part.start:
                raise Broken("the download was interrupted")
            retries.reset()
        except Broken as error:
            if buffer.tell() > furthest:
                retries.reset()
            retries.wait(error)
        furthest = max(furthest, buffer.tell())
