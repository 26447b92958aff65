"""What users see of the labels in a rollout, and why none count."""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.evidence import Labels, Scores
from mlmodel_operator.api.status import Status
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.evidence import labels, quality
from mlmodel_operator.rollout.observed import Observed


def why_none(status: Status, observed: Observed) -> str:
    """Return why no labels of both versions can be read, as a clause for messages; empty if they can."""
    stable, candidate = status.stable, status.candidate
    if stable is None or candidate is None:
        return "there is nothing to compare with"
    if stable.snapshot.feedback_key != candidate.snapshot.feedback_key:
        return f"{stable.version} and {candidate.version} use different feedback keys: neither can read the other's ids"
    for side in (stable, candidate):
        if not observed.revision(side.revision).has_page:
            return f"the pods of {side.version} do not count labels: an older release of the operator started them"
    return ""


def show(context: Context, state: Status) -> Status:
    """Return ``state`` with what users read of the labels, when new evidence is written."""
    candidate, gate = state.candidate, context.rollout.gates.quality
    if candidate is None:
        return state
    if gate is None or candidate.evidence is None or candidate.slot is None:
        return replace(state, candidate=replace(candidate, quality=None))
    before = context.status.candidate
    if candidate.quality is not None and before is not None and before.evidence == candidate.evidence:
        return state
    found = candidate.evidence.state.quality
    counted = found.labels
    problem = why_none(state, context.observed) or labels.why_not(gate, found.kind)
    message = f"No label counts: {problem}" if problem else quality.sentence(counted, candidate.version)
    scores = Scores(
        counted.candidate.number,
        _percent(counted.candidate),
        counted.stable.number,
        _percent(counted.stable),
        message,
    )
    return replace(state, candidate=replace(candidate, quality=scores))


def _percent(labels: Labels) -> float | None:
    return round(100.0 * labels.share, 1) if labels.number else None
