"""From bodies of the API server to the input of a decision. Pure; a field that is absent has its empty value."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import pairwise

from mlmodel_operator.api.codec import DecodeError, decode, parse_time
from mlmodel_operator.api.types import MLModel, Owner, Spec
from mlmodel_operator.names import FILES_OPTION, REVISION_LABEL, SERVER
from mlmodel_operator.rollout.observed import Pod, RevisionState, Router
from mlmodel_operator.runtime.resource import Body, metadata, uid
from mlmodel_operator.scrape import RouterStatus

_SHA256 = re.compile("[0-9a-f]{64}")


def read_model(body: Body) -> MLModel:
    """Return the MLModel in ``body``; raise DecodeError if the spec does not fit, which the schema prevents."""
    meta = metadata(body)
    owner = Owner(str(meta["name"]), str(meta["namespace"]), uid(body))
    return MLModel(owner, int(meta.get("generation", 1)), decode(Spec, body.get("spec"), "spec"))


def label(body: Body, name: str) -> str:
    """Return the value of a label; empty if the object does not have it."""
    return str((metadata(body).get("labels") or {}).get(name, ""))


def annotation(body: Body, name: str) -> str:
    """Return the value of an annotation; empty if the object does not have it."""
    return str((metadata(body).get("annotations") or {}).get(name, ""))


def is_terminating(body: Body) -> bool:
    """Whether the object is being deleted."""
    return bool(metadata(body).get("deletionTimestamp"))


def is_ready(pod: Body) -> bool:
    """Whether the pod's Ready condition is true."""
    return _condition(pod, "Ready").get("status") == "True"


def created(body: Body) -> float:
    """Return the creation time in seconds since the epoch; 0 if the object has none."""
    try:
        return parse_time(metadata(body).get("creationTimestamp"))
    except DecodeError:
        return 0.0


def pod_address(pod: Body) -> str:
    """Return the IP of the pod; empty until it has one."""
    return str((pod.get("status") or {}).get("podIP") or "")


def read_pod(body: Body) -> Pod:
    """Return one server pod."""
    status = body.get("status") or {}
    containers = status.get("containerStatuses") or []
    # By name: the sidecar of a mesh may come first, and its failures are not those of the model.
    container: Body = next((item for item in containers if item.get("name") == SERVER), {})
    waiting = (container.get("state") or {}).get("waiting") or {}
    exited = (container.get("state") or {}).get("terminated") or (container.get("lastState") or {}).get("terminated")
    exited = exited or {}
    scheduled = _condition(body, "PodScheduled")
    return Pod(
        name=str(metadata(body).get("name", "")),
        created=created(body),
        ready=is_ready(body),
        terminating=is_terminating(body),
        restarts=int(container.get("restartCount", 0)),
        waiting=str(waiting.get("reason", "")),
        waiting_message=str(waiting.get("message", "")),
        exit_code=exited.get("exitCode"),
        exit_reason=str(exited.get("reason", "")),
        exit_message=str(exited.get("message", "")).strip(),
        unschedulable=str(scheduled.get("message", "")) if scheduled.get("status") == "False" else "",
    )


def read_revisions(
    deployments: Iterable[Body], services: Iterable[Body], pods: Iterable[tuple[str, Pod]]
) -> Mapping[str, RevisionState]:
    """Return the state of each revision; each pod comes with its revision."""
    by_revision = {label(body, REVISION_LABEL): body for body in deployments}
    addresses = {label(body, REVISION_LABEL): str((body.get("spec") or {}).get("clusterIP", "")) for body in services}
    grouped: dict[str, list[Pod]] = {}
    for revision, pod in pods:
        grouped.setdefault(revision, []).append(pod)
    return {
        name: RevisionState(
            tuple(grouped.get(name, ())),
            addresses.get(name, ""),
            **(_deployed(by_revision[name]) if name in by_revision else {}),
        )
        for name in (by_revision | addresses)
        if name
    }


def read_router(body: Body, status: RouterStatus | None) -> Router:
    """Return one router pod with the status that it reported."""
    name = str(metadata(body).get("name", ""))
    if status is None:
        return Router(name)
    return Router(name, status.id, status.boot, status.candidate, status.stable_ms, status.weights, status.uncounted)


def _deployed(deployment: Body) -> Body:
    """Return the fields of RevisionState that a Deployment has."""
    spec = deployment.get("spec") or {}
    containers = ((spec.get("template") or {}).get("spec") or {}).get("containers") or []
    container: Body = next((item for item in containers if item.get("name") == SERVER), {})
    files_sha256 = str(dict(pairwise(container.get("args") or [])).get(FILES_OPTION, ""))
    return {
        "replicas": int(spec.get("replicas", 1)),
        "deployed": True,
        "files_sha256": files_sha256 if _SHA256.fullmatch(files_sha256) else "",
        "replica_failure": replica_failure(deployment),
    }


def files_digest(config_map: Body) -> str:
    """Return one digest (hex) of the files that a node mounts from a ConfigMap: that of ``sha256sum`` over the lines
    that ``sha256sum`` prints for the files, in the order of their names.

    The server computes the same (``--files-sha256``); both ignore hidden files, which are not part of a model. Raise
    ValueError if a value is not base64, which the API server prevents.
    """
    files = {name: text.encode() for name, text in (config_map.get("data") or {}).items()}
    files |= {name: b64decode(text, validate=True) for name, text in (config_map.get("binaryData") or {}).items()}
    lines = [f"{sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files) if not name.startswith(".")]
    return sha256("".join(lines).encode()).hexdigest()


def replica_failure(deployment: Body) -> str:
    """Return why the Deployment cannot create pods (a quota, an admission policy); empty if it can."""
    condition = _condition(deployment, "ReplicaFailure")
    return str(condition.get("message", "")) if condition.get("status") == "True" else ""


def _condition(body: Body, kind: str) -> Body:
    for condition in (body.get("status") or {}).get("conditions") or []:
        if condition.get("type") == kind:
            return dict(condition)
    return {}
