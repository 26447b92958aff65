"""From bodies of the API server to the input of a decision. Pure; a field that is absent has its empty value."""

from __future__ import annotations

import re
import unicodedata
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

from mlmodel_operator.api.codec import DecodeError, decode, parse_time
from mlmodel_operator.api.figures import MAX_FEATURE
from mlmodel_operator.api.types import MLModel, Owner, Spec
from mlmodel_operator.names import (
    FETCHER,
    GROUP,
    REVISION_LABEL,
    ROUTER_STATUS_PORTS,
    SERVER,
    Component,
)
from mlmodel_operator.resources.found import has_page, read_files_sha256, rehearses
from mlmodel_operator.rollout.evidence import labels
from mlmodel_operator.rollout.observed import Labelled, Measured, Pod, Rehearsing, RevisionState, Router
from mlmodel_operator.rollout.pod_failures import CRASH_LOOP
from mlmodel_operator.runtime.resource import Body, controller_of, metadata, uid
from mlmodel_operator.scrape import FiguresPage, LabelsPage, PairsPage, RouterStatus

MAX_TEXT = 400
"""Maximum number of characters of a text of kubelet, a container or the API server in a message of ours."""

_SPACES = re.compile(r"\s+")
_DIGITS = re.compile(r"\d+")


# ------------------------------------------------------------------------------------------------------------- texts


def clean(text: Any) -> str:
    """Return a text of others in one line without control and format characters, at most ``MAX_TEXT`` long.

    A container writes its own termination message, and a terminal interprets escape sequences.
    """
    # A multiple of the limit first: the text may be long, and spaces may go.
    printable = (" " if _is_control(c) else c for c in str(text or "")[: 4 * MAX_TEXT])
    line = _SPACES.sub(" ", "".join(printable)).strip()
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1].rstrip() + "…"


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def steady(text: str, known: str) -> str:
    """Return ``known`` if ``text`` differs from it only in numbers: a number of nodes or seconds is not news."""
    return known if _DIGITS.sub("0", text) == _DIGITS.sub("0", known) else text


# ------------------------------------------------------------------------------------------------------ single fields


def read_model(body: Body) -> MLModel:
    """Return the MLModel in ``body``; raise DecodeError if the spec does not fit, which the schema prevents."""
    meta = metadata(body)
    owner = Owner(str(meta["name"]), str(meta["namespace"]), uid(body))
    annotations = {
        name: str(value) for name, value in (meta.get("annotations") or {}).items() if name.startswith(f"{GROUP}/")
    }
    return MLModel(owner, int(meta.get("generation", 1)), decode(Spec, body.get("spec"), "spec"), annotations)


def label(body: Body, name: str) -> str:
    """Return the value of a label; empty if the object does not have it."""
    return str((metadata(body).get("labels") or {}).get(name, ""))


def annotation(body: Body, name: str) -> str:
    """Return the value of an annotation; empty if the object does not have it."""
    return str((metadata(body).get("annotations") or {}).get(name, ""))


def is_terminating(body: Body) -> bool:
    """Whether the object is being deleted."""
    return bool(metadata(body).get("deletionTimestamp"))


def is_finished(pod: Body) -> bool:
    """Whether no container of the pod will run again, as after an eviction."""
    return (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")


def is_ready(pod: Body) -> bool:
    """Whether the pod's Ready condition is true."""
    return condition_of(pod, "Ready").get("status") == "True"


def created(body: Body) -> float:
    """Return the creation time in seconds since the epoch; 0 if the object has none."""
    return _time(metadata(body).get("creationTimestamp")) or 0.0


def pod_address(pod: Body) -> str:
    """Return the IP of the pod; empty until it has one."""
    return str((pod.get("status") or {}).get("podIP") or "")


def replica_failure(deployment: Body) -> str:
    """Return why the Deployment cannot create pods (a quota, an admission policy); empty if it can."""
    condition = condition_of(deployment, "ReplicaFailure")
    return clean(condition.get("message")) if condition.get("status") == "True" else ""


def _time(text: Any) -> float | None:
    try:
        return parse_time(text)
    except DecodeError:
        return None


def condition_of(body: Body, kind: str) -> Body:
    """Return a condition in the status; empty if the object does not have it."""
    for condition in (body.get("status") or {}).get("conditions") or []:
        if condition.get("type") == kind:
            return dict(condition)
    return {}


# -------------------------------------------------------------------------------------------------------------- pods


def pods_of(deployment: Body, replica_sets: Iterable[Body], pods: Iterable[Body]) -> list[Body]:
    """Return the pods that ReplicaSets of this Deployment control, by UID, without those that are finished.

    Labels prove nothing: anyone who may create a pod may copy them.
    """
    sets = {uid(body) for body in replica_sets if _controller_uid(body) == uid(deployment)} - {""}
    return [pod for pod in pods if _controller_uid(pod) in sets and not is_finished(pod)]


def _controller_uid(body: Body) -> str:
    return str((controller_of(body) or {}).get("uid", ""))


def read_pod(body: Body, container_name: Component = SERVER) -> Pod:
    """Return one pod; ``container_name`` is its main container.

    Until the model is fetched, restarts, waiting and exits are those of the init container that fetches it.
    """
    # By name: the sidecar of a mesh may come first, and its failures are not those of the model.
    fetcher = fetcher_of(body) if container_name == SERVER else {}
    is_fetching = bool(fetcher) and not has_succeeded(fetcher)
    container = fetcher if is_fetching else container_of(body, container_name)
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    # So kubelet calls it in a pod with init containers.
    reason = (
        "ContainerCreating" if is_fetching and waiting.get("reason") == "PodInitializing" else waiting.get("reason")
    )
    exited = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    scheduled, ready = condition_of(body, "PodScheduled"), condition_of(body, "Ready")
    return Pod(
        name=str(metadata(body).get("name", "")),
        created=created(body),
        ready=ready.get("status") == "True",
        since=_time(ready.get("lastTransitionTime")),
        started="running" in state and container.get("started") is True and not is_fetching,
        fetching="running" in state and is_fetching,
        terminating=is_terminating(body),
        restarts=int(container.get("restartCount", 0)),
        waiting=clean(reason),
        # Of a crash loop it has only the present delay, which changes.
        waiting_message="" if reason == CRASH_LOOP else clean(waiting.get("message")),
        exit_code=exited.get("exitCode"),
        exit_reason=clean(exited.get("reason")),
        exit_message=clean(exited.get("message")),
        unschedulable=clean(scheduled.get("message")) if scheduled.get("status") == "False" else "",
    )


def fetcher_of(pod: Body) -> Body:
    """Return the status of the init container that fetches the model; empty if the pod has none."""
    return container_of(pod, FETCHER, "initContainerStatuses")


def has_succeeded(container: Body) -> bool:
    """Whether the container has exited with code 0."""
    return ((container.get("state") or {}).get("terminated") or {}).get("exitCode") == 0


def container_of(pod: Body, name: str, kind: str = "containerStatuses") -> Body:
    """Return the status of a container; empty if the pod does not have it."""
    containers = (pod.get("status") or {}).get(kind) or []
    return next((item for item in containers if item.get("name") == name), {})


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
        name: read_workload(by_revision.get(name), grouped.get(name, ()), addresses.get(name, ""))
        for name in (by_revision | addresses)
        if name
    }


