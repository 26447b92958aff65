"""In which order the requests of the sample are sent: each different one once, in random order, the slow ones behind.

What is slow was measured when a client sent the request to stable, before there was a candidate. So nothing that the
candidate does decides which requests are sent, or when.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median_low

from mlmodel_server.rehearsal.progress import LATEST
from mlmodel_server.rehearsal.sample import Place

ATTEMPTS = 3
"""Maximum number of times that a request is sent again because a server shed it."""

SLOW, HANDLING_MICROSECONDS = 10, 500
"""A request that took stable this many times as long as the median one is slow, with what each takes beside its
prediction."""


@dataclass(slots=True)
class _Queue:
    """Requests of one kind."""

    first: list[Place] = field(default_factory=list)
    """What the sample had at the start, in random order."""
    fresh: list[Place] = field(default_factory=list)
    """What it kept since then; the newest is last, and sent first."""
    later: list[Place] = field(default_factory=list)
    """What a side has dropped."""

    def __len__(self) -> int:
        return len(self.first) + len(self.fresh) + len(self.later)

    def next(self) -> Place | None:
        """Return the request to send next."""
        for part in (self.first, self.fresh):
            if part:
                return part[-1]
        return self.later[0] if self.later else None

    def remove(self, place: Place) -> None:
        """Remove what :meth:`next` has returned."""
        part = self.first or self.fresh or self.later
        part.remove(place) if part is self.later else part.pop()

    def retain(self, present: set[Place]) -> list[Place]:
        """Remove the requests that are not ``present``, and return them."""
        gone = [place for part in (self.first, self.fresh, self.later) for place in part if place not in present]
        if gone:
            self.first, self.fresh, self.later = (
                [place for place in part if place in present] for part in (self.first, self.fresh, self.later)
            )
        return gone


class Waiting:
    """The requests that are to be sent to one candidate."""

    def __init__(self, known: Iterable[int] = ()) -> None:
        """``known`` are the digests of what was sent before."""
        self.usual, self.slow = _Queue(), _Queue()
        self._known = dict.fromkeys(known)
        """Digests of requests that wait, or were sent: the latest ones."""
        self._attempts: dict[int, int] = {}
        self._slow_from = 0
        self._places: list[Place] = []

    def __len__(self) -> int:
        return len(self.usual) + len(self.slow)

    def start(self, places: list[Place], draw: random.Random) -> None:
        """Begin with what the sample has, in random order."""
        self.refresh(places)
        for queue in (self.usual, self.slow):
            queue.first, queue.fresh = draw.sample(queue.fresh, len(queue.fresh)), []

    def refresh(self, places: list[Place]) -> None:
        """Note which requests are new in the sample, and forget those that are gone."""
        if places == self._places:
            return
        self._places, present = places, set(places)
        for queue in (self.usual, self.slow):
            for place in queue.retain(present):
                self.forget(place)
        usual = median_low([place.microseconds for place in places]) if places else 0
        self._slow_from = SLOW * (usual + HANDLING_MICROSECONDS) - HANDLING_MICROSECONDS
        for place in sorted(places, key=lambda place: place.sequence):
            if place.digest not in self._known:
                (self.slow if self.is_slow(place) else self.usual).fresh.append(place)
            else:
                del self._known[place.digest]  # so that it is the latest again
            self._known[place.digest] = None
        while len(self._known) > LATEST:
            del self._known[next(iter(self._known))]

    def is_slow(self, place: Place) -> bool:
        """Whether a request took stable far longer than others."""
        return place.microseconds > self._slow_from

    def requeue(self, place: Place, shed: bool) -> bool:
        """Send a dropped request again, behind all others; only a few times if it was shed. Return whether."""
        self._attempts[place.digest] = count = self._attempts.get(place.digest, 0) + shed
        if count < ATTEMPTS:
            (self.slow if self.is_slow(place) else self.usual).later.append(place)
            return True
        del self._attempts[place.digest]
        return False

    def forget(self, place: Place) -> None:
        """Forget a request that cannot be read any more: if an equal one comes, it is sent."""
        self._known.pop(place.digest, None)
        self._attempts.pop(place.digest, None)
