"""Time as a parameter, so that tests of queues and leases take no time and cannot be flaky."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the operator knows of time."""

    def now(self) -> float:
        """Wall clock in Unix seconds: for what is written down and read by others."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump: for measuring durations in this process."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some fixed moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep in the event loop."""
        await asyncio.sleep(seconds)


def micro_time(unix_seconds: float) -> str:
    """``unix_seconds`` as a Kubernetes MicroTime, e.g. ``2026-01-31T12:00:00.250000Z``."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