def read_workload(deployment: Body | None, pods: Iterable[Pod], address: str = "") -> RevisionState:
    """Return the state of one Deployment, None if it does not exist, with its pods."""
    if deployment is None:
        return RevisionState(tuple(pods), address)
    spec = deployment.get("spec") or {}
    return RevisionState(
        tuple(pods),
        address,
        replicas=int(spec.get("replicas", 1)),
        deployed=True,
        files_sha256=read_files_sha256(deployment),
        replica_failure=replica_failure(deployment),
        rehearses=rehearses(deployment),
        has_page=has_page(deployment),
    )


def processes(pods: Iterable[Body]) -> dict[str, tuple[str, int]]:
    """Return IP (empty until the pod has one) and status port of each HAProxy process of router pods, by name."""
    return {
        f"{metadata(pod).get('name', '')}/{number}": (pod_address(pod), port)
        for pod in pods
        for number, port in enumerate(ROUTER_STATUS_PORTS, 1)
    }


def read_router(
    name: str,
    port: int,
    status: RouterStatus | None,
    silent_since: float | None = None,
    behind_since: float | None = None,
) -> Router:
    """Return one process of a router with the status that it reported, or the time since which it does not answer;
    ``behind_since`` is the time since which it follows other routes."""
    if status is None:
        return Router(name, silent_since=silent_since, port=port)
    return Router(
        name,
        status.id,
        status.boot,
        status.candidate,
        status.stable_ms,
        status.weights,
        status.uncounted,
        tls=status.tls,
        keys=status.keys,
        behind_since=behind_since,
        port=port,
    )


def read_labelled(pod: str, side: str, rollout: tuple[str, str], page: LabelsPage | None, largest_bin: int) -> Labelled:
    """Return one pod of the revision ``side`` with the page that it answered, None if it has not.

    ``rollout`` are the revisions of stable and of the candidate. A page about another rollout has no labels of this
    one.
    """
    if page is None or page.revision != side:
        return Labelled(pod)
    stable, candidate = rollout
    has_other = page.other == labels.hash_of(stable if side == candidate else candidate)
    weights = page.weights if page.tag == labels.tag_of(candidate) else {}
    sides = labels.sides_of(weights, is_candidate=side == candidate, has_other=has_other)
    return Labelled(pod, page.boot, page.kind, largest_bin, sides)


def read_measured(pod: str, side: str, page: FiguresPage | None) -> Measured | None:
    """Return the figures of one pod of the revision ``side``; None if it has not answered. The name of the feature is a
    text of the pod."""
    if page is None or page.revision != side:
        return None
    drift = replace(page.drift, feature=clean(page.drift.feature)[:MAX_FEATURE])
    return Measured(pod, side, page.boot, page.calls, page.milliwatts, drift)


def read_rehearsing(
    pod: str, revision: str, session: str, page: PairsPage | None, silent_since: float | None
) -> Rehearsing:
    """Return one pod of a ``revision`` with the page that it answered, or the time since which it has not.

    A page of another ``session`` is of an earlier rehearsal: the pod has not begun this one.
    """
    if page is None or page.revision != revision:
        return Rehearsing(pod, silent_since=silent_since)
    if page.session not in ("", session):
        return Rehearsing(pod, page.boot)
    return Rehearsing(pod, page.boot, page.candidate, page.pairs, is_named=bool(page.session))


# -------------------------------------------------------------------------------------------------------- ConfigMaps


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
