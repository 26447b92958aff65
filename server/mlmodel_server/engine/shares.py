"""Turns in the queue before the model: under contention each source has its share of the time, however much it sends.

Start-time fair queueing: Goyal, Vin and Cheng, "Start-time Fair Queueing: A Scheduling Algorithm for Integrated Services
Packet Switching Networks", 1996. A request has a place in virtual time, which is that of the request before it of the same source plus what
that one costs, but not before the request that is served now. The lowest place is served next. So a source alone is
served in the order of arrival, and of several each gets the same time, whether it sends few large or many small
requests.
"""

from __future__ import annotations

from collections.abc import Hashable

MAX_SOURCES = 1024
"""Sources whose place is remembered. A source is forgotten when virtual time has passed its place."""


class Shares:
    """Virtual time. One thread calls :meth:`place`; another may call :meth:`served`."""

    def __init__(self) -> None:
        self._now = 0.0
        self._next: dict[Hashable, float] = {}

    def place(self, source: Hashable, cost: float) -> float:
        """Return the place of a request of ``source`` that takes ``cost`` seconds."""
        start = max(self._now, self._next.get(source, 0.0))
        if len(self._next) >= MAX_SOURCES and source not in self._next:
            self._forget()
        self._next[source] = start + cost
        return start

    def served(self, place: float) -> None:
        """Move virtual time on to the place of a request that is served."""
        self._now = max(self._now, place)

    def _forget(self) -> None:
        ahead = sorted((item for item in self._next.items() if item[1] > self._now), key=lambda item: -item[1])
        self._next = dict(ahead[: MAX_SOURCES // 2])
