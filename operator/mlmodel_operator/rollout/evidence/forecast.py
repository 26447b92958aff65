"""When the next step will have its proof at the present traffic, and why it may never have it."""

from __future__ import annotations

import math

from mlmodel_operator.api.evidence import Evidence, Pairs
from mlmodel_operator.api.status import Candidate
from mlmodel_operator.api.types import Rollout
from mlmodel_operator.rollout.evidence import difference, errors, pairs
from mlmodel_operator.rollout.evidence.gather import step_requests
from mlmodel_operator.rollout.routes import weight_of
from mlmodel_operator.rollout.steps import Target, needs_proof, next_target, step_at

_KNOWN_SECONDS = 10.0
"""Time after which the traffic of a step is known."""
_QUIET_SECONDS = 60.0
"""Time without a counted request after which none come, if requests came often before."""
_UNCOUNTED = 20
"""Number of requests that cannot count from which on they are reported, if they are most of all."""

_EXPECTED = 20
"""Number of requests to the candidate from which on it is reported that they have no outcome."""

_MINUTES = (1, 2, 5, 10, 20, 30)
_HOURS = (1, 2, 5, 10, 24)

_WHY_UNCOUNTED = {
    "large": "they have more than 23 KiB or are chunked: send smaller requests with a Content-Length",
    "chosen": "their client chooses the version: leave out the version in the path and the header x-mlmodel-version",
    "sticky": "they have the header of spec.rollout.sticky, with which a client could choose its side: send some"
    " without it",
    "matched": "they have a value of spec.rollout.match, which sends them to the candidate: send others too",
    "crowd": "one client sends far more than all others: its surplus is served and not counted",
    "other": "their outcome is not known: the client aborts them, stalls, or may not send them",
}


def forecast(rollout: Rollout, candidate: Candidate, evidence: Evidence, now: float) -> str:
    """Return when the next weight is expected, and what to do if it is not, as a sentence without the full stop.

    It changes rarely, because each change is a write of status.
    """
    target = next_target(rollout, candidate.weight)
    if not needs_proof(candidate.weight, target):
        return f"Next: {target.weight} %"
    required = step_at(rollout.steps, candidate.weight).min_requests
    missing = required - step_requests(evidence, weight_of(candidate))
    if pairs.is_proven(evidence.state.segments, evidence.state.pairs, target.limit) and missing <= 0:
        return f"Next: {target.weight} %{_by_pairs(evidence, target)}"
    obstacle = _uncounted(evidence) or _without_outcome(candidate, evidence) or _quiet(candidate, evidence, now)
    if obstacle:
        return f"Next: {target.weight} %; {obstacle}"
    seconds = _seconds(candidate, evidence, target, missing)
    if seconds is None:
        return f"Next: {target.weight} %"
    if seconds == math.inf:
        return (
            f"Next: {target.weight} %, which cannot be proven at this traffic while {candidate.version} fails more than"
            " stable: correct the model, or raise gates.errors.maxPercent"
        )
    if seconds > rollout.max_seconds:
        return (
            f"Next: {target.weight} %, which cannot be proven at this traffic: it would take about {_about(seconds)},"
            f" and maxSeconds is {rollout.max_seconds}. Send more requests, raise gates.errors.maxPercent, or set"
            " onNoEvidence"
        )
    return f"Next: {target.weight} % in about {_about(seconds)} at the present traffic"


def _by_pairs(evidence: Evidence, target: Target) -> str:
    """Return that repeated requests are a part of the proof, as a clause; empty if live requests prove it alone."""
    if pairs.is_proven(evidence.state.segments, Pairs(), target.limit):
        return ""
    return f", proven by {evidence.state.pairs.pairs.answered} repeated requests"


def _uncounted(evidence: Evidence) -> str:
    """Return why most requests do not count, as a clause; empty if most do."""
    uncounted = evidence.state.uncounted
    number = sum(uncounted.values())
    if number < _UNCOUNTED or number <= evidence.candidate.requests + evidence.stable.requests:
        return ""
    kind = max(sorted(uncounted), key=lambda name: uncounted[name])
    return f"most requests do not count, because {_WHY_UNCOUNTED.get(kind, _WHY_UNCOUNTED['other'])}"


def _without_outcome(candidate: Candidate, evidence: Evidence) -> str:
    """Return that the candidate's requests have an outcome less often than those of stable, as a clause; else empty."""
    segments = evidence.state.segments
    expected = round(errors.expected_requests(segments))
    if expected < _EXPECTED or errors.has_outcomes(segments):
        return ""
    own = errors.requests_with_outcome(segments)
    return (
        f"only {own} of about {expected} requests to {candidate.version} have an outcome, unlike those to stable: find"
        " out whether its clients give up because it hangs, or whether it answers 401, 404, 405, 413 or 415"
    )


def _quiet(candidate: Candidate, evidence: Evidence, now: float) -> str:
    """Return that no requests come, as a clause; empty if some do."""
    requests = difference.at_weight(evidence.state.segments, weight_of(candidate)).requests
    last = evidence.at or candidate.since
    usual = (last - candidate.since) / requests if requests else 0.0
    if now < last + max(_QUIET_SECONDS, 5.0 * usual):
        return ""
    return "no requests come: send some, or set onNoEvidence to Promote"


def _seconds(candidate: Candidate, evidence: Evidence, target: Target, missing: int) -> float | None:
    """Return the time until the proof at the traffic of this step; infinity if it never comes, None if unknown."""
    segments, weight = evidence.state.segments, weight_of(candidate)
    elapsed = (evidence.at or candidate.since) - candidate.since
    step = difference.at_weight(segments, weight)
    if elapsed < _KNOWN_SECONDS or not step.requests or not 0 < weight < 100:
        return None
    per_second = step.requests / elapsed
    rate = difference.assumed_rate(difference.total(segments))
    growth = difference.growth(weight, rate=rate, excess=_certain_excess(evidence), limit=target.limit)
    if growth <= 0:
        return math.inf
    required = math.log(difference.PROVEN) - pairs.both(segments, evidence.state.pairs, target.limit)
    return max(required / growth, 100.0 * missing / weight, 0.0) / per_second


def _certain_excess(evidence: Evidence) -> float:
    """Return by how much the candidate's failure rate exceeds that of stable, less two standard errors; at least 0."""
    own, others = evidence.candidate, evidence.stable
    if not own.requests or not others.requests:
        return 0.0
    variance = sum(counts.failure_rate * (1.0 - counts.failure_rate) / counts.requests for counts in (own, others))
    return max(own.failure_rate - others.failure_rate - 2.0 * math.sqrt(variance), 0.0)


def _about(seconds: float) -> str:
    """Return a time rounded up to one of few values."""
    minutes = next((value for value in _MINUTES if seconds <= 60 * value), None)
    if minutes is not None:
        return f"{minutes} min"
    hours = next((value for value in _HOURS if seconds <= 3600 * value), None)
    return f"{hours} h" if hours is not None else "more than a day"
