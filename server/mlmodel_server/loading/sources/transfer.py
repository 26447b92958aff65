"""Downloads that break off and go on: the same loop for web servers, registries and object stores."""

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
"""Failures in a row, without a byte in between, after which it is given up; the kubelet starts the pod again."""

PAUSE = 0.5
"""Seconds before the second try; each further one waits twice as long."""

DEADLINE = 900.0
"""Seconds for one file."""

PROGRESS_SECONDS = 5.0
"""Between two lines of the log about the same file."""

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP codes after which another try may help."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Broken(Exception):
    """This try failed and another may not. The text is the reason, for a user."""


@dataclass(frozen=True)
class Part:
    """What a source hands out: from ``start`` on, of ``total`` bytes if it told."""

    start: int
    total: int | None
    chunks: Iterable[bytes | memoryview]


class Patience:
    """Counts the failures in a row of ``what``, and waits after each."""

    def __init__(self, what: str) -> None:
        self._what, self._failures = what, 0

    def failed(self, reason: object) -> None:
        """Wait before the next try; :class:`UnreachableSource` when there have been enough."""
        self._failures += 1
        if self._failures == TRIES:
            raise UnreachableSource(f"{self._what}: {reason}, tried {TRIES} times")
        time.sleep(PAUSE * 2 ** (self._failures - 1))

    def went_on(self) -> None:
        """It works again."""
        self._failures = 0


def retried(what: str, call: Callable[[], T]) -> T:
    """What ``call`` returns, tried again when it raises :class:`Broken`."""
    patience = Patience(what)
    while True:
        try:
            return call()
        except Broken as error:
            patience.failed(error)


def receive(name: str, open_at: Callable[[int], Part], allowance: Allowance) -> bytes:
    """The whole file ``name``.

    ``open_at(offset)`` asks for it from that byte on, and may answer with another start (0, when the file has changed
    or the server cannot resume). It is called until all bytes are there; it and its chunks raise :class:`Broken` when
    another try may help.
    """
    began = said = time.monotonic()
    patience = Patience(name)
    buffer = io.BytesIO()  # hands out what it holds without a copy
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
                if now - began > DEADLINE:
                    raise UnreachableSource(f"{name}: the download took longer than {DEADLINE:.0f} s")
                if now - said > PROGRESS_SECONDS:
                    said = now
                    of = f" of {part.total / 1e6:,.0f}" if part.total else ""
                    logger.info("%s: %s%s MB", name, f"{buffer.tell() / 1e6:,.0f}", of)
            if part.total is None or buffer.tell() >= part.total:
                return allowance.took(name, buffer.getvalue())
            if buffer.tell() == part.start:
                raise Broken("the download broke off")
            patience.went_on()
        except Broken as error:
            if buffer.tell() > furthest:
                patience.went_on()
            patience.failed(error)
        furthest = max(furthest, buffer.tell())
