"""Busy polling: the event loop stays awake for a client that follows every response with its next request at once.

Sleeping and waking up takes a third of the time of a small request, most on a virtual machine, where each is an exit to
the hypervisor. So after a response the loop polls for the next request without sleeping, if the requests before came
soon enough; that takes no more CPU time per request than waking up. A server with few or no requests sleeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter

SECONDS = 0.0001
"""Maximum seconds from a response to the next request, and so the time for which the loop stays awake."""

STREAK = 4
"""Number of successive requests that must come this soon before the loop polls: random ones hardly do."""


class BusyPoll:
    """Belongs to one event loop, which calls it for every request on the fast path."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._answered = 0.0  # when the last request was answered; 0 while one is in flight
        self._streak = 0
        self._polling = False

    def arrived(self, now: float) -> None:
        """Record that a request arrived at ``now``, a reading of the clock."""
        if self._answered:
            self._streak = self._streak + 1 if now - self._answered <= SECONDS else 0
            self._answered = 0.0

    def answered(self) -> None:
        """Record that all requests are answered, and start to poll after a streak."""
        self._answered = self._clock()
        if self._streak >= STREAK and not self._polling:
            self._polling = True
            asyncio.get_running_loop().call_soon(self._poll)

    def _poll(self) -> None:
        """Call this again in the next round: a loop with something to call polls its sockets without waiting."""
        if self._answered and self._clock() - self._answered <= SECONDS:
            asyncio.get_running_loop().call_soon(self._poll)
            return
        self._polling = False
        if self._answered:
            self._streak = 0
