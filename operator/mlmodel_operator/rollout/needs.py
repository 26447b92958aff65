"""What the controller has to read before a decision, beyond the objects of the cluster that it knows anyway."""

from __future__ import annotations

from mlmodel_operator.api.status import Status
from mlmodel_operator.rollout.observed import Observed
from mlmodel_operator.rollout.routes import routes_for


def needs_pods(status: Status) -> bool:
    """Whether the pods' counters are needed for the next decision.

    Also while the candidate is prepared: when it gets its first weight, every older counter must have been read, so
    that older requests are not taken for evidence.
    """
    return status.candidate is not None and status.stable is not None


def needs_address(status: Status, observed: Observed) -> bool:
    """Whether to find out if the model's address answers: it has not before, and now it could.

    The nodes learn where a Service leads some time after its pods are ready.
    """
    available = any(found.type == "Available" and found.status == "True" for found in status.conditions)
    return not available and any(state.ready for state in observed.revisions.values())


def needs_routers(status: Status, observed: Observed) -> bool:
    """Whether the routes that the routers follow, and their counters, are needed for the next decision."""
    routes = routes_for(status, observed)
    return (
        status.candidate is not None
        or any(item.until is None for item in status.draining)
        or (routes is not None and routes.stable is not None and routes.id() != status.routes)
    )
