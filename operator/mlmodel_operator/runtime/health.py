"""Who is alive: each part of the process promises when it will next be heard of, and probes ask whether it was."""

from __future__ import annotations

from mlmodel_operator.runtime.clock import Clock


class Heartbeats:
    """Promises by name. A part that hangs breaks its promise; one that has nothing to do makes none."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._deadlines: dict[str, float] = {}

    def beat(self, name: str, within: float) -> None:
        """``name`` is alive, and will be heard of again within so many seconds."""
        self._deadlines[name] = self._clock.monotonic() + within

    def rest(self, name: str) -> None:
        """``name`` is waiting for work and promises nothing."""
        self._deadlines.pop(name, None)

    def late(self) -> list[str]:
        """The names that have broken their promise."""
        now = self._clock.monotonic()
        return sorted(name for name, deadline in self._deadlines.items() if deadline < now)
