"""Why pods do not serve, as they report it: failures that require no statistics, and states that pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlmodel_operator.api.codec import format_time
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.rollout.observed import MANY_RESTARTS, Pod

MODEL_REJECTED = 3
"""Exit code of the server for a model that can never work."""
SOURCE_UNREACHABLE = 4
"""Exit code of the server for a source that cannot be reached now."""

CRASH_LOOP = "CrashLoopBackOff"
_PULL_FAILURES = {"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
_FIRST_PULL_FAILURES = {"ErrImagePull", "ImageInspectError"}
_CREATE_FAILURES = {"CreateContainerConfigError", "CreateContainerError"}
IMAGE_FAILURES = _PULL_FAILURES | _FIRST_PULL_FAILURES
"""Reasons of a container that waits for its image; kubelet alternates between some of them."""

FIRST_FAILURE_SECONDS = 10.0
"""Time after which a first failure to pull or to create counts; by then kubelet reports most as a back-off."""
_STARTING = {"", "ContainerCreating", "PodInitializing"}


@dataclass(frozen=True)
class Failure:
    """Why a revision cannot serve: a machine-readable reason and a human-readable message."""

    reason: Reason
    message: str


def pod_failure(pods: Sequence[Pod], now: float, *, has_served: bool = False) -> Failure | None:
    """Return the failure that rejects a revision at once, or None.

    The trouble of one pod, often that of its node, does not outweigh pods that serve. So a failure counts only while no
    pod is ready; or if every new pod has one, these are at least two, and at least as many as the ready ones. Other
    pods that never get ready end the rollout at its deadline. ``has_served`` is whether the revision had requests:
    then its image can be pulled, and a node that cannot pull it is not a failure of the revision.
    """
    new = [pod for pod in pods if not pod.ready and not pod.terminating]
    ready = sum(pod.ready and not pod.terminating for pod in pods)
    failures = [failure for pod in new if (failure := failure_of(pod, now)) is not None]
    if ready and (len(failures) < len(new) or len(failures) < max(2, ready)):
        return None
    counted = (failure for failure in failures if not (has_served and failure.reason == Reason.IMAGE_FAILED))
    return next(counted, None)


def failure_of(pod: Pod, now: float) -> Failure | None:
    """Return why this pod cannot serve, if it reports a failure that a restart does not repair."""
    if pod.ready or pod.terminating:
        return None  # an earlier container may have failed
    if pod.exit_code == MODEL_REJECTED:
        message = pod.exit_message or "the server rejected the model: read the log of its pod"
        return Failure(Reason.MODEL_REJECTED, message)
    if pod.exit_reason == "OOMKilled":
        return Failure(
            Reason.OUT_OF_MEMORY,
            "the kernel killed the server because it used more memory than its limit: raise"
            " spec.serving.resources.limits.memory",
        )
    is_late = now - pod.created >= FIRST_FAILURE_SECONDS
    if pod.waiting in _PULL_FAILURES or (is_first_failure(pod) and is_late):
        return Failure(Reason.IMAGE_FAILED, pod.waiting_message or f"the container is waiting: {pod.waiting}")
    has_crashed = pod.waiting == CRASH_LOOP or pod.restarts >= MANY_RESTARTS
    if has_crashed and pod.exit_code not in (None, 0, SOURCE_UNREACHABLE):
        message = pod.exit_message or f"the container exited repeatedly (exit code {pod.exit_code}): read its log"
        return Failure(Reason.CRASH_LOOP, message)
    return None


def is_first_failure(pod: Pod) -> bool:
    """Whether the pod could not pull its image or create its container once, which may pass within seconds."""
    return pod.waiting in _FIRST_PULL_FAILURES | _CREATE_FAILURES


def why_not_ready(pods: Sequence[Pod], obstacle: str) -> str:
    """Return why these pods are not all ready, as a clause for messages, never empty: ``obstacle`` if there is one."""
    if obstacle:
        return obstacle
    starting = [pod for pod in pods if not pod.ready and not pod.terminating]
    for pod in starting:
        if state := _state_of(pod):
            return state
    if starting:
        return "the pods are starting"
    if any(pod.terminating for pod in pods):
        return "the pods terminate; Kubernetes has not created others yet"
    return "Kubernetes has not created the other pods yet" if pods else "no pod exists yet"


def _state_of(pod: Pod) -> str:
    """Return why this pod is not ready; empty while it starts."""
    if pod.started:
        since = f" since {format_time(pod.since).partition('.')[0]}Z" if pod.since else ""
        return f"pod {pod.name} runs and is not ready{since}: read its log if this lasts"
    failure = failure_of(pod, float("inf"))
    if failure is not None:
        return failure.message
    if pod.exit_message or pod.unschedulable or pod.waiting_message:
        return pod.exit_message or pod.unschedulable or pod.waiting_message
    if pod.fetching:
        return f"pod {pod.name} downloads the model"
    if pod.waiting == CRASH_LOOP:
        return f"the container exits repeatedly (exit code {pod.exit_code}): read its log"
    return "" if pod.waiting in _STARTING else f"the container is waiting: {pod.waiting}"
