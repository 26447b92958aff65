"""What keeps the children of a model from what the operator desires, and what the user can do about it.

An obstacle of any child is reported: of the candidate, of stable or of the router.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.status import Candidate, Stable, Status
from mlmodel_operator.api.types import MLModel, Serving
from mlmodel_operator.names import SERVER_PORT, SERVICE_PORT, revision_name
from mlmodel_operator.rollout.drift import changed_model
from mlmodel_operator.rollout.observed import Observed, Pod, RevisionState
from mlmodel_operator.rollout.pinning import awaits_files
from mlmodel_operator.rollout.pod_failures import FIRST_FAILURE_SECONDS, failure_of, is_first_failure

RESOURCES = "spec.serving.resources"

CONFIG_MAP_SECONDS = 5.0
"""Time in which a ConfigMap that is applied together with its model exists."""
MOUNT_SECONDS = 15.0
"""Time in which a node normally mounts the volumes of a pod."""
SILENT_SECONDS = 10.0
"""Time without an answer after which an address counts as unreachable; a busy node is silent for a second or two."""
BEHIND_SECONDS = 5.0
"""Time in which a router follows new routes: kubelet writes them into its pod within a second or two."""


@dataclass(frozen=True)
class Obstacle:
    """Why the children are not as desired."""

    reason: Reason
    message: str
    """A clause that names the cause and what to do."""
    stalls: bool
    """Whether it lasts until somebody acts."""


def find_obstacle(model: MLModel, status: Status, observed: Observed, now: float) -> Obstacle | None:
    """Return the obstacle to report, or None: from those that stop all requests to those that stop the candidate."""
    return next(_obstacles(model, status, observed, now), None)


def _obstacles(model: MLModel, status: Status, observed: Observed, now: float) -> Iterator[Obstacle]:
    if observed.refusal:
        yield Obstacle(Reason.APPLY_REJECTED, observed.refusal, stalls=True)
    yield from _of_workload("the router", observed.router, "spec.traffic.router.resources", now)
    yield from _of_router_secrets(model, status, observed, now)
    yield from _unreachable(model, status, observed, now)
    changed = changed_model(observed, status.stable)
    if changed and status.candidate is None:
        # Also if all required pods are ready. A rollout goes on: it may be the repair.
        yield Obstacle(Reason.MODEL_CHANGED, changed, stalls=True)
    for side in (status.stable, status.candidate):
        if side is not None and observed.revision(side.revision).ready < _required(side, model.spec.serving):
            yield from _of_revision(model, side, observed, now)


def _required(side: Stable | Candidate, serving: Serving) -> int:
    """Return the number of pods of one side that must be ready; an autoscaler may desire more of stable."""
    if serving.autoscaling is not None and isinstance(side, Stable):
        return serving.autoscaling.min_replicas
    return max(side.replicas, 1)


def obstacle_of_candidate(model: MLModel, status: Status, observed: Observed, now: float) -> str:
    """Return why the candidate's pods are not ready, as a clause for messages; empty if no cause is known."""
    if observed.refusal:
        return observed.refusal
    candidate = status.candidate
    if candidate is None or observed.revision(candidate.revision).ready >= _required(candidate, model.spec.serving):
        return ""
    return next((found.message for found in _of_revision(model, candidate, observed, now)), "")


def next_look(model: MLModel, status: Status, observed: Observed, now: float) -> float | None:
    """Return the time at which another obstacle may be found although nothing changes; None if there is none."""
    times: list[float] = []
    for side in (status.stable, status.candidate):
        if side is None:
            continue
        state = observed.revision(side.revision)
        for pod in _mounting(state):
            if side.snapshot.model.config_map:
                times.append(pod.created + CONFIG_MAP_SECONDS)
            if _secrets(side):
                times.append(pod.created + MOUNT_SECONDS)
        times += _first_failures(state)
    times += _first_failures(observed.router)
    if has_secrets(model, status):
        times += [pod.created + MOUNT_SECONDS for pod in observed.router.pods if not pod.ready and not pod.terminating]
    return min((time for time in times if time > now), default=None)


def _first_failures(state: RevisionState) -> list[float]:
    return [pod.created + FIRST_FAILURE_SECONDS for pod in state.pods if is_first_failure(pod)]


# ------------------------------------------------------------------------------------------------ one Deployment


