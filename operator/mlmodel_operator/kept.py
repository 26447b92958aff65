"""What the operator reads of each kind, and keeps in memory: one function a kind, and no field that nothing reads.

Tenants write most of these objects, so of a large one too little is kept: our own labels and annotations, the reference
to the controller, the fields in use of spec and status, and the bytes of a small spec, with which a later one is
compared. A model that is too large is not kept. A new field that is read must be added here: to the shape, which is
decoded, and to the function, which keeps it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypedDict

import msgspec

from mlmodel_operator import names, observe
from mlmodel_operator.names import (
    FILES_OPTION,
    GROUP,
    KIND,
    PLURAL,
    REHEARSAL,
    REQUESTS_OPTION,
    ROUTER,
    SERVER,
    VERSION,
)
from mlmodel_operator.resources.found import has_page, read_files_sha256, rehearses
from mlmodel_operator.resources.records import number_of
from mlmodel_operator.rollout.observed import MANY_RESTARTS
from mlmodel_operator.rollout.pod_failures import CRASH_LOOP, IMAGE_FAILURES
from mlmodel_operator.runtime.resource import (
    AUTOSCALERS,
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
    SERVICES,
    Body,
    Resource,
    controller_of,
    metadata,
    resource_version,
)
from mlmodel_operator.runtime.view import CONTENT, View, content_of

MODELS = Resource(GROUP, VERSION, PLURAL, KIND)

MAX_SPEC = 64 * 1024
"""Maximum size in bytes of the spec of an MLModel, as JSON: the schema permits far less."""
MAX_STATUS = 256 * 1024
"""Maximum size in bytes of the status of an MLModel, as JSON. Only the operator writes it."""
OVERSIZED = "oversized"
"""Key of the body of a model that is too large: the field that is, and its size. It has no spec and no status."""

MAX_ANNOTATION = 4096
"""Maximum number of characters of an annotation that is kept: ours are shorter, and a longer one is not valid."""
_DIGITS = re.compile(r"\d+")

_LABELS = frozenset(value for name, value in vars(names).items() if name.endswith("_LABEL"))
_ANNOTATIONS = frozenset(value for name, value in vars(names).items() if name.endswith("_ANNOTATION"))
_FIELDS = ("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp")


class _Owner(TypedDict, total=False):
    apiVersion: str
    kind: str
    name: str
    uid: str
    controller: bool
    blockOwnerDeletion: bool


class _Metadata(TypedDict, total=False):
    name: str
    namespace: str
    uid: str
    resourceVersion: str
    generation: int
    creationTimestamp: str | None
    deletionTimestamp: str | None
    labels: dict[str, str] | None
    annotations: dict[str, str] | None
    ownerReferences: list[_Owner] | None


class _Object(TypedDict, total=False):
    metadata: _Metadata


def _metadata(body: Body) -> Body:
    """Return our part of the metadata."""
    meta = metadata(body)
    kept: Body = {key: meta[key] for key in _FIELDS if meta.get(key) is not None}
    if labels := {key: value for key, value in (meta.get("labels") or {}).items() if key in _LABELS}:
        kept["labels"] = labels
    annotations = meta.get("annotations") or {}
    if ours := {key: str(value)[:MAX_ANNOTATION] for key, value in annotations.items() if key in _ANNOTATIONS}:
        kept["annotations"] = ours
    controller = controller_of(body)
    if controller is not None:
        kept["ownerReferences"] = [{key: controller[key] for key in _Owner.__annotations__ if key in controller}]
    return kept


# -------------------------------------------------------------------------------------------------------------- models


class _Model(TypedDict, total=False):
    metadata: _Metadata
    spec: msgspec.Raw
    status: msgspec.Raw


def keep_model(body: Body, _known: Body | None) -> Body:
    """Return an MLModel with our annotations; without spec and status if one of them is too large."""
    kept: Body = {"apiVersion": MODELS.api_version, "kind": MODELS.kind, "metadata": _metadata(body)}
    if OVERSIZED in body:
        return kept | {OVERSIZED: body[OVERSIZED]}
    for key, most in (("spec", MAX_SPEC), ("status", MAX_STATUS)):
        value = body.get(key)
        if value is None:
            continue
        is_raw = isinstance(value, msgspec.Raw)
        size = len(value) if is_raw else len(msgspec.json.encode(value))
        if size > most:
            kept.pop("spec", None)
            return kept | {OVERSIZED: {"field": key, "bytes": size, "most": most}}
        kept[key] = msgspec.json.decode(value) if is_raw else value
    return kept


# -------------------------------------------------------------------------------------- objects that the operator makes


def keep_metadata(body: Body, _known: Body | None) -> Body:
    """Return our part of the metadata: of ReplicaSets, which are only links from pods to Deployments."""
    return {"metadata": _metadata(body)}


def keep_config_map(body: Body, _known: Body | None) -> Body:
    """Return our part of the metadata of a ConfigMap. Its content is unchanged while its version is."""
    return {"metadata": _metadata(body), CONTENT: resource_version(body).encode()}


class _Record(TypedDict, total=False):
    metadata: _Metadata
    revision: int


def keep_record(body: Body, _known: Body | None) -> Body:
    """Return a record without its data, which is read only after a loss."""
    return {"metadata": _metadata(body), "revision": number_of(body)}


def keep_content(body: Body, _known: Body | None) -> Body:
    """Return our part of the metadata, and the spec as it was sent, to compare it with what was written."""
    return {"metadata": _metadata(body), CONTENT: content_of(body)}


class _ServiceSpec(TypedDict, total=False):
    clusterIP: str


class _Service(TypedDict, total=False):
    metadata: _Metadata
    spec: _ServiceSpec


def keep_service(body: Body, known: Body | None) -> Body:
    """Return a Service with its address."""
    return keep_content(body, known) | {"spec": {"clusterIP": str((body.get("spec") or {}).get("clusterIP") or "")}}


class _Port(TypedDict, total=False):
    name: str


class _Container(TypedDict, total=False):
    name: str
    args: list[str]
    ports: list[_Port]


class _Presence(TypedDict, total=False):
    """An object of which no field is decoded."""


class _Volume(TypedDict, total=False):
    name: str
    downwardAPI: _Presence


class _PodSpec(TypedDict, total=False):
    containers: list[_Container]
    volumes: list[_Volume]


class _Template(TypedDict, total=False):
    spec: _PodSpec


class _DeploymentSpec(TypedDict, total=False):
    replicas: int
    template: _Template


class _Condition(TypedDict, total=False):
    type: str
    status: str
    message: str
    lastTransitionTime: str | None


class _DeploymentStatus(TypedDict, total=False):
    conditions: list[_Condition]


class _Deployment(TypedDict, total=False):
    metadata: _Metadata
    spec: _DeploymentSpec
    status: _DeploymentStatus


def keep_deployment(body: Body, known: Body | None) -> Body:
    """Return a Deployment with what decisions read of its server's container, and why it cannot create pods."""
    failure = observe.condition_of(body, "ReplicaFailure")
    before = observe.condition_of(known or {}, "ReplicaFailure").get("message", "")
    message = observe.steady(observe.clean(failure.get("message")), before)
    conditions = [{"type": "ReplicaFailure", "status": failure.get("status"), "message": message}] if failure else []
    spec: Body = {}
    replicas = (body.get("spec") or {}).get("replicas")
    if replicas is not None:
        spec["replicas"] = replicas
    server: Body = {}
    if digest := read_files_sha256(body):
        server["args"] = [FILES_OPTION, digest]
    is_rehearsing, is_paged = rehearses(body), has_page(body)
    if is_rehearsing or is_paged:
        server["ports"] = [{"name": REHEARSAL}]
    if is_paged and not is_rehearsing:
        server["args"] = [*server.get("args", []), REQUESTS_OPTION, "0"]
    if server:
        volumes = {"volumes": [{"name": REHEARSAL, "downwardAPI": {}}]} if is_rehearsing and is_paged else {}
        spec["template"] = {"spec": {"containers": [{"name": SERVER, **server}], **volumes}}
    return keep_content(body, known) | {"spec": spec, "status": {"conditions": conditions}}


