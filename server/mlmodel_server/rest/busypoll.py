"""Busy polling: the event loop stays awake for a client that answers every answer with its next request.

Putting the thread to sleep and waking it again costs a third of the time of a small request, on a virtual machine above
all, where either is an exit to the hypervisor. So after an answer the loop looks for the next request without sleeping,
for as long as one has been coming within that time; that takes no more CPU time for a request than waking up does. A
server that is idle, or asked now and then, sleeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter

SECONDS = 0.0001
"""After an answer: how soon its client must be back, and so how long the loop stays awake for it."""

STREAK = 4
"""So many times one after the other the next request must have come that soon: at random times it hardly does."""


class BusyPoll:
    """Belongs to one event loop, which calls it on every request that it answers without waiting."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._answered = 0.0  # when nothing was left to answer; 0 while something is
        self._streak = 0
        self._polling = False

    def arrived(self, now: float) -> None:
        """A request is there since ``now``, a reading of the clock."""
        if self._answered:
            self._streak = self._streak + 1 if now - self._answered <= SECONDS else 0
            self._answered = 0.0

    def answered(self) -> None:
        """Every request that was there has been answered."""
        self._answered = self._clock()
        if self._streak >= STREAK and not self._polling:
            self._polling = True
            asyncio.get_running_loop().call_soon(self._poll)

    def _poll(self) -> None:
        """A loop that has something to call looks at its sockets without waiting."""
        if self._answered and self._clock() - self._answered <= SECONDS:
            asyncio.get_running_loop().call_soon(self._poll)
            return
        self._polling = False
        if self._answered:
            self._streak = 0
