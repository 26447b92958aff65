"""The error gate: what the counts prove about the candidate, with sequential tests that may be evaluated every second.

* **Hard test**: the failures that only the candidate had are at most the limit, or at most what stable fails if that is
  more. It needs two or three failures to roll a broken version back, at any weight.
* **Difference tests** (difference.py): the candidate's failure rate exceeds that of stable by at most ``maxPercent``; a
  decision against this rolls back. And: it exceeds it by at least the limit of the next weight; a decision against this
  raises the weight.

docs/explanation/evidence.md explains them and has measured rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mlmodel_operator.api.evidence import MOST_LOG, Counts, Evidence, Segment, Sides
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.rollout.evidence import difference
from mlmodel_operator.rollout.evidence.difference import DECISIVE, PROVEN

_EXCESS = (0.01, 0.04, 0.1, 0.2, 0.5, 0.98)
"""Alternatives of the hard test: 0 is the limit, 1 a failure rate of 100 %. With 0.98, two failures of two requests are
decisive at a limit of 1 %."""
_FIRST = 0.7
"""Share of the capital that bets from the first block on. The rest begins with later blocks, so that a candidate that
turns bad after many good requests is rolled back as soon as one that is bad from the start."""
_FEW = 10
"""Requests of the candidate up to which few of stable do not raise the limit. A version that fails a few percent of its
requests hardly ever fails two of the first two, three of five or four of ten."""
_OUTCOMES, _CHANCE = 0.85, 5
"""Share of the requests with an outcome that the candidate must have, compared with stable by their weights, and how
many of few may be missing: within a block of 100 requests, the draw is not exact."""
_LARGEST_LOG = 200.0
"""Largest logarithm of evidence: its exponential is finite, and it is decisive long before."""


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


def evidence_of(log: float) -> float:
    """Return the evidence with this natural logarithm, at most e^200."""
    return math.exp(min(log, _LARGEST_LOG))


def update_hard(
    logs: tuple[float, ...], blocks: int, weight: int, block: Sides, *, max_percent: float, before: Sides
) -> tuple[float, ...]:
    """Return the state of the hard test after ``block``, the counts of requests drawn at ``weight`` since the last
    reading; ``blocks`` is the number of blocks before.

    ``before`` are the counts of all blocks before (``difference.credited``): the hypothesis must not depend on the
    tested data.
    """
    logs = logs if len(logs) == len(_EXCESS) else (math.log(_FIRST / len(_EXCESS)),) * len(_EXCESS)
    # An incident that hits both sides must not count against one: the failure rate of stable in this block, plus twice
    # its standard error, raises the limit.
    now = stable_counts(weight, block)
    rate = now.failure_rate
    rate += 2.0 * math.sqrt(max(rate * (1.0 - rate), 0.0) / max(now.requests, 1))
    rate = max(rate, before.stable.failure_rate)
    if weight < 100 and before.candidate.requests + block.candidate.requests > _FEW:
        rate = max(rate, _upper_bound(before.stable + block.stable))
    limit = min(max(max_percent / 100.0, rate), 0.99)
    n, k = block.candidate.requests, min(max(block.candidate.own, 0), block.candidate.requests)
    late = math.log((1.0 - _FIRST) / len(_EXCESS)) - math.log((blocks + 1) * (blocks + 2))
    updated = []
    for log, excess in zip(logs, _EXCESS, strict=True):
        p = limit + (1.0 - limit) * excess
        ratio = k * math.log(p / limit) + (n - k) * math.log((1.0 - p) / (1.0 - limit))
        log = difference.log_sum([log, late]) + ratio
        updated.append(round(min(max(log, -MOST_LOG), MOST_LOG), 6))
    return tuple(updated)


def _upper_bound(counts: Counts) -> float:
    """Return the failure rate (0 to 1) that stable has at most, as far as its counts show: two standard errors above
    them, and 1/2 without any."""
    failed = counts.failed + 1.0
    return (failed + 2.0 * math.sqrt(failed)) / (counts.requests + 6.0)


def stable_counts(weight: int, counts: Sides) -> Counts:
    """Return how often stable answered and failed: at a weight of 100 only what the candidate failed is sent to it."""
    if weight < 100:
        return counts.stable
    return Counts(counts.candidate.failed, counts.candidate.shared)


def figures(counts: Counts) -> str:
    """Return the number of failures among these requests, as a clause for messages."""
    shared = f", {counts.shared} of them on stable too" if counts.shared else ""
    return f"{counts.failed} of {counts.requests} requests failed{shared}"


def judge(evidence: Evidence, *, max_percent: float) -> Verdict:
    """Return the stronger evidence of the two tests against the candidate, with a message."""
    own, others = evidence.candidate, evidence.stable
    hard = evidence_of(difference.log_sum(list(evidence.state.hard)))
    above = evidence_of(difference.against(evidence.state.segments, max_percent / 100.0))
    if hard >= above:
        return Verdict(hard, Reason.ERROR_RATE, f"{figures(own)}; at most {max_percent:g} % may fail")
    return Verdict(
        above,
        Reason.ERROR_RATE_ABOVE_STABLE,
        f"{figures(own)}; stable failed {others.failed} of {others.requests} in the same time, and the candidate may"
        f" fail at most {max_percent:g} percentage points more",
    )


def limit_for(weight: int, *, max_percent: float) -> float:
    """Return by how much (0 to 1) the candidate's failure rate may exceed that of stable for it to get ``weight``.

    At a weight of 25, a candidate that fails 4 % more than stable makes 1 % more of all requests fail.
    """
    return min(max_percent / max(weight, 1), 0.5)


def is_certified(segments: tuple[Segment, ...], limit: float) -> bool:
    """Whether it is proven that the candidate's failure rate exceeds that of stable by less than ``limit`` (0 to 1)."""
    return difference.certification(segments, limit) >= math.log(PROVEN)


def expected_requests(segments: tuple[Segment, ...]) -> float:
    """Return how many requests the candidate would have an outcome of, if it had one as often as stable has."""
    return sum(
        segment.counts.stable.requests * segment.weight / (100.0 - segment.weight)
        for segment in difference.drawn(segments)
    )


def requests_with_outcome(segments: tuple[Segment, ...]) -> int:
    """Return how many requests to the candidate have an outcome, of those that were drawn for both sides."""
    return sum(segment.counts.candidate.requests for segment in difference.drawn(segments))


def has_outcomes(segments: tuple[Segment, ...]) -> bool:
    """Whether requests to the candidate have an outcome about as often as requests to stable.

    Only requests with an outcome are counted, and the tests take their two sides for random samples. A candidate that
    hides its failures breaks this: it hangs until its clients give up, or answers 404, and its other requests are good.
    The draw is exact, so the missing requests show it.
    """
    expected = expected_requests(segments)
    return requests_with_outcome(segments) >= min(_OUTCOMES * expected, expected - _CHANCE)


def lowest_limit(is_certified: Callable[[float], bool]) -> float | None:
    """Return the lowest limit, in percentage points of 0 to 50, that is certified; None without one."""
    if not is_certified(0.5):
        return None
    low, high = 0.0, 0.5
    while high - low > max(0.0001, 0.02 * high):
        middle = (low + high) / 2
        low, high = (low, middle) if is_certified(middle) else (middle, high)
    return round(100.0 * high, 2)