# ---------------------------------------------------------------------------------------------------------------- pods


class _Waiting(TypedDict, total=False):
    reason: str
    message: str


class _Terminated(TypedDict, total=False):
    exitCode: int
    reason: str
    message: str


class _State(TypedDict, total=False):
    running: dict[str, str | None]
    waiting: _Waiting
    terminated: _Terminated


class _ContainerStatus(TypedDict, total=False):
    name: str
    restartCount: int
    started: bool | None
    state: _State
    lastState: _State


class _PodStatus(TypedDict, total=False):
    phase: str
    podIP: str
    conditions: list[_Condition]
    containerStatuses: list[_ContainerStatus]
    initContainerStatuses: list[_ContainerStatus]


class _Pod(TypedDict, total=False):
    metadata: _Metadata
    status: _PodStatus


def keep_pod(body: Body, known: Body | None) -> Body:
    """Return what decisions read from a pod. What kubelet and scheduler repeat, in other words, stays as it was known.

    While an image cannot be pulled, kubelet alternates between two reasons; in a crash loop, between waiting and
    running; the scheduler counts nodes again. None of it is news, and each would cost a reconcile.
    """
    before, status = known or {}, body.get("status") or {}
    containers = [
        _slim_container(item, observe.container_of(before, name))
        for name in (SERVER, ROUTER)
        if (item := observe.container_of(body, name))
    ]
    fetcher = observe.fetcher_of(body)
    fetchers = [_slim_fetcher(fetcher, observe.fetcher_of(before))] if fetcher else []
    return {
        "metadata": _metadata(body),
        "status": {
            "phase": status.get("phase"),
            "podIP": status.get("podIP"),
            "conditions": [
                _slim_condition(condition, observe.condition_of(before, kind))
                for kind in ("Ready", "PodScheduled")
                if (condition := observe.condition_of(body, kind))
            ],
            "containerStatuses": containers,
            **({"initContainerStatuses": fetchers} if fetchers else {}),
        },
    }


