"""Whether any version of the model answers; readiness.py says whether the desired revision does."""

from __future__ import annotations

from mlmodel_operator.api.status import Stable, Status
from mlmodel_operator.api.types import MLModel
from mlmodel_operator.rollout.context import Context, why_no_router
from mlmodel_operator.rollout.obstacles import SILENT_SECONDS
from mlmodel_operator.rollout.pod_failures import why_not_ready
from mlmodel_operator.rollout.routes import weight_of


def url(model: MLModel) -> str:
    """Return the address for predictions inside the cluster."""
    scheme = "https" if model.spec.traffic.tls else "http"
    return f"{scheme}://{model.owner.name}.{model.owner.namespace}.svc/v2/models/{model.owner.name}/infer"


def answering_version(state: Status) -> str:
    """Return the version with ready pods and requests: stable if both sides have ready pods, empty if none has."""
    stable, candidate = state.stable, state.candidate
    if stable is not None and stable.ready_replicas:
        return stable.version
    if candidate is not None and weight_of(candidate) and candidate.ready_replicas:
        return candidate.version
    return ""


def is_fully_available(context: Context, stable: Stable) -> bool:
    """Whether stable has all pods that the spec requires, behind an address that answers.

    With an autoscaler the spec requires its minimum, not its present number.
    """
    autoscaling = context.model.spec.serving.autoscaling
    required = autoscaling.min_replicas if autoscaling else stable.replicas
    return stable.ready_replicas >= required and bool(context.observed.routers) and context.observed.reachable


def why_unavailable(context: Context, state: Status) -> str:
    """Return why the model does not answer with all its pods, as a clause for messages."""
    stable, observed = state.stable, context.observed
    if stable is None:
        return "no version has served yet"
    if not observed.routers:
        return why_no_router(observed)
    if stable.ready_replicas < max(stable.replicas, 1):
        revision = observed.revision(stable.revision)
        why = why_not_ready(revision.pods, revision.replica_failure)
        return f"{stable.ready_replicas} of {stable.replicas} pods of {stable.version} are ready: {why}"
    since = observed.unreachable_since
    if since is not None and context.now >= since + SILENT_SECONDS:
        return "the Service of the model does not answer the operator"
    return "the Service of the model does not answer yet: the nodes are updating its target"
