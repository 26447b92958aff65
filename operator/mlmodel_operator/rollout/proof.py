"""What lets a candidate take its next step: live requests, pairs of its rehearsal, or a model without requests."""

from __future__ import annotations

from mlmodel_operator.api.evidence import Evidence, Pairs
from mlmodel_operator.api.status import Candidate
from mlmodel_operator.rollout import rehearsal
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.evidence import pairs
from mlmodel_operator.rollout.evidence.gather import step_requests
from mlmodel_operator.rollout.routes import weight_of
from mlmodel_operator.rollout.steps import Target, needs_proof, step_at

SHORT_SECONDS = 5.0
"""Shortest time of a step that live requests have not proven."""
LIVE_REQUESTS, LIVE_SECONDS = 3, 15.0
"""What a step that pairs have proven requires of the real path of a request: requests to the candidate, or time."""


def is_proven(evidence: Evidence, weight: int, target: Target) -> bool:
    """Whether live requests and pairs prove what ``target`` requires after ``weight``, if it requires a proof."""
    if not needs_proof(weight, target):
        return True
    return pairs.is_proven(evidence.state.segments, evidence.state.pairs, target.limit)


def awaits_requests(context: Context, candidate: Candidate, target: Target) -> bool:
    """Whether a step that only pairs have proven waits for its first live requests."""
    evidence, weight = context.evidence or Evidence(), weight_of(candidate)
    seconds = context.now - candidate.since
    if not weight or seconds >= LIVE_SECONDS or pairs.is_proven(evidence.state.segments, Pairs(), target.limit):
        return False
    return seconds < SHORT_SECONDS or step_requests(evidence, weight) < LIVE_REQUESTS


def is_idle(context: Context, candidate: Candidate) -> bool:
    """Whether the step needs no proof: no request came to the model, and the spec lets a version go on without."""
    return (
        context.rollout.on_no_evidence == "Proceed"
        and weight_of(candidate) > 0
        and not step_at(context.rollout.steps, candidate.weight).min_requests
        and rehearsal.no_request_came(context, candidate)
    )
