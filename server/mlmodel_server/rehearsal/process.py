"""The process of the rehearsal: forked beside the workers, it sends copies and serves the pages for the operator, with
counts of copies and of labels, and figures beside them.

It opens no model and has the lowest priority. When it dies, the parent forks another one.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import socket as sockets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec

from mlmodel_server.errors import MLModelError
from mlmodel_server.kernel import name_process
from mlmodel_server.observe.figures import Figures
from mlmodel_server.observe.rollout import BINS, RolloutLabels
from mlmodel_server.rehearsal import authentic
from mlmodel_server.rehearsal.client import Client, Greeting
from mlmodel_server.rehearsal.page import Page
from mlmodel_server.rehearsal.progress import Progress
from mlmodel_server.rehearsal.sample import Sample
from mlmodel_server.rehearsal.sender import Sender
from mlmodel_server.rehearsal.target import TargetFile

FRESH_SECONDS = 0.5
"""The figures of the page are at most this old: of thousands of rows they take some milliseconds."""

NICENESS = 19

_LABELS = re.compile(rb"/labels/([0-9]{1,3})")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What the process needs to know. Create it before the fork."""

    revision: str
    own: tuple[str, int]
    """Host and port of the own server."""
    timeout: float
    """Deadline of a request in seconds."""
    file: Path
    """Names the candidate."""
    api_keys: Path | None
    sample: Sample | None
    """None turns rehearsals off, not the page with labels."""
    labels: RolloutLabels
    figures: Figures
    candidate: Callable[[str], tuple[str, int]]
    """Returns host and port of a revision."""


def run(settings: Settings, progress: Progress, listen: Callable[[], sockets.socket]) -> int:
    """Run until SIGTERM, or until an error, which is logged. ``listen`` returns the listening socket of the page."""
    try:
        _run(settings, progress, listen)
    except MLModelError as error:
        logger.error("no rehearsal", extra={"error": error})
    except Exception as error:  # a bug; the text of the error may quote data of a request
        logger.error("rehearsal stopped: internal error", extra={"error": type(error).__name__})
    return 1


def _run(settings: Settings, progress: Progress, listen: Callable[[], sockets.socket]) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends it also while it waits for a name server
    name_process("rehearsal")
    _die_first()
    gc.freeze()  # the collector would write to the pages that all processes share
    sender = _sender(settings, settings.sample, progress) if settings.sample else None
    listening = listen()
    page = Page(listening, Pages(settings.labels, settings.figures, sender))
    logger.info("page is served", extra={"port": listening.getsockname()[1], "rehearses": sender is not None})
    threading.Thread(target=page.run, name="page", daemon=True).start()
    # Of this thread only: the page is small, and is answered in time while all CPUs are busy.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    while sender:
        time.sleep(sender.step())
    threading.Event().wait()
    raise AssertionError("nothing sets the event")


def _sender(settings: Settings, sample: Sample, progress: Progress) -> Sender:
    target = TargetFile(settings.file, settings.api_keys).target

    def greeting() -> Greeting | None:
        """Return what the candidate must answer before it gets requests of clients."""
        found = target()
        if found is None:
            return None
        headers = authentic.sign(found.key, found.revision, authentic.HELLO, time.time())
        return Greeting(authentic.PATH, headers, authentic.welcome(found.key, headers))

    return Sender(
        sample,
        target,
        (settings.revision, Client(*settings.own)),
        lambda revision: Client(*settings.candidate(revision), greeting),
        timeout=settings.timeout,
        progress=progress,
    )


class Pages:
    """What each path of the page shows: counts, and nothing of a request or a label."""

    def __init__(self, labels: RolloutLabels, figures: Figures, sender: Sender | None) -> None:
        """``sender`` is None without rehearsals."""
        self._labels, self._figures = labels, figures
        self._pairs = Fresh(lambda: msgspec.json.encode(sender.figures())) if sender else None

    def __call__(self, path: bytes) -> bytes | None:
        """Return the page at a path as JSON, None for an unknown path."""
        if path == b"/":
            return self._pairs() if self._pairs else None
        if path == b"/figures":
            return msgspec.json.encode(self._figures.page())
        match = _LABELS.fullmatch(path)
        if match is None or int(match[1]) >= BINS - 1:  # the last bin has no upper bound: its errors are never right
            return None
        return msgspec.json.encode(self._labels.page(int(match[1])))


class Fresh:
    """Calls a function, and returns the same result for some time."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._content = b""
        self._until = 0.0

    def __call__(self) -> bytes:
        """Return the result of the function, at most :data:`FRESH_SECONDS` old."""
        now = time.monotonic()
        if now >= self._until:
            self._content, self._until = self._make(), now + FRESH_SECONDS
        return self._content


def _die_first(groups: Path = Path("/sys/fs/cgroup"), score: Path = Path("/proc/self/oom_score_adj")) -> None:
    """If memory becomes short, let the kernel kill this process and not one that serves.

    With version 2 of control groups, Kubernetes lets the kernel kill all processes of a container together. There, the
    container would be the first of the whole node. So it is done only where it is known that this process dies alone.
    """
    with suppress(OSError):  # not on Linux, or not a container
        if not (groups / "cgroup.controllers").exists() or (groups / "memory.oom.group").read_text().strip() == "0":
            score.write_text("1000")
