"""Memory for requests and responses, charged for the bytes that exist, and shared by the sources of requests.

A declared length is a promise and takes no memory, so nothing is reserved for it. When the memory is used up, requests that are still arriving,
and responses that their clients do not read, give way: first those of which less than 1 KiB has moved in a
second, then those of the source that holds most.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from types import TracebackType

from mlmodel_server.engine.batching import Overloaded

RESERVED = 4
"""One part in this many of the memory is for sources that hold less than that: what a source has sent completely cannot
be taken back from it, so it never gets everything."""

STALLED = 1.0
"""Seconds after which a request or response of which less than :data:`MOVED` came or went gives way to any other."""

MOVED = 1024
"""Bytes."""

Shed = Callable[[Overloaded], None]
"""Ends what holds the memory; it must close its :class:`Held` before it returns."""


def too_large() -> Overloaded:
    """Return the error of a request for which there is no memory."""
    return Overloaded("too many large requests at once: retry after 1 s", 429, "memory")


class Held:
    """The memory of one request or response. A context manager that gives it back."""

    __slots__ = ("_budget", "fresh", "moved", "shed", "size", "source")

    def __init__(self, budget: Budget, source: object, shed: Shed | None) -> None:
        self._budget, self.source, self.shed = budget, source, shed
        self.size = 0
        self.moved = budget.clock()
        """When it last moved; a reading of the clock of the budget."""
        self.fresh = 0
        """Bytes since then."""

    def grow(self, size: int) -> None:
        """Take ``size`` more bytes. Raise :class:`Overloaded` if there is no room, and no source that holds more than
        this one and can give way."""
        self._budget.take(self, size)

    def force(self, size: int) -> None:
        """Record ``size`` more bytes that exist already. Others may have to give way for them."""
        self._budget.take(self, size, must=True)

    def shrink(self, size: int) -> None:
        """Give back all but ``size`` bytes."""
        self._budget.shrink(self, size)

    def close(self) -> None:
        """Give all of it back."""
        self._budget.give(self)

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Budget:
    """The memory of one worker for what it receives, decodes and has not sent yet. Belongs to its event loop."""

    def __init__(self, limit: int, clock: Callable[[], float] = monotonic) -> None:
        """``limit`` is in bytes. A single request always gets its memory: its own limit bounds it."""
        self.limit, self.clock = limit, clock
        self.used = 0
        self._holders: dict[object, dict[Held, None]] = {}
        self._totals: dict[object, int] = {}

    def hold(self, source: object, size: int = 0, shed: Shed | None = None) -> Held:
        """Return memory of ``size`` bytes for a source; ``shed`` ends it, if it can be ended. See :meth:`Held.grow`."""
        held = Held(self, source, shed)
        if size:
            held.grow(size)
        return held

    def take(self, held: Held, size: int, *, must: bool = False) -> None:
        """See :meth:`Held.grow` and :meth:`Held.force`."""
        self._moved(held, size)
        if must:
            self._add(held, size)
            size = 0
        while self._lacks(held, size):
            victim = self._victim(held, size)
            if victim is None:
                if must:
                    return
                raise too_large()
            assert victim.shed is not None, "only what can be ended is a victim"
            victim.shed(too_large())
            self.give(victim)
        if not must:
            self._add(held, size)

    def _lacks(self, held: Held, size: int) -> bool:
        if self.used == held.size:  # of everything
            return False
        reserved = self.limit // RESERVED
        is_large = self._totals.get(held.source, 0) + size > reserved
        return self.used + size > (self.limit - reserved if is_large else self.limit)

    def give(self, held: Held) -> None:
        """See :meth:`Held.close`."""
        holders = self._holders.get(held.source)
        if holders is None or held not in holders:
            return
        del holders[held]
        self.used -= held.size
        self._totals[held.source] -= held.size
        held.size = 0
        if not holders:
            del self._holders[held.source], self._totals[held.source]

    def shrink(self, held: Held, size: int) -> None:
        """See :meth:`Held.shrink`."""
        if size < held.size:
            self._moved(held, held.size - size)
            self.used -= held.size - size
            self._totals[held.source] -= held.size - size
            held.size = size

    def _moved(self, held: Held, size: int) -> None:
        held.fresh += size
        if held.fresh >= MOVED:
            held.moved, held.fresh = self.clock(), 0

    def _add(self, held: Held, size: int) -> None:
        self._holders.setdefault(held.source, {})[held] = None
        self._totals[held.source] = self._totals.get(held.source, 0) + size
        held.size += size
        self.used += size

    def _victim(self, held: Held, size: int) -> Held | None:
        """Return what ends so that ``held`` gets ``size`` more bytes; None if nothing may end for it."""
        now = self.clock()
        endable = [
            other
            for holders in self._holders.values()
            for other in holders
            if other.shed is not None and other is not held
        ]
        stalled = [other for other in endable if now - other.moved > STALLED]
        if stalled:
            return max(stalled, key=lambda other: other.size)
        mine = self._totals.get(held.source, 0) + size
        larger = [other for other in endable if self._totals[other.source] > mine]
        return max(larger, key=lambda other: (self._totals[other.source], other.size), default=None)
