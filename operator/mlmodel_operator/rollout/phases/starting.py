"""No candidate: the desired revision is stable or may not be rolled out, or its rollout starts."""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Candidate, Status, rejection
from mlmodel_operator.api.types import MLModel, Revision
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.observed import RevisionState
from mlmodel_operator.rollout.plan import Notice
from mlmodel_operator.rollout.transition import Decision, Stay, Transition


def advance(context: Context) -> Decision:
    """Start the rollout of the desired revision, unless nothing is to be rolled out."""
    status, desired = context.status, context.desired
    if is_settled(context, status):
        return Stay()
    if any(item.revision == desired.id and item.outcome == "RolledBack" for item in status.draining):
        # The old pods still report their failure: a retry requires new ones.
        return Stay("the pods of its last rollout must be removed first")
    candidate = new_candidate(desired, context.model, context.observed.revision(desired.id), context.now)
    candidate = replace(candidate, retries=(context.rollout.retry,))
    # A draining revision that is desired again keeps its running pods.
    draining = tuple(item for item in status.draining if item.revision != desired.id)
    if status.stable:
        requests = f"{context.stable_label} gets all requests"
    else:
        requests = f"{desired.label} gets all requests as soon as a pod is ready"
    return Transition(
        replace(status, candidate=candidate, draining=draining),
        (Notice("Normal", Reason.PREPARING, f"{desired.label} ({desired.id}) is being prepared; {requests}"),),
    )


def new_candidate(revision: Revision, model: MLModel, state: RevisionState, now: float) -> Candidate:
    """Return the revision as a candidate that begins to prepare; ``state`` shows the pods that it already has."""
    return Candidate(
        version=revision.label,
        revision=revision.id,
        phase="Preparing",
        snapshot=revision.snapshot,
        started_at=Time(now),
        since=Time(now),
        digest=revision.snapshot.digest,
        steps=len(model.spec.rollout.steps),
        replicas=state.replicas,
    )


def is_settled(context: Context, status: Status) -> bool:
    """Whether nothing is to be rolled out: the desired revision is stable, may not be served, or stays rejected."""
    desired = context.desired.id
    if context.observed.denied or (status.stable is not None and status.stable.revision == desired):
        return True
    return rejection(status, desired, context.rollout.retry) is not None
