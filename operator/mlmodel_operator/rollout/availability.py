"""Whether any version of the model answers; readiness.py says whether the desired revision does."""

from __future__ import annotations

from mlmodel_operator.api.status import Stable, Status
from mlmodel_operator.api.types import MLModel
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.pod_failures import why_not_ready


def url(model: MLModel) -> str:
    """Return the address for predictions inside the cluster."""
    return f"http://{model.owner.name}.{model.owner.namespace}.svc/v2/models/{model.owner.name}/infer"


def answering_version(state: Status) -> str:
    """Return the version with ready pods and requests: stable if both sides have ready pods, empty if none has."""
    stable, candidate = state.stable, state.candidate
    if stable is not None and stable.ready_replicas:
        return stable.version
    if candidate is not None and candidate.weight and candidate.ready_replicas:
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
    if stable.ready_replicas < max(stable.replicas, 1):
        pods = tuple(pod for pod in observed.revision(stable.revision).pods if not pod.ready)
        why = why_not_ready(pods, context.obstacle)
        return f"{stable.ready_replicas} of {stable.replicas} pods of {stable.version} are ready: {why}"
    if not observed.routers:
        return "no router pod is ready"
    return "the Service of the model does not answer yet: the nodes are updating its target"
