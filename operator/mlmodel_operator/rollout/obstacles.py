"""Why pods do not start, where the pods do not report it."""

from __future__ import annotations

from mlmodel_operator.api.status import Candidate, Status
from mlmodel_operator.api.types import MLModel
from mlmodel_operator.rollout.observed import Observed, Pod

MOUNT_SECONDS = 15.0
"""Time in which a node normally mounts the volumes of a pod."""


def obstacle(model: MLModel, status: Status, observed: Observed, now: float) -> str:
    """Return why the candidate's pods do not start, as a clause for messages; empty if no cause is known.

    From the most certain cause to the least: that a Secret is missing is a guess, because the operator may not read it.
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
    """Return the name of the ConfigMap to read for ``Observed.config_map_missing``, or None."""
    candidate = status.candidate
    if candidate is None or observed.refusal:
        return None
    state = observed.revision(candidate.revision)
    if state.ready or state.replica_failure or not _mounting(candidate, observed):
        return None
    return _config_map(candidate)


def _config_map(candidate: Candidate) -> str | None:
    """Return the name of the ConfigMap that contains the model; None if the model has another source."""
    scheme, _, name = candidate.snapshot.model.uri.partition("://")
    return name if scheme == "configmap" else None


def _mounting(candidate: Candidate, observed: Observed) -> list[Pod]:
    """Return the candidate's pods whose containers wait for their volumes."""
    return [pod for pod in observed.revision(candidate.revision).pods if pod.waiting == "ContainerCreating"]


def _missing_config_map(model: MLModel, candidate: Candidate, observed: Observed) -> str:
    name = _config_map(candidate)
    if name is None or not observed.config_map_missing:
        return ""
    return (
        f"ConfigMap {name} not found in namespace {model.owner.namespace}: apply it (`mlmodel package"
        f" PACKAGE --configmap {name} | kubectl apply -f -`), or correct spec.model.uri"
    )


def _missing_secret(model: MLModel, candidate: Candidate, observed: Observed, now: float) -> str:
    keys = candidate.snapshot.api_keys
    if keys is None or not any(now - pod.created > MOUNT_SECONDS for pod in _mounting(candidate, observed)):
        return ""
    return (
        f"the pods wait for their volumes: check that namespace {model.owner.namespace} has a Secret"
        f" {keys.secret_name} with the key `keys`, or correct spec.serving.apiKeys"
    )
