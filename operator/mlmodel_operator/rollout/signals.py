"""Hard signals: states of a pod that need no statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .observed import Pod

MODEL_REJECTED = 3
"""Exit code of the server for a model that can never work."""
SOURCE_UNREACHABLE = 4
"""Exit code of the server for a model that cannot be fetched now."""

_IMAGE = {"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
_IMAGE_SOON = {"ErrImagePull", "CreateContainerConfigError", "CreateContainerError", "ImageInspectError"}
_IMAGE_GRACE = 10.0
"""Seconds after which a first failure to pull or create counts; kubelet turns most into a back-off by then."""
_CRASHES = 2


@dataclass(frozen=True)
class Signal:
    """Why a revision cannot work: a word for machines and a sentence for people."""

    reason: str
    message: str


def hard_signal(pods: Sequence[Pod], now: float) -> Signal | None:
    """The first reason to give a revision up at once, or None."""
    for pod in pods:
        signal = None if pod.leaving else _of(pod, now)
        if signal is not None:
            return signal
    return None


def _of(pod: Pod, now: float) -> Signal | None:
    if pod.exit_code == MODEL_REJECTED:
        return Signal("ModelRejected", pod.exit_message or "the server refused the model; see the log of its pod")
    if pod.exit_reason == "OOMKilled":
        return Signal(
            "OutOfMemory",
            "the server was killed because it used more memory than its limit; raise"
            " spec.serving.resources.limits.memory",
        )
    if pod.waiting in _IMAGE or (pod.waiting in _IMAGE_SOON and now - pod.created > _IMAGE_GRACE):
        return Signal("ImageFailed", pod.waiting_message or f"the pod is waiting: {pod.waiting}")
    crashed = pod.waiting == "CrashLoopBackOff" or pod.restarts >= _CRASHES
    if crashed and pod.exit_code not in (None, 0, SOURCE_UNREACHABLE):
        return Signal("CrashLoop", pod.exit_message or f"the server ended {pod.restarts} times (exit {pod.exit_code})")
    return None


def last_word(pods: Sequence[Pod], source_problem: str) -> str:
    """What the pods say about why they are not ready, for people; never empty."""
    if source_problem:
        return source_problem
    for pod in pods:
        for text in (pod.exit_message, pod.unschedulable, pod.waiting_message):
            if text:
                return text
        if pod.waiting and pod.waiting not in ("ContainerCreating", "PodInitializing"):
            return f"the pod is waiting: {pod.waiting}"
    return "the pods are starting" if pods else "no pod exists yet"
