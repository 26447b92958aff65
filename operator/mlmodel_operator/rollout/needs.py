"""What the controller must read before a decision, beside the objects in its store."""

from __future__ import annotations

from typing import Literal

from mlmodel_operator.api.status import BEFORE_REQUESTS, Status
from mlmodel_operator.api.types import MLModel
from mlmodel_operator.rollout import rehearsal
from mlmodel_operator.rollout.checkpoint import CHECKPOINT_SECONDS
from mlmodel_operator.rollout.observed import Observed
from mlmodel_operator.rollout.obstacles import has_secrets
from mlmodel_operator.rollout.routes import routes_for, weight_of


def needs_address(status: Status, observed: Observed) -> bool:
    """Whether to send a request to the model's address: it has not answered before, and a pod is ready.

    The nodes update the target of a Service some time after its pods are ready.
    """
    is_available = any(item.type == "Available" and item.status == "True" for item in status.conditions)
    return not is_available and any(state.ready for state in observed.revisions.values())


def answering_side(status: Status, observed: Observed) -> Literal["stable", "candidate"]:
    """Return the side that the model's address must reach: stable, or a candidate that gets requests without it."""
    stable, candidate = status.stable, status.candidate
    if stable is None or candidate is None or observed.revision(stable.revision).ready:
        return "stable"
    return "candidate" if weight_of(candidate) and observed.revision(candidate.revision).ready else "stable"


def needs_services(status: Status, observed: Observed) -> tuple[str, ...]:
    """Return the revisions whose Service must answer before requests are routed to it: the nodes update its target some
    time after its pods are ready. A candidate before its first weight, and stable after it had no ready pod."""
    stable, candidate = status.stable, status.candidate
    if stable is None or candidate is None:
        return ()
    asked = []
    if candidate.phase in BEFORE_REQUESTS and observed.revision(candidate.revision).ready:
        asked.append(candidate.revision)
    if candidate.stands_in_since is not None and observed.revision(stable.revision).ready:
        asked.append(stable.revision)
    return tuple(asked)


def needs_pages(model: MLModel, status: Status, observed: Observed) -> bool:
    """Whether the next decision requires the pages of stable's pods: while they rehearse the candidate, and before, so
    that what an earlier rehearsal of the same revision counted is left out."""
    candidate = status.candidate
    return (
        candidate is not None
        and observed.revision(candidate.revision).ready > 0
        and not rehearsal.why_none(model, status, observed)
    )


def needs_followed(status: Status) -> bool:
    """Whether to read the routes in the cluster: without a stable in the status, they must not be emptied if the
    routers follow routes to one."""
    return status.stable is None


def needs_labels(model: MLModel, status: Status, observed: Observed) -> bool:
    """Whether the next decision requires the labels: while the candidate may get requests, and just before, so that
    what an earlier rollout of the same revision counted is left out."""
    candidate = status.candidate
    return (
        candidate is not None
        and status.stable is not None
        and model.spec.rollout.gates.quality is not None
        and observed.revision(candidate.revision).ready > 0
    )


def needs_figures(status: Status, observed: Observed, now: float) -> bool:
    """Whether to read the figures beside the gates: before the first evidence, as a start to count from, in the
    rehearsal, which may be over within seconds, and when the evidence is to be written again."""
    candidate = status.candidate
    if candidate is None or status.stable is None or observed.revision(candidate.revision).ready == 0:
        return False
    evidence = candidate.evidence
    is_due = evidence is None or evidence.at is None or now >= evidence.at + CHECKPOINT_SECONDS
    return is_due or candidate.phase == "Validating"


def needs_routers(model: MLModel, status: Status, observed: Observed) -> bool:
    """Whether the next decision requires the routes and counts of the routers.

    While a candidate gets requests, and before it gets its first ones: what was counted earlier is not evidence. And to
    report a certificate or API keys that are not valid.
    """
    routes, candidate = routes_for(status, observed), status.candidate
    return (
        has_secrets(model, status)
        or (candidate is not None and (candidate.slot is not None or observed.revision(candidate.revision).ready > 0))
        or any(item.until is None for item in status.draining)
        or (routes is not None and routes.stable is not None and routes.id() != status.routes)
    )
