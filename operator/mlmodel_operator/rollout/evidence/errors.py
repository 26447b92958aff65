"""The error gate: sequential tests on counts, whose results are valid however often they are evaluated.

Each test is an e-process: the likelihood ratio of a mixture of alternatives against the hypothesis, multiplied block by
block. If the hypothesis is true, it exceeds K with a probability of at most 1/K during the whole rollout (Ville's
inequality), so the operator may evaluate it every second. docs/explanation/evidence.md has sources and measured rates.

* **Absolute**: the candidate's failure rate is at most the limit, or at most that of stable if it is higher. A request
  that the candidate rejects and stable accepts is a failure too.
* **Relative**: the candidate's share of all errors is its share of the requests. An incident that hits both sides in
  the same block (such as a broken feature store) has no effect. This test also counts rejected requests, because no
  router could retry some of them on stable.
* **Certification**: the candidate's failure rate is at least the limit of the next weight. The weight rises when
  *this* hypothesis is rejected.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlmodel_operator.api.evidence import Counts, Ledger, Sides
from mlmodel_operator.api.reasons import Reason

DECISIVE = 1000.0
"""Likelihood ratio at which a test decides: it is wrong with a probability of at most 1/1000."""

RISK_RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 300.0)
_EXCESS = (0.01, 0.04, 0.1, 0.2, 0.5, 0.98)
"""Alternatives of the absolute test: 0 is the limit, 1 a failure rate of 100 %. With 0.98, two failures of two requests
are decisive at a limit of 1 %."""

_BETTER = ((0.0, 0.8), (0.25, 0.1), (0.5, 0.1))
"""Alternatives of the certification, as fractions of the limit, with their prior weight: most candidates never fail."""


@dataclass(frozen=True)
class Verdict:
    """Evidence against the candidate, and the test that has it."""

    against: float
    reason: Reason
    message: str

    @property
    def is_decisive(self) -> bool:
        """Whether the evidence is enough for a rollback."""
        return self.against >= DECISIVE


def _mean_exp(logs: tuple[float, ...]) -> float:
    """Return the evidence of a uniform mixture, at most e^200: it must stay finite, and is decisive long before."""
    top = max(logs, default=0.0)
    return math.exp(min(top + math.log(sum(math.exp(x - top) for x in logs) / len(logs)), 200.0)) if logs else 1.0


def update(ledger: Ledger, block: Sides, *, max_percent: float, stable_before: Counts) -> Ledger:
    """Return the ledger after ``block``, the counts since the last reading.

    ``stable_before`` are the counts of stable before the block: the hypothesis must not depend on the tested data.
    """
    # An incident that hits both sides must not count against one: the failure rate of stable in this block, plus twice
    # its standard error, raises the limit. It does not depend on the candidate's responses, so the test stays valid.
    now = block.stable.failure_rate
    now += 2.0 * math.sqrt(max(now * (1.0 - now), 0.0) / max(block.stable.requests, 1))
    limit = min(max(max_percent / 100.0, stable_before.failure_rate, now), 0.99)
    n, k = block.candidate.requests, min(block.candidate.failed, block.candidate.requests)
    absolute = _logs(ledger.absolute, len(_EXCESS))
    alternatives = tuple(limit + (1.0 - limit) * excess for excess in _EXCESS)
    absolute = tuple(
        log + k * math.log(p / limit) + (n - k) * math.log((1.0 - p) / (1.0 - limit))
        for log, p in zip(absolute, alternatives, strict=True)
    )

    relative = _logs(ledger.relative, len(RISK_RATIOS))
    total = block.candidate.requests + block.stable.requests
    if block.candidate.requests and block.stable.requests:
        share = block.candidate.requests / total
        own, all_errors = block.candidate.errors, block.candidate.errors + block.stable.errors
        relative = tuple(
            log + own * math.log(ratio) - all_errors * math.log1p(share * (ratio - 1.0))
            for log, ratio in zip(relative, RISK_RATIOS, strict=True)
        )
    return Ledger(absolute, relative)


def _logs(stored: tuple[float, ...], count: int) -> tuple[float, ...]:
    """Return the stored logarithms, or zeros if they are not one per alternative of this release."""
    return stored if len(stored) == count else (0.0,) * count


def round_ledger(ledger: Ledger) -> Ledger:
    """Return the ledger as status stores it: six digits are enough for a decision at 1000."""
    return Ledger(tuple(round(log, 6) for log in ledger.absolute), tuple(round(log, 6) for log in ledger.relative))


def figures(counts: Counts) -> str:
    """Return the number of failures among these requests, as a clause for messages."""
    return f"{counts.failed} of {counts.requests} requests failed"


def judge(ledger: Ledger, candidate: Counts, stable: Counts, *, max_percent: float, rejected: int = 0) -> Verdict:
    """Return the stronger evidence of the two tests, with a message.

    ``rejected`` of the candidate's failures are requests that it rejected with 4xx and stable accepted. The relative
    test counts only if the candidate's error rate exceeds that of stable by more than ``max_percent``: with enough
    requests even a harmless difference is certain.
    """
    absolute = _mean_exp(ledger.absolute)
    excess = 100.0 * (candidate.error_rate - stable.error_rate)
    relative = _mean_exp(ledger.relative) if excess > max_percent else 1.0
    if absolute >= relative:
        how = f" ({rejected} were rejected with 4xx, and accepted by stable)" if rejected > 0 else ""
        return Verdict(
            absolute,
            Reason.ERROR_RATE,
            f"{figures(candidate)}{how}; at most {max_percent:g} % may fail",
        )
    return Verdict(
        relative,
        Reason.ERROR_RATE_ABOVE_STABLE,
        f"{candidate.errors} of {candidate.requests} requests were rejected or failed; stable rejected or failed"
        f" {stable.errors} of {stable.requests} in the same time",
    )


def limit_for(weight: int, *, max_percent: float, stable: Counts) -> float:
    """Return the failure rate (0 to 1) that the candidate must be proven to stay below before it gets ``weight``.

    At a weight of 25, a candidate that fails 4 % of what it gets makes 1 % of all requests fail.
    """
    return min(stable.failure_rate + max_percent / max(weight, 1), 0.5)


def is_certified(candidate: Counts, limit: float) -> bool:
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
    """Return how many more requests without a failure would certify ``limit`` (0 to 1); 0 if it is certified."""
    low, high = 0, 1
    while not is_certified(candidate + Counts(high), limit):
        low, high = high, high * 2
        if high > 10_000_000:
            return high
    if is_certified(candidate, limit):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_certified(candidate + Counts(middle), limit) else (middle, high)
    return high


def certified_percent(candidate: Counts) -> float | None:
    """Return the failure rate, in percent, that the candidate is proven to stay below; None without proof."""
    if not is_certified(candidate, 0.5):
        return None
    low, high = 0.0, 0.5
    while high - low > 0.00005:
        middle = (low + high) / 2
        low, high = (low, middle) if is_certified(candidate, middle) else (middle, high)
    return round(100.0 * high, 2)
