"""Work in a background thread, with less priority than requests."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

SHARE = 0.1
"""Maximum share of one CPU for this work, which holds the interpreter lock that requests need."""

IDLE_SECONDS = 1.0

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Background(Generic[T]):
    """A thread that processes a bounded queue, one item at a time. Call :meth:`start` after the fork."""

    def __init__(
        self,
        name: str,
        work: Callable[[T], None],
        waiting: int,
        *,
        idle: Callable[[], None] | None = None,
        end: Callable[[], None] | None = None,
    ) -> None:
        """``waiting`` is the maximum length of the queue. The thread calls ``idle`` about once a second while the queue
        is empty, and ``end`` after the last item."""
        self._name, self._work, self._waiting, self._idle, self._end = name, work, waiting, idle, end

    def start(self) -> None:
        """Start the thread of this process."""
        self._queue: SimpleQueue[T | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def offer(self, item: T) -> bool:
        """Queue ``item``; return False when the queue is full."""
        if self._queue.qsize() >= self._waiting:
            return False
        self._queue.put(item)
        return True

    def stop(self, *, discard: bool = False, seconds: float = 0.0) -> None:
        """Process the queue or ``discard`` it, then stop the thread, waiting for it up to ``seconds``."""
        self._stopping.set()
        with suppress(Empty):
            while discard:
                self._queue.get_nowait()
        self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                started = time.thread_time()
                self._work(item)
                self._stopping.wait((time.thread_time() - started) * (1 / SHARE - 1))
            if self._end:
                self._end()
        except Exception as error:  # a bug; the text of the error may quote data of a request
            logger.error(
                "background task stopped: internal error", extra={"task": self._name, "error": type(error).__name__}
            )

    def _next(self) -> T | None:
        while self._idle:
            try:
                return self._queue.get(timeout=IDLE_SECONDS)
            except Empty:
                self._idle()
        return self._queue.get()
