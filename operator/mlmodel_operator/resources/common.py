"""What all children have in common: labels, owner and security settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlmodel_operator.api.types import Owner, Resources
from mlmodel_operator.names import (
    API_VERSION,
    KIND,
    MANAGED_BY_LABEL,
    NAME_LABEL,
    OPERATOR,
    PART_OF_LABEL,
    PROJECT,
    Component,
    selector,
)

Body = dict[str, Any]

GRPC_PROTOCOL = "kubernetes.io/h2c"
"""Standard name of HTTP/2 without TLS, for `appProtocol` of a Service."""

# User and group of our images, and of the stock HAProxy image, which requires no particular user.
USER = 65532


def labels(owner: Owner, component: Component, revision_id: str = "") -> dict[str, str]:
    """Return all labels of a child and its pods, without ``app.kubernetes.io/instance``, which GitOps tools
    overwrite."""
    return {
        MANAGED_BY_LABEL: OPERATOR,
        PART_OF_LABEL: PROJECT,
        NAME_LABEL: owner.name,
    } | selector(owner.name, component, revision_id)


def metadata(owner: Owner, name: str, component: Component, revision_id: str = "") -> Body:
    """Return the metadata of a child; the garbage collector deletes the child with its MLModel."""
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": labels(owner, component, revision_id),
        "ownerReferences": owner_references(owner),
    }


def owner_references(owner: Owner) -> list[Body]:
    """Return the ownerReferences of a child: the MLModel controls it."""
    return [
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": owner.name,
            "uid": owner.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def pod_security() -> Body:
    """Return the security context of a pod for the ``restricted`` standard."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Body:
    """Return the security context of a container for the ``restricted`` standard, with a read-only root."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def probe(port: str, path: str, *, period: int, timeout: int, failures: int) -> Body:
    """Return an HTTP probe of the named port; ``period`` and ``timeout`` are in seconds."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }


def resources(desired: Resources, default_requests: Mapping[str, str]) -> Body:
    """Return the resources of the spec, with default requests for those without a request or limit. A limit without a
    request is also the request (a rule of Kubernetes), which a default could exceed."""
    defaults = {name: amount for name, amount in default_requests.items() if name not in desired.limits}
    found: Body = {}
    if requests := defaults | dict(desired.requests):
        found["requests"] = requests
    if desired.limits:
        found["limits"] = dict(desired.limits)
    return found


def spread(owner: Owner, component: Component, revision_id: str = "") -> list[Body]:
    """Return constraints that place pods on different nodes if possible, and still schedule them if not."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(owner.name, component, revision_id)},
        }
    ]


def rolling() -> Body:
    """Return the strategy that replaces pods one by one and never has fewer ready pods than before."""
    return {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def budget(owner: Owner, name: str, component: Component, revision_id: str = "") -> Body:
    """Return a PodDisruptionBudget that permits the eviction of one ready pod at a time, and of any pod that is not
    ready: a broken candidate must not block the draining of a node."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, name, component, revision_id),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector(owner.name, component, revision_id)},
        },
    }
