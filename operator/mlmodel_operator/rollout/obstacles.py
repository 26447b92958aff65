"""Why pods do not start, where the pods do not report it."""

from __future__ import annotations

from mlmodel_operator.api.status import Candidate, Status
from mlmodel_operator.api.types import MLModel
from mlmodel_operator.rollout.observed import Observed, Pod
from mlmodel_operator.rollout.pinning import awaits_files

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
        or _no_config_map(model, candidate, observed)
        or _missing_secret(model, candidate, observed, now)
    )


def needs_config_map(status: Status, observed: Observed) -> str | None:
    """Return the name of the ConfigMap to read for ``Observed.config_map_missing``, or None.

    That of ``pinning.config_map_to_pin`` is read anyway.
    """
    candidate = status.candidate
    if candidate is None or observed.refusal:
        return None
    state = observed.revision(candidate.revision)
    if state.ready or state.replica_failure or not _mounting(candidate, observed):
        return None
    return candidate.snapshot.model.config_map or None


def _mounting(candidate: Candidate, observed: Observed) -> list[Pod]:
    """Return the candidate's pods whose containers wait for their volumes."""
    return [pod for pod in observed.revision(candidate.revision).pods if pod.waiting == "ContainerCreating"]


def _no_config_map(model: MLModel, candidate: Candidate, observed: Observed) -> str:
    name, namespace = candidate.snapshot.model.config_map, model.owner.namespace
    if name and observed.config_map_missing:
        return (
            f"ConfigMap {name} not found in namespace {namespace}: apply it (`mlmodel package"
            f" PACKAGE --configmap {name} | kubectl apply -f -`), or correct spec.model.uri"
        )
    if name and observed.config_map_error and awaits_files(candidate, observed):
        return (
            f"the operator cannot read ConfigMap {name} in namespace {namespace} ({observed.config_map_error}): permit"
            f" it, or set spec.model.sha256"
        )
    return ""


def _missing_secret(model: MLModel, candidate: Candidate, observed: Observed, now: float) -> str:
    keys = candidate.snapshot.api_keys
    if keys is None or not any(now - pod.created > MOUNT_SECONDS for pod in _mounting(candidate, observed)):
        return ""
    return (
        f"the pods wait for their volumes: check that namespace {model.owner.namespace} has a Secret"
        f" {keys.secret_name} with the key `keys`, or correct spec.serving.apiKeys"
    )
