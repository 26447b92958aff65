"""Work queue: which key is reconciled next.

A key is in the queue at most once, and two workers never process it at the same time; a change during its reconcile
makes it due again afterwards. Changes by users come before periodic reconciles.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Hashable
from enum import IntEnum
from itertools import count
from typing import Generic, TypeVar

from mlmodel_operator.runtime.backoff import Backoff
from mlmodel_operator.runtime.clock import Clock

K = TypeVar("K", bound=Hashable)


class Priority(IntEnum):
    """A smaller number comes first."""

    EDIT = 0
    RESYNC = 10


class QueueClosed(Exception):
    """The queue is closed: no more keys."""


class WorkQueue(Generic[K]):
    """A queue of keys for one event loop; nothing here blocks except ``get``."""

    def __init__(self, clock: Clock, backoff: Backoff | None = None) -> None:
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._count = count()
        self._due: dict[K, tuple[int, int]] = {}  # key -> (priority, order)
        self._heap: list[tuple[int, int, K]] = []  # the same, sorted; entries that are not in _due are skipped
        self._later: dict[K, tuple[float, int]] = {}  # key -> (monotonic time, priority)
        self._working: dict[K, int | None] = {}  # key -> priority of its requeue afterwards; None: no requeue
        self._failures: dict[K, int] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.Task[None] | None = None
        self._timer_at = float("inf")
        self._closed = False

    def __len__(self) -> int:
        """Return the number of keys that are due."""
        return len(self._due)

    @property
    def working(self) -> int:
        """Number of keys that workers process."""
        return len(self._working)

    def add(self, key: K, priority: int = Priority.EDIT) -> None:
        """Make ``key`` due now. The more urgent of two priorities wins.

        This drops a delay of the key: the next reconcile sets a new one.
        """
        self._later.pop(key, None)
        if key in self._working:
            requeue = self._working[key]
            self._working[key] = priority if requeue is None else min(requeue, priority)
            return
        known = self._due.get(key)
        if known is not None and known[0] <= priority:
            return
        entry = (priority, known[1] if known else next(self._count))
        self._due[key] = entry
        heapq.heappush(self._heap, (*entry, key))
        self._wake()

    def add_after(self, key: K, seconds: float, priority: int = Priority.EDIT) -> None:
        """Make ``key`` due in ``seconds``; the earlier of two times wins, and a key that is due now stays due now."""
        if seconds <= 0:
            self.add(key, priority)
            return
        if key in self._due:
            return
        at = self._clock.monotonic() + seconds
        known = self._later.get(key)
        if known is not None:
            at, priority = min(at, known[0]), min(priority, known[1])
        self._later[key] = (at, priority)
        if at < self._timer_at:
            self._start_timer(at)

    async def get(self) -> K:
        """Return the next key, which no other worker gets until ``done``. Raise QueueClosed."""
        while True:
            if self._closed:
                raise QueueClosed
            if self._due:
                return self._take()
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                # Cancelled after it was woken: wake another worker, or the key would wait for the next change.
                if waiter.done() and not waiter.cancelled() and self._due:
                    self._wake()
                raise
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def done(self, key: K) -> None:
        """End the processing of ``key``; make it due again if it was added meanwhile."""
        requeue = self._working.pop(key)
        if requeue is not None:
            self.add(key, requeue)

    def retry(self, key: K, at_least: float = 0.0) -> float:
        """Make ``key`` due after its next backoff, at least ``at_least`` seconds; return that delay."""
        self._failures[key] = self._failures.get(key, 0) + 1
        delay = max(at_least, self._backoff.delay(self._failures[key]))
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """Reset the backoff of ``key`` after a success."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """Return the number of consecutive failures of ``key``."""
        return self._failures.get(key, 0)

    def close(self) -> None:
        """Close the queue: every ``get`` raises QueueClosed."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._waiters:
            self._wake()

    def _take(self) -> K:
        while True:
            priority, order, key = heapq.heappop(self._heap)
            if self._due.get(key) == (priority, order):
                del self._due[key]
                self._working[key] = None
                return key

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _start_timer(self, at: float) -> None:
        if self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().create_task(self._wait_until(at), name="queue timer")

    async def _wait_until(self, at: float) -> None:
        await self._clock.sleep(max(0.0, at - self._clock.monotonic()))
        self._timer, self._timer_at = None, float("inf")
        now = self._clock.monotonic()
        for key, (when, priority) in list(self._later.items()):
            if when <= now:
                self.add(key, priority)
        if self._later:
            self._start_timer(min(when for when, _ in self._later.values()))
