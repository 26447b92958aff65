"""How long to wait before trying again."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with full jitter: uniform between 0 and ``base * 2**failures`` seconds, at most ``cap``.

    Full jitter spreads a crowd that failed at the same moment (an API server that restarts) better than a jitter around
    the doubling. ``rng`` is seeded in tests.
    """

    base: float = 0.5
    cap: float = 300.0
    rng: random.Random = field(default_factory=random.Random)

    def delay(self, failures: int) -> float:
        """Seconds to wait after ``failures`` failures in a row (1 is the first)."""
        # The exponent is bounded so that a key failing for weeks does not overflow a float.
        return self.rng.uniform(0, min(self.cap, self.base * 2.0 ** min(failures, 64)))
