"""Work queue: which key is reconciled next.

A key is in the queue at most once, and two workers never process it at the same time; a change during its reconcile
makes it due again afterwards. Changes by users come before periodic reconciles.

Keys of one group (a namespace, so a tenant) are processed in the order in which they became due; groups take turns, and
one group has at most a share of the workers. So nobody waits for the many keys, edits or slow pods of another group.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import IntEnum
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


@dataclass(frozen=True)
class Pace:
    """How often a key may be processed: ``burst`` times at once, and ``per_second`` over time."""

    burst: float
    per_second: float


_REMEMBERED = 1000


def _one_group(_: object) -> Hashable:
    return None


class WorkQueue(Generic[K]):
    """A queue of keys for one event loop; nothing here blocks except ``get``.

    ``group`` returns the group of a key; ``share`` is the maximum number of keys of a group that are processed at the
    same time. A key that becomes due more often than ``pace`` waits.
    """

    def __init__(
        self,
        clock: Clock,
        backoff: Backoff | None = None,
        *,
        group: Callable[[K], Hashable] = _one_group,
        share: int | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._group, self._share, self._pace = group, share, pace
        self._due: dict[K, int] = {}  # key -> priority
        # The same by priority and group. The first group is next, and of it the first key.
        self._turns: dict[int, OrderedDict[Hashable, OrderedDict[K, None]]] = {}
        self._busy: Counter[Hashable] = Counter()  # group -> number of its keys in _working
        self._credit: dict[K, tuple[float, float]] = {}  # key -> (times that it may be processed, monotonic time)
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
        if known is not None and known <= priority:
            return
        wait = self._wait_of(key)
        if wait > 0:
            self.add_after(key, wait, priority)
            return
        if known is not None:
            self._leave(key, known)
        self._due[key] = priority
        self._turns.setdefault(priority, OrderedDict()).setdefault(self._group(key), OrderedDict())[key] = None
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
            key = self._take()
            if key is not None:
                return key
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
        self._busy[self._group(key)] -= 1
        if requeue is not None:
            self.add(key, requeue)
        if self._due:
            # A key of this group may have waited for its share.
            self._wake()

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

    def _take(self) -> K | None:
        """Return the next key, None if there is none of a group that has not all of its share."""
        self._busy += Counter()  # drops the groups that have no key in progress
        for priority in sorted(self._turns):
            for group, keys in self._turns[priority].items():
                if self._share is None or self._busy[group] < self._share:
                    key = next(iter(keys))
                    self._leave(key, priority)
                    if keys:
                        self._turns[priority].move_to_end(group)
                    del self._due[key]
                    self._working[key] = None
                    self._busy[group] += 1
                    self._spend(key)
                    return key
        return None

    def _leave(self, key: K, priority: int) -> None:
        """Remove a key from the turns of a priority."""
        turns, group = self._turns[priority], self._group(key)
        del turns[group][key]
        if not turns[group]:
            del turns[group]
        if not turns:
            del self._turns[priority]

    def _wait_of(self, key: K) -> float:
        """Return the seconds until the pace permits to process the key."""
        if self._pace is None or key not in self._credit:
            return 0.0
        return max(0.0, (1.0 - self._credit_of(key)) / self._pace.per_second)

    def _credit_of(self, key: K) -> float:
        assert self._pace is not None
        credit, at = self._credit.get(key, (self._pace.burst, 0.0))
        return min(self._pace.burst, credit + (self._clock.monotonic() - at) * self._pace.per_second)

    def _spend(self, key: K) -> None:
        """Count one processing of the key."""
        if self._pace is None:
            return
        self._credit[key] = (self._credit_of(key) - 1.0, self._clock.monotonic())
        if len(self._credit) > _REMEMBERED + 2 * len(self._working):
            burst = self._pace.burst
            self._credit = {k: v for k, v in self._credit.items() if self._credit_of(k) < burst}

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
