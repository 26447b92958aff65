"""Likelihoods of counts: what the tests of two shares have in common.

The evidence of such a test is the mean likelihood of the counts over all shares, divided by the largest likelihood of
the shares that the hypothesis permits. The mean exceeds K times the likelihood of the true shares with a probability of
at most 1/K during the whole rollout (Ville's inequality). If the hypothesis is true, the largest likelihood is at least
that of the true shares, so the evidence exceeds K just as rarely (Wasserman, Ramdas, Balakrishnan 2020: universal
inference). It depends only on counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def log_mean(prior: Sequence[float], counts: Sequence[int]) -> float:
    """Return the logarithm of the mean likelihood of the counts, if the shares have a Dirichlet distribution with the
    parameters ``prior``."""
    log = math.lgamma(sum(prior)) - math.lgamma(sum(prior) + sum(counts))
    for weight, count in zip(prior, counts, strict=True):
        log += math.lgamma(weight + count) - math.lgamma(weight)
    return log


def log_power(count: int, share: float) -> float:
    """Return the logarithm of ``share ** count``."""
    if not count:
        return 0.0
    return count * math.log(share) if share > 0.0 else -math.inf
