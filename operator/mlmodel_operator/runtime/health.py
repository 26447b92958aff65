"""Heartbeats: each part of the process reports until when it will send the next one, and probes check that it did."""

from __future__ import annotations

from mlmodel_operator.runtime.clock import Clock


class Heartbeats:
    """Deadlines by part. A part that hangs misses its deadline; one that waits for work has none."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._deadlines: dict[str, float] = {}

    def beat(self, name: str, within: float) -> None:
        """Record that ``name`` is alive, and will send its next heartbeat within so many seconds."""
        self._deadlines[name] = self._clock.monotonic() + within

    def rest(self, name: str) -> None:
        """Record that ``name`` waits for work and sends no heartbeat."""
        self._deadlines.pop(name, None)

    def late(self) -> list[str]:
        """Return the parts that have missed their deadline."""
        now = self._clock.monotonic()
        return sorted(name for name, deadline in self._deadlines.items() if deadline < now)
