"""Evidence that an event happens in more than some share of all cases: the test that several gates need.

The hypothesis is that each case has the event with a probability of at most ``limit``. The evidence is the mean of the
likelihood ratios of several larger probabilities. Each ratio has an expected value of at most 1 if the hypothesis is
true, and depends only on how many cases had the event. So the evidence exceeds K with a probability of at most 1/K,
however often it is evaluated (Ville's inequality), and needs no state beside the counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from mlmodel_operator.rollout.evidence.difference import log_sum

_EXCESSES = ((0.02, 0.05), (0.1, 0.1), (0.3, 0.25), (0.6, 0.35), (0.97, 0.25))
"""Larger probabilities on which the test bets, each with its share of the evidence: 0 is the limit, 1 is certainty."""
_SMALLEST, _LARGEST = 0.001, 0.999
"""Bounds of a limit: with 0, one case would decide, and with 1, none could."""


def above(events: int, cases: int, limit: float) -> float:
    """Return the natural logarithm of the evidence that more than ``limit`` (0 to 1) of the cases have the event."""
    if cases == 0 or limit >= 1.0:
        return 0.0
    limit = min(max(limit, _SMALLEST), _LARGEST)
    logs = []
    for excess, weight in _EXCESSES:
        p = limit + (1.0 - limit) * excess
        ratio = events * math.log(p / limit) + (cases - events) * math.log((1.0 - p) / (1.0 - limit))
        logs.append(math.log(weight) + ratio)
    return log_sum(logs)


def upper(events: int, cases: int) -> float:
    """Return the share (0 to 1) of cases with the event that there is at most, as far as the counts show: about two
    standard errors above the observed one, and 1/2 without any case."""
    return min((math.sqrt(events) + 1.0) ** 2 / (cases + 2.0), 1.0)


def beyond(bins: Mapping[str, int], edge: float) -> int:
    """Return how many numbers of a histogram are certainly above ``edge``, in units of its bins: those of bins whose
    lower edge is at least ``edge``. A bin contains the numbers that round to its name."""
    return sum(number for name, number in bins.items() if int(name) - 0.5 >= edge)


def median(bins: Mapping[str, int]) -> int | None:
    """Return the bin with the median of a histogram; None without numbers."""
    half = (sum(bins.values()) + 1) // 2
    for name in sorted(bins, key=int):
        half -= bins[name]
        if half <= 0:
            return int(name)
    return None
