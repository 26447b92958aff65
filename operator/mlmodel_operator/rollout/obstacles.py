"""What keeps pods from starting where the pods themselves do not say it."""

from __future__ import annotations

from mlmodel_operator.api.status import Candidate, Status
from mlmodel_operator.api.types import MLModel
from mlmodel_operator.rollout.observed import Observed, Pod

MOUNT_SECONDS = 15.0
"""Time in which a node normally mounts what a pod needs."""


def obstacle(model: MLModel, status: Status, observed: Observed, now: float) -> str:
    """Return what keeps the candidate's pods from starting, in one sentence; empty if nothing is known to.

    From the most certain cause to the least: a Secret is only guessed at, because the operator may not read it.
    """
    if observed.refusal:
        return observed.refusal
    candidate = status.candidate
    if candidate is None or observed.revision(candidate.revision).ready:
        return ""
    return (
        observed.revision(candidate.revision).replica_failure
        or _missing_config_map(model, candidate, observed)
        or _missing_secret(model, candidate, observed, now)
    )


def needs_config_map(status: Status, observed: Observed) -> str | None:
    """Return the name of the ConfigMap that has to be looked up for ``Observed.config_map_missing``, or None."""
    candidate = status.candidate
    if candidate is None or observed.refusal:
        return None
    state = observed.revision(candidate.revision)
    if state.ready or state.replica_failure or not _mounting(candidate, observed):
        return None
    return _config_map(candidate)


def _config_map(candidate: Candidate) -> str | None:
    """Return the name of the ConfigMap that the model comes from; None if it comes from elsewhere."""
    scheme, _, name = candidate.snapshot.model.uri.partition("://")
    return name if scheme == "configmap" else None


def _mounting(candidate: Candidate, observed: Observed) -> list[Pod]:
    """Return the candidate's pods whose containers wait for their mounts."""
    return [pod for pod in observed.revision(candidate.revision).pods if pod.waiting == "ContainerCreating"]


def _missing_config_map(model: MLModel, candidate: Candidate, observed: Observed) -> str:
    name = _config_map(candidate)
    if name is None or not observed.config_map_missing:
        return ""
    return (
        f"ConfigMap {name} is not in namespace {model.owner.namespace}: apply it (`mlmodel package"
        f" PACKAGE --configmap {name} | kubectl apply -f -`), or correct spec.model.uri"
    )


def _missing_secret(model: MLModel, candidate: Candidate, observed: Observed, now: float) -> str:
    keys = candidate.snapshot.api_keys
    if keys is None or not any(now - pod.created > MOUNT_SECONDS for pod in _mounting(candidate, observed)):
        return ""
    return (
        f"the pods wait for what they mount: is there a Secret {keys.secret_name} with the key `keys` in"
        f" namespace {model.owner.namespace}, as spec.serving.apiKeys says?"
    )
