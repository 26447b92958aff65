"""Steps with ``pause: true``: the weight rises only after somebody has approved it with an annotation.

The value of the annotation names the revision, the weight of the step and the time at which the step began. So it
approves no other version, no later step, and no second attempt of the same one: an annotation stays on its object.
"""

from __future__ import annotations

from mlmodel_operator.api.status import Candidate
from mlmodel_operator.names import APPROVE_ANNOTATION
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.steps import step_at

_MOST = 20


def missing(context: Context, candidate: Candidate) -> str:
    """Return which approval the present step waits for and how to give it, as a clause for messages; empty if it waits
    for none."""
    if not step_at(context.rollout.steps, candidate.weight).pause or _is_approved(context, candidate):
        return ""
    owner = context.model.owner
    return (
        f"this step requires an approval: type `kubectl annotate mlm {owner.name} -n {owner.namespace}"
        f" {APPROVE_ANNOTATION}={approval_of(candidate)} --overwrite`"
    )


def approval_of(candidate: Candidate) -> str:
    """Return the value of the annotation that approves the present step."""
    return f"{candidate.revision}-{candidate.weight}-{int(candidate.since)}"


def recorded(context: Context, candidate: Candidate) -> tuple[str, ...]:
    """Return the approvals of this rollout at the end of a step, with that of the step if it has one; the last 20."""
    new = (approval_of(candidate),) if _is_approved(context, candidate) else ()
    return (*candidate.approvals, *new)[-_MOST:]


def _is_approved(context: Context, candidate: Candidate) -> bool:
    return context.model.annotations.get(APPROVE_ANNOTATION) == approval_of(candidate)
