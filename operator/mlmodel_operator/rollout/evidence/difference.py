"""Tests of the difference between the failure rates of candidate and stable, valid at any failure rate of both.

The router draws at random, with a known weight w (0 to 1), who answers a request. So for each request

    X = 1/w if the candidate failed it, -1/(1-w) if stable failed it, else 0

has the expected value of the difference between the two failure rates, also while something else fails requests of
both: a node without CPU, a broken feature store, a client with poisonous requests. A test is a bet against a hypothesis
about this difference: each request multiplies a capital by ``1 + bet * (X - hypothesis)``, or the mirror image. If the
hypothesis is true, the capital exceeds K with a probability of at most 1/K during the whole rollout (Ville's
inequality), so the operator may evaluate it every second. The router's blocks of 100 draws without replacement only
make this more improbable: docs/adr/0016-difference-tests.md has the proof, the choice of the bets and the measurements.

Within a segment a bet is fixed, so the capital depends on four numbers only, and the tests are computed from the
segments again in every decision: edited gates and steps apply at once, to all requests of the rollout.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import replace

from mlmodel_operator.api.evidence import Counts, Segment, Sides

DECISIVE = 1000.0
"""Evidence at which a candidate is rolled back: wrong in at most 1 of 1000 rollouts of a good candidate."""
PROVEN = 300.0
"""Evidence at which the weight rises: wrong in at most 1 of 300 rollouts of a candidate that is just as much worse as
the limit. Lower than ``DECISIVE``: the tests go on after a promotion, while a rollback is remembered."""

_PARTS = ((1.0, 0.9), (0.4, 0.1))
"""Sizes of the bets of the certification, as parts of the best bet on no difference, each with its share of the initial
capital. The smaller one certifies a candidate that is a little worse than stable."""
_EXCESSES = (0.01, 0.04, 0.15, 0.6)
"""Differences above the limit on which the test for a rollback bets, each with an equal share."""

_PRIOR_REQUESTS, _PRIOR_FAILURES = 100, 0.25
"""What the bets assume before the first request: without it, one failure would cost the whole capital."""
_GROWTH = 0.5
"""A segment ends when it has this many times the requests of all before, so there are few of them, and a rate that
changes is noticed."""
_SHORTEST = 200
_MOST_SEGMENTS = 60
_CREDITED_RATE = 0.05
"""Failure rate of stable that speaks for the candidate at once; one above it only if it lasts."""


def total(segments: Iterable[Segment]) -> Sides:
    """Return the counts of all segments."""
    counts = [segment.counts for segment in segments]
    return Sides(Counts.sum_of(item.candidate for item in counts), Counts.sum_of(item.stable for item in counts))


def at_weight(segments: Iterable[Segment], weight: int) -> Sides:
    """Return the counts of the requests that were drawn at this weight (percent)."""
    return total(segment for segment in segments if segment.weight == weight)


def add(segments: tuple[Segment, ...], weight: int, block: Sides) -> tuple[Segment, ...]:
    """Return the segments with ``block``, the counts of requests drawn at ``weight``, in the last one of that
    weight."""
    # While stable alone has an outage, each candidate is better: that must not promote a bad one. So failures of stable
    # speak for the candidate only up to twice the rate before, which lets a rate that lasts count in full after a
    # while.
    most = math.ceil(max(_CREDITED_RATE, 2.0 * credited(segments).stable.failure_rate) * block.stable.requests)
    credit = min(block.stable.failed, most)
    last = max((index for index, item in enumerate(segments) if item.weight == weight), default=None)
    if last is not None:
        segment = segments[last]
        before = total(segments).requests - segment.counts.requests
        if len(segments) >= _MOST_SEGMENTS or segment.counts.requests < max(_SHORTEST, _GROWTH * before):
            counts = segment.counts + block
            grown = replace(segment, counts=counts, credited=min(segment.credited + credit, counts.stable.failed))
            return (*segments[:last], grown, *segments[last + 1 :])
    known = total(segments)
    if weight == 100:
        known = Sides(known.candidate)
    return (*segments, Segment(weight, float(f"{assumed_rate(known):.6g}"), block, credit))


def credited(segments: Iterable[Segment]) -> Sides:
    """Return the counts of all segments, without those failures of stable that do not speak for the candidate."""
    counts = total(segments := tuple(segments))
    failed = sum(segment.credited for segment in segments)
    return Sides(counts.candidate, Counts(counts.stable.requests, min(failed, counts.stable.failed)))


def assumed_rate(counts: Sides) -> float:
    """Return the failure rate of both sides (0 to 1) that the next bets assume after these counts."""
    failed = counts.candidate.failed + counts.stable.failed
    return min(max(failed + _PRIOR_FAILURES, _PRIOR_FAILURES) / (counts.requests + _PRIOR_REQUESTS), 1.0)


def certification(segments: tuple[Segment, ...], limit: float) -> float:
    """Return the natural logarithm of the evidence that the candidate's failure rate exceeds that of stable by less
    than ``limit`` (0 to 1)."""
    logs = []
    for part, share in _PARTS:
        log = math.log(share)
        for segment in segments:
            counts = segment.counts
            bets = _for_certification(segment.weight, segment.rate, limit, part)
            log += _log_capital(counts.requests, counts.candidate.failed, segment.credited, *bets)
        logs.append(log)
    return log_sum(logs)


def growth(weight: int, *, rate: float, excess: float, limit: float) -> float:
    """Return by how much ``certification`` grows per request (of both sides) at ``weight`` percent, in the long run, if
    both sides fail ``rate`` (0 to 1) of their requests and the candidate ``excess`` more."""
    w = weight / 100.0
    best = -math.inf
    for part, _ in _PARTS:
        none, own, others = _for_certification(weight, rate, limit, part)
        best = max(best, none + w * (rate + excess) * (own - none) + (1.0 - w) * rate * (others - none))
    return best


@functools.lru_cache(4096)
def _for_certification(weight: int, rate: float, limit: float, part: float) -> tuple[float, float, float]:
    """Return what one request adds to the logarithm of the capital: one that succeeded, one that the candidate failed,
    and one that stable failed."""
    w, p = weight / 100.0, rate
    if weight == 100:
        # Stable gets no draw. But a candidate that fails less than the limit exceeds no stable by the limit.
        bet = part * 0.999 * max(limit - p, 0.0) / (limit * (1.0 - limit))
        return math.log1p(bet * limit), math.log1p(bet * (limit - 1.0)), 0.0
    # The bet that grows fastest (Kelly) if both sides fail p: all capital if p is 0, and limit/variance if p is large.
    bet = part * 0.999 * limit / (p / (w * (1.0 - w)) + limit * (1.0 / w - limit))
    return (
        math.log1p(bet * limit),
        math.log1p(bet * (limit - 1.0 / w)),
        math.log1p(bet * (limit + 1.0 / (1.0 - w))),
    )


def drawn(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Return the segments in which requests were drawn for both sides."""
    return tuple(segment for segment in segments if segment.weight < 100)


