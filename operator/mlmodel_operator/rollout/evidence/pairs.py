"""The error gate on pairs: requests of stable that both versions were sent, and who answered them.

* **Against the candidate**: of the requests that at least one side answers, the candidate fails at most ``maxPercent``
  points more than stable (the test of likelihood.py, of three counts).
* **Certification**: the candidate fails at least ``limit`` points more than stable. A bet against it, as in
  difference.py.

A pair in which both sides failed counts for neither side, and proves nothing about the candidate.
docs/adr/0024-gates-on-pairs.md has the alternatives and the measurements.
"""

from __future__ import annotations

import math

from mlmodel_operator.api.evidence import Outcomes, Pairs, Segment
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.rollout.evidence import difference, errors
from mlmodel_operator.rollout.evidence.difference import PROVEN, log_sum
from mlmodel_operator.rollout.evidence.errors import Verdict, evidence_of
from mlmodel_operator.rollout.evidence.likelihood import log_mean, log_power

_PRIOR = (1.0, 0.05, 1.0)
"""Dirichlet distribution of the rates on which the test bets: failed only on the candidate, only on stable, neither."""
_USUAL = 0.01
"""Share of the pairs that stable alone fails, up to which a good candidate is rejected with a probability of at most
1/1000. Stable hardly ever fails more while the candidate does not, and to allow for every such rate alike would cost
twice the pairs: so the bound is x/1000 if it fails x times as many. docs/adr/0024-gates-on-pairs.md has the
measurements."""

_BETS = ((0.999, 0.7), (0.5, 0.2), (0.2, 0.1))
"""Bets of the certification, as parts of the largest possible one, each with its share of the initial capital. The
smaller ones certify a candidate with a few failures."""
_CREDITED_SHARE = 0.05
"""Share of the pairs up to which failures of stable alone speak for the candidate: an outage of stable must not certify
a bad candidate."""


def judge(pairs: Pairs, *, max_percent: float) -> Verdict:
    """Return the evidence that the candidate fails more of the requests than ``max_percent`` points beyond stable."""
    found = pairs.pairs
    log = against(found, max_percent / 100.0)
    return Verdict(
        evidence_of(log),
        Reason.REHEARSAL_ERRORS,
        f"{found.candidate_failed} of {found.answered} repeated requests failed on it and not on stable,"
        f" {found.own_failed} on stable and not on it; it may fail at most {max_percent:g} percentage points more",
    )


def against(pairs: Outcomes, margin: float) -> float:
    """Return the natural logarithm of the evidence that the candidate fails more than ``margin`` (0 to 1) beyond
    stable."""
    own, others, rest = pairs.candidate_failed, pairs.own_failed, pairs.both
    if own <= others + margin * pairs.answered:
        return 0.0
    return log_mean(_PRIOR, (own, others, rest)) - _largest_likelihood(own, others, rest, margin)


def _largest_likelihood(own: int, others: int, rest: int, margin: float) -> float:
    """Return the logarithm of the largest likelihood of the counts if the candidate fails ``margin`` beyond stable.

    A rate x of stable above the usual one has the weight ``_USUAL / x``.
    """

    def log_likelihood(x: float) -> float:
        log = log_power(own, x + margin) + log_power(others, x) + log_power(rest, 1.0 - margin - 2.0 * x)
        return log - max(math.log(x / _USUAL), 0.0) if x > 0.0 else log

    highest = (1.0 - margin) / 2.0
    rates = [0.0, _USUAL, highest]
    for power in (others, others - 1):
        # Where the derivative is 0: of the likelihood, and of the likelihood with the weight.
        a = 2.0 * (own + power + rest)
        b = (own + power) * (1.0 - margin) - 2.0 * margin * (power + rest)
        root = math.sqrt(max(b * b + 4.0 * a * power * margin * (1.0 - margin), 0.0))
        rates += [(b + root) / (2.0 * a), (b - root) / (2.0 * a)] if a > 0.0 else []
    return max(log_likelihood(x) for x in rates if 0.0 <= x <= highest)


# -------------------------------------------------------------------------------------------------------- certification


def certification(pairs: Outcomes, limit: float) -> float:
    """Return the natural logarithm of the evidence that the candidate fails less than ``limit`` (0 to 1) beyond
    stable."""
    own = pairs.candidate_failed
    others = min(pairs.own_failed, math.ceil(_CREDITED_SHARE * pairs.answered))
    rest = pairs.answered - own - others
    logs = []
    for part, share in _BETS:
        bet = part / (1.0 - limit)
        log = math.log(share) + rest * math.log1p(bet * limit)
        log += own * math.log1p(bet * (limit - 1.0)) + others * math.log1p(bet * (limit + 1.0))
        logs.append(log)
    return log_sum(logs)


def is_certified(pairs: Pairs, limit: float) -> bool:
    """Whether the pairs alone prove that the candidate fails less than ``limit`` (0 to 1) beyond stable."""
    return certification(pairs.pairs, limit) >= math.log(PROVEN)


def is_proven(segments: tuple[Segment, ...], pairs: Pairs, limit: float) -> bool:
    """Whether a step has its proof, by live requests, by pairs or by both: that the candidate exceeds stable by less
    than ``limit`` (0 to 1)."""
    return both(segments, pairs, limit) >= math.log(PROVEN) and errors.has_outcomes(segments)


def both(segments: tuple[Segment, ...], pairs: Pairs, limit: float) -> float:
    """Return the natural logarithm of the evidence of live requests and pairs together.

    It is the mean of the two, which is evidence too however they depend on each other. Their product is not: live
    requests are repeated as well, so both would count the same request.
    """
    logs = [difference.certification(segments, limit)] if difference.total(segments).requests else []
    logs += [certification(pairs.pairs, limit)] if pairs.pairs.answered else []
    return log_sum(logs) - math.log(max(len(logs), 1))


def certified_percent(segments: tuple[Segment, ...], pairs: Pairs) -> float | None:
    """Return by how many percentage points the candidate is proven to exceed stable's failure rate at most; None
    without proof."""
    return errors.lowest_limit(lambda limit: both(segments, pairs, limit) >= math.log(PROVEN))