def _slim_condition(condition: Body, known: Body) -> Body:
    slim = {key: condition[key] for key in ("type", "status") if key in condition}
    if slim.get("type") == "Ready":
        return slim | {"lastTransitionTime": condition.get("lastTransitionTime")}
    is_same = condition.get("status") == known.get("status")
    message = observe.clean(condition.get("message"))
    return slim | {"message": observe.steady(message, known.get("message", "")) if is_same else message}


def _slim_fetcher(container: Body, known: Body) -> Body:
    """Return what is read of the init container that fetches the model: once it has, no failure of it counts."""
    if not observe.has_succeeded(container):
        # It never starts to serve: from some restarts on, it is in a crash loop also while it runs.
        return _slim_container(container | {"started": False}, known)
    return {"name": container["name"], "state": {"terminated": {"exitCode": 0}}}


def _slim_container(container: Body, known: Body) -> Body:
    state, last = container.get("state") or {}, (container.get("lastState") or {}).get("terminated")
    restarts, known_restarts = int(container.get("restartCount", 0)), int(known.get("restartCount", 0))
    exited = _slim_exit(state.get("terminated") or last)
    is_started = "running" in state and container.get("started") is True
    if not is_started and not known.get("started") and known_restarts >= MANY_RESTARTS:
        # The same crash loop goes on.
        restarts = known_restarts
    if restarts >= MANY_RESTARTS and not is_started and exited:
        # Whether the container waits, starts or has just exited: it crashes again and again.
        state = {"waiting": {"reason": CRASH_LOOP}}
    elif "waiting" in state:
        state = {"waiting": _slim_waiting(state["waiting"] or {}, (known.get("state") or {}).get("waiting") or {})}
    elif "terminated" in state:
        state = {"terminated": exited}
    else:
        state = {"running": {}} if "running" in state else {}
    return {
        "name": container["name"],
        "restartCount": restarts,
        "started": is_started,
        "state": state,
        "lastState": {"terminated": exited} if exited else {},
    }


def _slim_exit(terminated: Body | None) -> Body:
    """Return the fields of an exit that are read: no times and no identity of the container."""
    if not terminated:
        return {}
    texts: Body = {key: observe.clean(terminated[key]) for key in ("reason", "message") if key in terminated}
    return {"exitCode": terminated["exitCode"], **texts} if "exitCode" in terminated else texts


def _slim_waiting(waiting: Body, known: Body) -> Body:
    reason, message = observe.clean(waiting.get("reason")), observe.clean(waiting.get("message"))
    known_reason, known_message = str(known.get("reason", "")), str(known.get("message", ""))
    if {reason, known_reason} <= IMAGE_FAILURES:
        # The first message has the answer of the registry. A back-off is the more certain failure.
        return {
            "reason": known_reason if known_reason != "ErrImagePull" else reason,
            "message": known_message or message,
        }
    return {"reason": reason, "message": observe.steady(message, known_message) if reason == known_reason else message}


VIEWS: Mapping[Resource, View] = {
    MODELS: View(_Model, keep_model),
    CONTROLLER_REVISIONS: View(_Record, keep_record),
    PODS: View(_Pod, keep_pod),
    REPLICA_SETS: View(_Object, keep_metadata, is_metadata_only=True),
    CONFIG_MAPS: View(_Object, keep_config_map, is_metadata_only=True),
    DEPLOYMENTS: View(_Deployment, keep_deployment, has_content=True),
    SERVICES: View(_Service, keep_service, has_content=True),
    AUTOSCALERS: View(_Object, keep_content, has_content=True),
    DISRUPTION_BUDGETS: View(_Object, keep_content, has_content=True),
}
"""What is decoded and stored of each kind; an event that changes nothing of it requeues no model."""