def against(segments: tuple[Segment, ...], margin: float) -> float:
    """Return the natural logarithm of the evidence that the candidate's failure rate exceeds that of stable by more
    than ``margin`` (0 to 1).

    A part of the capital starts to bet with each segment, so that a candidate that turns bad late is rolled back soon.

    A request that the client gave up before stable could answer counts as a failure of stable: otherwise a client could
    send requests that both fail, and give up between the times that the two take to fail.
    """
    parts = []
    for number, segment in enumerate(drawn(segments), 1):
        own, stable = segment.counts.candidate, segment.counts.stable
        numbers = own.requests + stable.requests + stable.left, own.failed, stable.failed + stable.left
        # Half of the capital bets from the first segment on, the rest from later ones: together it is one.
        share = 0.5 if number == 1 else 0.5 / (number * (number - 1))
        parts.append((segment, numbers, math.log(share / len(_EXCESSES))))
    logs = []
    for excess in _EXCESSES:
        log = 0.0
        for segment, numbers, initial in reversed(parts):
            log += _log_capital(*numbers, *_for_rollback(segment.weight, segment.rate, margin, excess))
            logs.append(log + initial)
    return log_sum(logs)


@functools.lru_cache(4096)
def _for_rollback(weight: int, rate: float, margin: float, excess: float) -> tuple[float, float, float]:
    """Return the same three numbers for the mirrored bet."""
    w, p = weight / 100.0, rate
    bet = 0.999 * excess / ((p + margin) / w + p / (1.0 - w) + excess * (1.0 / (1.0 - w) + margin))
    return (
        math.log1p(-bet * margin),
        math.log1p(bet * (1.0 / w - margin)),
        math.log1p(-bet * (1.0 / (1.0 - w) + margin)),
    )


def _log_capital(requests: int, own_failed: int, others_failed: int, none: float, own: float, others: float) -> float:
    return (requests - own_failed - others_failed) * none + own_failed * own + others_failed * others


def log_sum(logs: list[float]) -> float:
    """Return the logarithm of the sum of the numbers with these logarithms; 0 for none."""
    top = max(logs, default=0.0)
    return top + math.log(sum(math.exp(log - top) for log in logs)) if logs else 0.0