def _of_workload(what: str, state: RevisionState, field: str, now: float) -> Iterator[Obstacle]:
    if state.replica_failure:
        message = (
            f"Kubernetes cannot create pods of {what} ({state.replica_failure}): change the quota, LimitRange or"
            f" admission policy, or {field}"
        )
        yield Obstacle(Reason.PODS_NOT_CREATED, message, stalls=True)
    for pod in state.pods:
        failure = failure_of(pod, now)
        if failure is not None and failure.reason == Reason.OUT_OF_MEMORY:
            message = f"the kernel killed a pod of {what} because it used more memory than its limit: raise {field}"
            yield Obstacle(failure.reason, f"{message}.limits.memory", stalls=not state.ready)
        elif failure is not None:
            yield Obstacle(failure.reason, f"a pod of {what} cannot run: {failure.message}", stalls=not state.ready)
        elif pod.unschedulable and not pod.terminating:
            message = f"no node can run a pod of {what} ({pod.unschedulable}): add nodes, or lower {field}.requests"
            yield Obstacle(Reason.UNSCHEDULABLE, message, stalls=False)


def _of_revision(model: MLModel, side: Stable | Candidate, observed: Observed, now: float) -> Iterator[Obstacle]:
    yield from _before_start(model, side, observed, now)
    state = observed.revision(side.revision)
    yield from _of_workload(side.version, state, RESOURCES, now)


def _before_start(model: MLModel, side: Stable | Candidate, observed: Observed, now: float) -> Iterator[Obstacle]:
    """Yield causes that the pods do not report, from the most certain to the least."""
    state = observed.revision(side.revision)
    if state.replica_failure:
        yield from _of_workload(side.version, RevisionState(replica_failure=state.replica_failure), RESOURCES, now)
    name, namespace = side.snapshot.model.config_map, model.owner.namespace
    is_awaited = isinstance(side, Candidate) and awaits_files(side, observed)
    # The last read may be some seconds old.
    is_late = isinstance(side, Candidate) and now >= side.started_at + 2 * CONFIG_MAP_SECONDS
    if name and observed.missing_config_map == name and (_mounting(state) or (is_awaited and is_late)):
        message = (
            f"ConfigMap {name} not found in namespace {namespace}: apply it (`mlmodel package PACKAGE --configmap"
            f" {name} | kubectl apply -f -`), or correct spec.model.uri"
        )
        yield Obstacle(Reason.CONFIG_MAP_MISSING, message, stalls=True)
    if is_awaited and observed.config_map_error:
        message = (
            f"the operator cannot read ConfigMap {name} in namespace {namespace} ({observed.config_map_error}): permit"
            " it, or set spec.model.sha256"
        )
        yield Obstacle(Reason.CONFIG_MAP_UNREADABLE, message, stalls=False)
    secrets = _secrets(side)
    if secrets and any(now - pod.created >= MOUNT_SECONDS for pod in _mounting(state)):
        # A guess, because the operator may not read Secrets.
        message = (
            f"the pods wait for their volumes: check that namespace {namespace} has"
            f" {' and '.join(f'a Secret {name} with the key `{key}`' for name, key, _ in secrets)}, or correct"
            f" {' or '.join(field for *_, field in secrets)}"
        )
        yield Obstacle(Reason.VOLUMES_NOT_MOUNTED, message, stalls=False)


def _secrets(side: Stable | Candidate) -> list[tuple[str, str, str]]:
    """Return the name, the key and the field in the spec of each Secret that the pods of one side wait for."""
    snapshot = side.snapshot
    found = []
    if snapshot.api_keys is not None:
        found.append((snapshot.api_keys.secret_name, "keys", "spec.serving.apiKeys"))
    if snapshot.feedback_key is not None:
        found.append((snapshot.feedback_key.secret_name, "key", "spec.serving.feedbackKey"))
    return found


# --------------------------------------------------------------------------------------------- Secrets of the router


def has_secrets(model: MLModel, status: Status) -> bool:
    """Whether the routers read files of Secrets, certificate or API keys: only they know whether these are valid."""
    sides = (side for side in (status.stable, status.candidate) if side is not None)
    return model.spec.traffic.tls is not None or any(side.snapshot.api_keys is not None for side in sides)


