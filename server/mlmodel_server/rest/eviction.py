"""Which connections are closed so that new ones can be accepted."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

C = TypeVar("C")

AT_ONCE = 32
"""Connections that are closed together when there are too many."""


@dataclass(frozen=True, slots=True)
class Standing(Generic[C]):
    """A connection without a request that is being answered."""

    connection: C
    source: Hashable
    is_idle: bool
    """False if a request has begun to arrive, or a response is not read."""
    since: float


def victims(standings: Iterable[Standing[C]], most: int) -> list[C]:
    """Return at most ``most`` connections to close: always one of the source that has most of them left; of its own, idle
    ones first, and the oldest first."""
    by_source: dict[Hashable, list[Standing[C]]] = {}
    for standing in standings:
        by_source.setdefault(standing.source, []).append(standing)
    for own in by_source.values():
        own.sort(key=lambda standing: (not standing.is_idle, standing.since), reverse=True)
    heap = [(-len(own), number, own) for number, own in enumerate(by_source.values())]
    heapify(heap)
    closed: list[C] = []
    while heap and len(closed) < most:
        _, number, own = heappop(heap)
        closed.append(own.pop().connection)
        if own:
            heappush(heap, (-len(own), number, own))
    return closed
