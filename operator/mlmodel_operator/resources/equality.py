"""Whether an object in the cluster is what the operator would build."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from mlmodel_operator.names import APPLIED_ANNOTATION
from mlmodel_operator.resources.common import Body

RESTARTED = "kubectl.kubernetes.io/restartedAt"
"""Annotation of the pod template that `kubectl rollout restart` sets."""


def difference(live: Body, expected: Body) -> str:
    """Return the path of the first field in which ``live`` differs from ``expected``; empty if it does not.

    ``expected`` has all defaults of the API server. The spec must be the same, also in fields that the operator does
    not set; labels and annotations must include the expected ones. What Kubernetes, an autoscaler or the operator
    itself changes later is left out: the number of pods, addresses and node ports of a Service.
    """
    for key in ("labels", "annotations"):
        actual, desired = (dict((body.get("metadata") or {}).get(key) or {}) for body in (live, expected))
        desired.pop(APPLIED_ANNOTATION, None)
        for name, value in sorted(desired.items()):
            if actual.get(name) != value:
                return f"metadata.{key}[{name}]"
    without = _WITHOUT.get(str(expected.get("kind")), _nothing)
    return _first_difference(without(live.get("spec") or {}), without(expected.get("spec") or {}), "spec")


def _first_difference(live: Any, expected: Any, path: str) -> str:
    if isinstance(live, dict) and isinstance(expected, dict):
        for key in sorted(live.keys() | expected.keys()):
            if key not in live or key not in expected:
                return f"{path}.{key}"
            if found := _first_difference(live[key], expected[key], f"{path}.{key}"):
                return found
        return ""
    if isinstance(live, list) and isinstance(expected, list) and len(live) == len(expected):
        pairs = enumerate(zip(live, expected, strict=True))
        return next((found for at, pair in pairs if (found := _first_difference(*pair, f"{path}[{at}]"))), "")
    return "" if live == expected else path


def _nothing(spec: Body) -> Body:
    return spec


def _of_deployment(spec: Body) -> Body:
    spec = deepcopy({key: value for key, value in spec.items() if key != "replicas"})
    meta = (spec.get("template") or {}).get("metadata") or {}
    annotations = meta.get("annotations") or {}
    annotations.pop(RESTARTED, None)
    if not annotations:
        meta.pop("annotations", None)
    # The API server returns the field as null in one place and omits it in another.
    meta.pop("creationTimestamp", None)
    return spec


def _of_service(spec: Body) -> Body:
    kept = {key: value for key, value in spec.items() if key not in ("clusterIP", "clusterIPs", "healthCheckNodePort")}
    ports = [{key: value for key, value in port.items() if key != "nodePort"} for port in spec.get("ports") or []]
    return {**kept, "ports": ports}


def _of_autoscaler(spec: Body) -> Body:
    return {key: value for key, value in spec.items() if key not in ("minReplicas", "maxReplicas")}


_WITHOUT: dict[str, Callable[[Body], Body]] = {
    "Deployment": _of_deployment,
    "Service": _of_service,
    "HorizontalPodAutoscaler": _of_autoscaler,
}
