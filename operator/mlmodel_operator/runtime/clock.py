"""Time as a parameter, so that tests of queues and leases are fast and not flaky."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The time functions that the operator uses."""

    def now(self) -> float:
        """Return the wall clock in Unix seconds: for times in objects of the cluster."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never jump: for durations in this process."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> float:
        """Return Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds since a fixed moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep in the event loop."""
        await asyncio.sleep(seconds)


def micro_time(unix_seconds: float) -> str:
    """Return ``unix_seconds`` as a Kubernetes MicroTime: ``2026-01-31T12:00:00.250000Z``."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
