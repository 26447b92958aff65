"""When the next step will have its proof at the present traffic, and why it may never have it."""

from __future__ import annotations

import math

from mlmodel_operator.api.evidence import Evidence, Segment, Sides
from mlmodel_operator.api.status import Candidate
from mlmodel_operator.api.types import Rollout
from mlmodel_operator.rollout.evidence import difference, errors
from mlmodel_operator.rollout.evidence.gather import step_requests
from mlmodel_operator.rollout.routes import weight_of
from mlmodel_operator.rollout.steps import Target, next_target, step_at

_KNOWN_SECONDS = 10.0
"""Time after which the traffic of a step is known."""
_QUIET_SECONDS = 60.0
"""Time without a counted request after which none come, if requests came often before."""
_UNCOUNTED = 20
"""Number of requests that cannot count from which on they are reported, if they are most of all."""

_UNDECIDED = 10
"""Number of the candidate's undecided requests from which on they are reported, if they are a far larger share than of
stable."""

_MINUTES = (1, 2, 5, 10, 20, 30)
_HOURS = (1, 2, 5, 10, 24)

_WHY_UNCOUNTED = {
    "large": "they have more than 23 KiB or are chunked: send smaller requests with a Content-Length",
    "chosen": "their client chooses the version: leave out the version in the path and the header x-mlmodel-version",
    "crowd": "one client sends far more than all others: its surplus is served and not counted",
    "other": "their outcome is not known: the client aborts them, stalls, or may not send them",
}


def forecast(rollout: Rollout, candidate: Candidate, evidence: Evidence, now: float) -> str:
    """Return when the next weight is expected, and what to do if it is not, as a sentence without the full stop.

    It changes rarely, because each change is a write of status.
    """
    target = next_target(rollout, candidate.weight)
    required = step_at(rollout.steps, candidate.weight).min_requests
    missing = required - step_requests(evidence, weight_of(candidate))
    if errors.is_proven(evidence.state, target.limit) and missing <= 0:
        return f"Next: {target.weight} %"
    obstacle = _uncounted(evidence) or _quiet(candidate, evidence, now) or _undecided(candidate, evidence)
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


def _uncounted(evidence: Evidence) -> str:
    """Return why most requests do not count, as a clause; empty if most do."""
    uncounted = evidence.state.uncounted
    number = sum(uncounted.values())
    if number < _UNCOUNTED or number <= evidence.candidate.requests + evidence.stable.requests:
        return ""
    kind = max(sorted(uncounted), key=lambda name: uncounted[name])
    return f"most requests do not count, because {_WHY_UNCOUNTED.get(kind, _WHY_UNCOUNTED['other'])}"


def _quiet(candidate: Candidate, evidence: Evidence, now: float) -> str:
    """Return that no requests come, as a clause; empty if some do."""
    requests = difference.at_weight(evidence.state.segments, weight_of(candidate)).requests
    last = evidence.at or candidate.since
    usual = (last - candidate.since) / requests if requests else 0.0
    if now < last + max(_QUIET_SECONDS, 5.0 * usual):
        return ""
    return "no requests come: send some, or set onNoEvidence to Promote"


def _undecided(candidate: Candidate, evidence: Evidence) -> str:
    """Return that more requests to the candidate are undecided than of stable, as a clause; empty if not."""
    own, others = evidence.candidate, evidence.stable
    if own.undecided < _UNDECIDED or own.undecided_share <= others.undecided_share + errors.UNDECIDED_LIMIT:
        return ""
    return (
        f"{own.undecided} of {own.requests + own.undecided} requests to {candidate.version} say nothing about it, and"
        f" {others.undecided} of {others.requests + others.undecided} to stable: find out whether its clients give up"
        " because it hangs, or whether it answers 401, 404, 405, 413 or 415"
    )


def _seconds(candidate: Candidate, evidence: Evidence, target: Target, missing: int) -> float | None:
    """Return the time until the proof at the traffic of this step; infinity if it never comes, None if unknown."""
    weight = weight_of(candidate)
    elapsed = (evidence.at or candidate.since) - candidate.since
    step = difference.at_weight(evidence.state.segments, weight)
    if elapsed < _KNOWN_SECONDS or not step.requests or not 0 < weight < 100:
        return None
    per_second = step.requests / elapsed
    required = max(_requests(segments, weight, limit) for segments, limit in errors.proof(evidence.state, target.limit))
    return max(required, 100.0 * missing / weight) / per_second


def _requests(segments: tuple[Segment, ...], weight: int, limit: float) -> float:
    """Return the number of requests until a certification; infinity if it never comes."""
    total = difference.total(segments)
    excess = _certain_excess(total)
    growth = difference.growth(weight, rate=difference.assumed_rate(total), excess=excess, limit=limit)
    if growth <= 0:
        return math.inf
    return max((math.log(difference.PROVEN) - difference.certification(segments, limit)) / growth, 0.0)


def _certain_excess(counts: Sides) -> float:
    """Return by how much the candidate's failure rate exceeds that of stable, less two standard errors; at least 0."""
    own, others = counts.candidate, counts.stable
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
