"""What the controller must read before a decision, beside the objects in its store."""

from __future__ import annotations

from mlmodel_operator.api.status import Status
from mlmodel_operator.rollout.observed import Observed
from mlmodel_operator.rollout.routes import routes_for


def needs_address(status: Status, observed: Observed) -> bool:
    """Whether to send a request to the model's address: it has not answered before, and a pod is ready.

    The nodes update the target of a Service some time after its pods are ready.
    """
    is_available = any(item.type == "Available" and item.status == "True" for item in status.conditions)
    return not is_available and any(state.ready for state in observed.revisions.values())


def needs_routers(status: Status, observed: Observed) -> bool:
    """Whether the next decision requires the routes and counts of the routers.

    Also while the candidate prepares: the counts must have been read before the candidate gets its first weight, so
    that earlier requests do not count as evidence.
    """
    routes = routes_for(status, observed)
    return (
        status.candidate is not None
        or any(item.until is None for item in status.draining)
        or (routes is not None and routes.stable is not None and routes.id() != status.routes)
    )