def _of_router_secrets(model: MLModel, status: Status, observed: Observed, now: float) -> Iterator[Obstacle]:
    """Yield what routers, or their pods that do not get ready, show of the Secrets that they mount, which the operator
    may not read."""
    tls, namespace = model.spec.traffic.tls, model.owner.namespace
    sides = (side for side in (status.stable, status.candidate) if side is not None)
    named = sorted({side.snapshot.api_keys.secret_name for side in sides if side.snapshot.api_keys is not None})
    keys = " or ".join(named)
    write_keys = f"write a line `NAME: SHA256` for each API key into the key `keys` of Secret {keys}"
    if tls is not None and any(router.tls == "former" for router in observed.routers):
        message = (
            f"the routers cannot use the renewed certificate in Secret {tls.secret_name} and keep the one before: write"
            " a PEM chain into tls.crt, and the private key of its first certificate, without a password, into tls.key"
        )
        yield Obstacle(Reason.CERTIFICATE_REJECTED, message, stalls=True)
    if keys and any(router.keys in ("former", "closed") for router in observed.routers):
        message = f"the routers cannot read the API keys and keep the ones before: {write_keys}"
        yield Obstacle(Reason.API_KEYS_REJECTED, message, stalls=True)
    late = [pod for pod in observed.router.pods if not pod.ready and now - pod.created >= MOUNT_SECONDS]
    late = [pod for pod in late if not pod.terminating]
    if (tls is not None or keys) and any(pod.waiting == "ContainerCreating" for pod in late):
        awaited = [] if tls is None else [f"{tls.secret_name} (keys `tls.crt` and `tls.key`)"]
        awaited += [f"{keys} (key `keys`)"] if keys else []
        message = (
            f"a router pod waits for its volumes: check that namespace {namespace} has Secret {' and '.join(awaited)},"
            " or correct spec.traffic.tls or spec.serving.apiKeys; router pods from before serve on"
        )
        yield Obstacle(Reason.VOLUMES_NOT_MOUNTED, message, stalls=False)
    elif keys and any(pod.started for pod in late):
        message = f"a router pod is not ready, perhaps because it cannot read the API keys: {write_keys}"
        yield Obstacle(Reason.API_KEYS_REJECTED, message, stalls=False)


# ------------------------------------------------------------------------------------------------------ ConfigMaps


def needs_config_map(status: Status, observed: Observed, now: float) -> tuple[str, tuple[str, ...]] | None:
    """Return the name of the ConfigMap to read for ``Observed.missing_config_map`` and the pods that wait for it.

    None if no pod waits for one; that of ``pinning.config_map_to_pin`` is read anyway. The answer holds while the same
    pods wait: kubelet retries the mount, and then the pod changes.
    """
    if observed.refusal:
        return None
    for side in (status.candidate, status.stable):
        if side is None or not (name := side.snapshot.model.config_map):
            continue
        state = observed.revision(side.revision)
        late = [pod.name for pod in _mounting(state) if now - pod.created >= CONFIG_MAP_SECONDS]
        if late and not state.replica_failure and not state.ready:
            return name, tuple(late)
    return None


def _mounting(state: RevisionState) -> list[Pod]:
    """Return the pods whose containers wait for their volumes."""
    return [pod for pod in state.pods if pod.waiting == "ContainerCreating" and not pod.terminating]


def routers_behind(observed: Observed, now: float, seconds: float = BEHIND_SECONDS) -> set[str]:
    """Return the names of router pods of which a process has not followed its routes for so many seconds."""
    return {
        router.pod
        for router in observed.routers
        if router.behind_since is not None and now >= router.behind_since + seconds
    }


# ----------------------------------------------------------------------------------------------------- unreachable


def _unreachable(model: MLModel, status: Status, observed: Observed, now: float) -> Iterator[Obstacle]:
    """Yield addresses that are ready and have not answered the operator for ``SILENT_SECONDS``, and routers that answer
    and have not followed their routes for as long."""
    name = model.owner.name
    asked = [(f"router pod {router.pod}", router.port, router.silent_since) for router in observed.routers]
    for pod in sorted(routers_behind(observed, now, SILENT_SECONDS)):
        message = (
            f"router pod {pod} does not follow the routes in its annotations: read `kubectl logs {pod} -n"
            f" {model.owner.namespace}`, and delete the pod if the log names no cause"
        )
        yield Obstacle(Reason.ROUTES_NOT_FOLLOWED, message, stalls=True)
    asked += [
        (f"Service {revision_name(name, side.revision)}", SERVER_PORT, observed.silent_services.get(side.revision))
        for side in (status.candidate, status.stable)
        if side is not None
    ]
    asked.append((f"Service {name}", SERVICE_PORT, observed.unreachable_since))
    for what, port, since in asked:
        if since is not None and now >= since + SILENT_SECONDS:
            message = (
                f"{what} does not answer the operator on port {port}: check that no NetworkPolicy blocks connections"
                " from the operator to the pods of the model, or from its router to its servers"
            )
            yield Obstacle(Reason.NO_ANSWER, message, stalls=True)
