"""Work that may wait, beside requests that may not."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

SHARE = 0.1
"""Of one CPU: how much of it this work may use. It holds the interpreter, which requests need, no longer than that."""

IDLE_SECONDS = 1.0

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Background(Generic[T]):
    """A thread that works off a bounded queue, one item at a time. :meth:`start` it after the fork."""

    def __init__(
        self,
        name: str,
        work: Callable[[T], None],
        waiting: int,
        *,
        idle: Callable[[], None] | None = None,
        end: Callable[[], None] | None = None,
    ) -> None:
        """``waiting`` items fit into the queue. ``idle`` is called about once a second while there are none, ``end``
        after the last one; both in the thread."""
        self._name, self._work, self._waiting, self._idle, self._end = name, work, waiting, idle, end

    def start(self) -> None:
        """Start the thread of this process."""
        self._queue: SimpleQueue[T | None] = SimpleQueue()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def offer(self, item: T) -> bool:
        """Queue ``item``; False when there is no room for it."""
        if self._queue.qsize() >= self._waiting:
            return False
        self._queue.put(item)
        return True

    def stop(self, *, discard: bool = False, seconds: float = 0.0) -> None:
        """Take no more, work off what waits (or ``discard`` it) and end; ``seconds`` is how long to wait for that. The
        thread keeps no process alive."""
        self._ending.set()
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
                self._ending.wait((time.thread_time() - started) * (1 / SHARE - 1))
            if self._end:
                self._end()
        except Exception as error:  # a bug; its text may hold what nobody should read
            logger.error("%s has ended: internal error (%s)", self._name, type(error).__name__)

    def _next(self) -> T | None:
        while self._idle:
            try:
                return self._queue.get(timeout=IDLE_SECONDS)
            except Empty:
                self._idle()
        return self._queue.get()
