"""What others added to an object of the operator and must go, because it changes what runs or who gets requests.

Server-side apply corrects the fields that the operator sets and leaves all others: a container that somebody added, a
command, a selector of another port. Here everything is foreign that is neither in the intent nor a default of the API
server; a default that is missing here costs one patch that changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlmodel_operator.resources.common import Body
from mlmodel_operator.resources.equality import RESTARTED

ANY = object()
"""A field with any value: Kubernetes, an autoscaler or a user of `kubectl` sets it, and it changes no pod."""

_CONTAINER: Mapping[str, Any] = {
    "imagePullPolicy": ("Always", "IfNotPresent"),
    "terminationMessagePath": ("/dev/termination-log",),
    "terminationMessagePolicy": ("File",),
    "resources": ({},),
    "ports": [{"protocol": ("TCP",)}],
    **{
        name: {"successThreshold": (1,), "timeoutSeconds": (1,), "httpGet": {"scheme": ("HTTP",)}}
        for name in ("startupProbe", "readinessProbe", "livenessProbe")
    },
    "env": [{"valueFrom": {"fieldRef": {"apiVersion": ("v1",)}}}],
}
_FIELD = {"fieldRef": {"apiVersion": ("v1",)}}
_POD: Mapping[str, Any] = {
    "restartPolicy": ("Always",),
    "dnsPolicy": ("ClusterFirst",),
    "schedulerName": ("default-scheduler",),
    "containers": [_CONTAINER],
    "initContainers": [_CONTAINER],
    "volumes": [
        {
            "configMap": {"defaultMode": (420,)},
            "secret": {"defaultMode": (420,)},
            "downwardAPI": {"defaultMode": (420,), "items": [_FIELD]},
        }
    ],
}
DEFAULTS: Mapping[str, Any] = {
    "Deployment": {
        "spec": {
            "replicas": ANY,
            "progressDeadlineSeconds": (600,),
            "template": {
                "metadata": {"creationTimestamp": (None,), "annotations": {RESTARTED: ANY}},
                "spec": _POD,
            },
        }
    },
    "Service": {
        "spec": {
            **dict.fromkeys(("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"), ANY),
            "sessionAffinity": ("None",),
            "internalTrafficPolicy": ("Cluster",),
            "ports": [{"protocol": ("TCP",)}],
        }
    },
    "HorizontalPodAutoscaler": {
        "spec": {
            "behavior": {
                "scaleDown": {"selectPolicy": ("Max",)},
                "scaleUp": ANY,
            }
        }
    },
    "NetworkPolicy": {"spec": {"ingress": [{"ports": [{"protocol": ("TCP",)}]}]}},
    "ConfigMap": {},
    "PodDisruptionBudget": {},
}
"""By kind: the fields that an object may have beside those of the intent, with their values."""

_CONTENT = ("spec", "data", "binaryData", "immutable")


def foreign_fields(live: Body, intent: Body) -> Body | None:
    """Return the JSON merge patch that removes from an object what neither the ``intent`` nor the API server sets; None
    if there is nothing to remove, or the kind is not one of the operator's children."""
    defaults = DEFAULTS.get(str(intent.get("kind")))
    if defaults is None:
        return None
    actual, desired = ({key: body[key] for key in _CONTENT if key in body} for body in (live, intent))
    return _removal(actual, desired, defaults)


def _removal(live: Body, intent: Body, defaults: Mapping[str, Any]) -> Body | None:
    change: Body = {}
    for key, value in live.items():
        allowed = defaults.get(key)
        if allowed is ANY:
            continue
        if key not in intent:
            if not _is_default(value, allowed):
                change[key] = None
        elif isinstance(value, dict) and isinstance(intent[key], dict):
            if found := _removal(value, intent[key], allowed if isinstance(allowed, Mapping) else {}):
                change[key] = found
        elif isinstance(value, list) and isinstance(intent[key], list) and _differs(value, intent[key], allowed):
            # A merge patch replaces a list; the API server adds the defaults of its elements again.
            change[key] = intent[key]
    return change or None


def _differs(live: list[Any], intent: list[Any], allowed: Any) -> bool:
    """Whether a list has elements, or elements have fields, that must go."""
    if len(live) != len(intent):
        return True
    inner = allowed[0] if isinstance(allowed, list) else {}
    pairs = [pair for pair in zip(live, intent, strict=True) if isinstance(pair[0], dict) and isinstance(pair[1], dict)]
    return any(_removal(actual, desired, inner) for actual, desired in pairs)


def _is_default(value: Any, allowed: Any) -> bool:
    """Whether a field that the intent does not have may have this value."""
    if isinstance(allowed, tuple):
        return value in allowed
    if isinstance(allowed, Mapping) and isinstance(value, dict):
        return _removal(value, {}, allowed) is None
    return value in ({}, [], None)
