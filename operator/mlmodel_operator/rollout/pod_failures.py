"""Why pods do not serve, as they report it: failures that require no statistics, and states that pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.rollout.observed import Pod

MODEL_REJECTED = 3
"""Exit code of the server for a model that can never work."""
SOURCE_UNREACHABLE = 4
"""Exit code of the server for a source that cannot be reached now."""

_IMAGE_FAILURES = {"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
_IMAGE_FIRST_FAILURES = {"ErrImagePull", "CreateContainerConfigError", "CreateContainerError", "ImageInspectError"}
_IMAGE_GRACE_SECONDS = 10.0
"""Time after which a first failure to pull or to create counts; by then kubelet reports most as a back-off."""
_CRASHES = 2


@dataclass(frozen=True)
class Failure:
    """Why a revision cannot serve: a machine-readable reason and a human-readable message."""

    reason: Reason
    message: str


def pod_failure(pods: Sequence[Pod], now: float) -> Failure | None:
    """Return the first failure that rejects a revision at once, or None."""
    for pod in pods:
        failure = None if pod.terminating else _failure_of(pod, now)
        if failure is not None:
            return failure
    return None


def _failure_of(pod: Pod, now: float) -> Failure | None:
    if pod.exit_code == MODEL_REJECTED:
        message = pod.exit_message or "the server rejected the model: read the log of its pod"
        return Failure(Reason.MODEL_REJECTED, message)
    if pod.exit_reason == "OOMKilled":
        return Failure(
            Reason.OUT_OF_MEMORY,
            "the kernel killed the server because it used more memory than its limit: raise"
            " spec.serving.resources.limits.memory",
        )
    is_late = now - pod.created > _IMAGE_GRACE_SECONDS
    if pod.waiting in _IMAGE_FAILURES or (pod.waiting in _IMAGE_FIRST_FAILURES and is_late):
        return Failure(Reason.IMAGE_FAILED, pod.waiting_message or f"the container is waiting: {pod.waiting}")
    has_crashed = pod.waiting == "CrashLoopBackOff" or pod.restarts >= _CRASHES
    if has_crashed and pod.exit_code not in (None, 0, SOURCE_UNREACHABLE):
        message = pod.exit_message or f"the container exited {pod.restarts} times (exit code {pod.exit_code})"
        return Failure(Reason.CRASH_LOOP, message)
    return None


def why_not_ready(pods: Sequence[Pod], obstacle: str) -> str:
    """Return why these pods are not ready, as a clause for messages, never empty: ``obstacle`` if there is one."""
    if obstacle:
        return obstacle
    for pod in pods:
        for text in (pod.exit_message, pod.unschedulable, pod.waiting_message):
            if text:
                return text
        if pod.waiting and pod.waiting not in ("ContainerCreating", "PodInitializing"):
            return f"the container is waiting: {pod.waiting}"
    return "the pods are starting" if pods else "no pod exists yet"
