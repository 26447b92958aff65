"""Time to wait before a retry."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with full jitter: uniform between 0 and ``base * 2**failures`` seconds, at most ``cap``.

    Full jitter spreads retries of calls that failed at the same moment (an API server that restarts) better than a
    jitter around the exponential delay. Tests seed ``rng``.
    """

    base: float = 0.5
    cap: float = 300.0
    rng: random.Random = field(default_factory=random.Random)

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after ``failures`` consecutive failures (1 is the first)."""
        # The exponent is bounded, so that a key that fails for weeks does not overflow a float.
        return self.rng.uniform(0, min(self.cap, self.base * 2.0 ** min(failures, 64)))
