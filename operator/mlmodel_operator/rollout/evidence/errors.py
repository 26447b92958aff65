"""The error gate: sequential tests on counts that stay valid however often they are looked at.

Each test is an e-process: the likelihood ratio of a mixture of alternatives against the hypothesis, multiplied up block
by block. Under the hypothesis it exceeds K with probability at most 1/K over the whole rollout (Ville's inequality),
so looking every second costs nothing. See docs/explanation/evidence.md for the derivation and the measured rates.

* **Absolute**: the candidate's rate of failures is at most the limit, or stable's own rate if that is higher. A request
  that the candidate rejects and stable answers is a failure too.
* **Relative**: the candidate's share of all errors is its share of the requests. An incident that hits both sides in
  the same block (a broken feature store, say) cancels. This test counts rejected requests too, for those that no
  router could retry on stable.
* **Certification**: the candidate's rate of failures is at least the limit scaled to the exposure. Rejecting
  *this* hypothesis is what lets the weight rise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlmodel_operator.api.evidence import Counts, Ledger, Sides
from mlmodel_operator.api.reasons import Reason

DECISIVE = 1000.0
"""Evidence at which a decision is taken: the chance of a wrong one is at most one in a thousand per test."""

RISK_RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 300.0)
_EXCESS = (0.01, 0.04, 0.1, 0.2, 0.5, 0.98)
"""Alternatives of the absolute test, as the part of the way from the limit to certain failure. With 0.98 two failures
of two requests are decisive at a limit of 1 %."""

_BETTER = ((0.0, 0.8), (0.25, 0.1), (0.5, 0.1))
"""Alternatives of the certification, as part of the limit, with their prior mass: most candidates make no error."""


@dataclass(frozen=True)
class Verdict:
    """Evidence against the candidate, and which test holds it."""

    against: float
    reason: Reason
    message: str

    @property
    def decisive(self) -> bool:
        """Whether the candidate is rolled back."""
        return self.against >= DECISIVE


def _mean_exp(logs: tuple[float, ...]) -> float:
    """The evidence of a uniform mixture; capped, since what is decisive need not be exact and must stay finite."""
    top = max(logs, default=0.0)
    return math.exp(min(top + math.log(sum(math.exp(x - top) for x in logs) / len(logs)), 200.0)) if logs else 1.0


def update(ledger: Ledger, block: Sides, *, max_percent: float, stable_before: Counts) -> Ledger:
    """Return the ledger after ``block``, the counts of one more stretch of time.

    ``stable_before`` are the counts of stable before the block: the hypothesis must not depend on what is tested.
    """
    # An incident that hits both sides must not count against one: what stable fails in this very block raises the
    # limit, with twice its standard error. It does not depend on the candidate's answers, so the test stays valid.
    now = block.stable.failure_rate
    now += 2.0 * math.sqrt(max(now * (1.0 - now), 0.0) / max(block.stable.requests, 1))
    limit = min(max(max_percent / 100.0, stable_before.failure_rate, now), 0.99)
    n, k = block.candidate.requests, min(block.candidate.failed, block.candidate.requests)
    absolute = ledger.absolute or (0.0,) * len(_EXCESS)
    alternatives = tuple(limit + (1.0 - limit) * excess for excess in _EXCESS)
    absolute = tuple(
        log + k * math.log(p / limit) + (n - k) * math.log((1.0 - p) / (1.0 - limit))
        for log, p in zip(absolute, alternatives, strict=True)
    )

    relative = ledger.relative or (0.0,) * len(RISK_RATIOS)
    total = block.candidate.requests + block.stable.requests
    if block.candidate.requests and block.stable.requests:
        share = block.candidate.requests / total
        own, all_errors = block.candidate.errors, block.candidate.errors + block.stable.errors
        relative = tuple(
            log + own * math.log(ratio) - all_errors * math.log1p(share * (ratio - 1.0))
            for log, ratio in zip(relative, RISK_RATIOS, strict=True)
        )
    return Ledger(absolute, relative)


def rounded(ledger: Ledger) -> Ledger:
    """Return the ledger as status keeps it: six digits are plenty for a decision at 1000."""
    return Ledger(tuple(round(log, 6) for log in ledger.absolute), tuple(round(log, 6) for log in ledger.relative))


def figures(counts: Counts) -> str:
    """Return the failures among these requests, in one clause."""
    return f"{counts.failed} of {counts.requests} requests failed"


def judge(ledger: Ledger, candidate: Counts, stable: Counts, *, max_percent: float, rejected: int = 0) -> Verdict:
    """Return the stronger evidence of the two tests, in words with figures.

    ``rejected`` of the candidate's failures are requests that it rejected with 4xx and stable answered. The relative
    test counts only when the excess that was observed is above the limit: with enough requests even a harmless
    difference is certain, and certainty is not harm.
    """
    absolute = _mean_exp(ledger.absolute)
    excess = 100.0 * (candidate.error_rate - stable.error_rate)
    relative = _mean_exp(ledger.relative) if excess > max_percent else 1.0
    if absolute >= relative:
        how = f" ({rejected} were rejected with 4xx, and answered by stable)" if rejected > 0 else ""
        return Verdict(
            absolute,
            Reason.ERROR_RATE,
            f"{figures(candidate)}{how}, and at most {max_percent:g} % may",
        )
    return Verdict(
        relative,
        Reason.ERROR_RATE_ABOVE_STABLE,
        f"{candidate.errors} of {candidate.requests} requests were answered with an error, and {stable.errors} of"
        f" {stable.requests} by stable in the same time",
    )


def limit_for(weight: int, *, max_percent: float, stable: Counts) -> float:
    """Return the error rate (0 to 1) that the candidate must be proven to stay below before it gets ``weight`` percent.

    The exposure is what counts: at 25 % of the requests a candidate that fails 4 % of them makes 1 % of all fail.
    """
    return min(stable.failure_rate + max_percent / max(weight, 1), 0.5)


def certified(candidate: Counts, limit: float) -> bool:
    """Whether it is proven that the candidate fails less than ``limit`` (0 to 1) of its requests."""
    n, k = candidate.requests, candidate.failed
    evidence = 0.0
    for part, mass in _BETTER:
        if part == 0.0:
            log = -math.inf if k else -n * math.log1p(-limit)
        else:
            p = part * limit
            log = k * math.log(part) + (n - k) * (math.log1p(-p) - math.log1p(-limit))
        evidence += mass * math.exp(min(log, 200.0))
    return evidence >= DECISIVE


def missing_requests(candidate: Counts, limit: float) -> int:
    """Return how many more requests without a failure would certify ``limit``; 0 when it is certified."""
    low, high = 0, 1
    while not certified(candidate + Counts(high), limit):
        low, high = high, high * 2
        if high > 10_000_000:
            return high
    if certified(candidate, limit):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if certified(candidate + Counts(middle), limit) else (middle, high)
    return high


def certified_percent(candidate: Counts) -> float | None:
    """Return the lowest error rate, in percent to two digits, that is proven not to be reached; None without one."""
    if not certified(candidate, 0.5):
        return None
    low, high = 0.0, 0.5
    while high - low > 0.00005:
        middle = (low + high) / 2
        low, high = (low, middle) if certified(candidate, middle) else (middle, high)
    return round(100.0 * high, 2)
