"""What every child has in common: its name's labels, its owner, and how its containers are locked in."""

from __future__ import annotations

from typing import Any

from mlmodel_operator.api.types import Owner
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

# The user and group of our images; also given to stock images, none of which needs a user of its own.
USER = 65532


def labels(owner: Owner, component: Component, revision_id: str = "") -> dict[str, str]:
    """All labels of a child and its pods. Never ``app.kubernetes.io/instance``: GitOps tools claim it as their own."""
    return {
        MANAGED_BY_LABEL: OPERATOR,
        PART_OF_LABEL: PROJECT,
        NAME_LABEL: owner.name,
    } | selector(owner.name, component, revision_id)


def metadata(owner: Owner, name: str, component: Component, revision_id: str = "") -> Body:
    """Metadata of a child: deleted with its MLModel by Kubernetes' own garbage collection."""
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": labels(owner, component, revision_id),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": owner.name,
                "uid": owner.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def pod_security() -> Body:
    """Pod security context for the ``restricted`` standard."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Body:
    """Container security context for the ``restricted`` standard, and a read-only root besides."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def probe(port: str, path: str, *, period: int, timeout: int, failures: int) -> Body:
    """Return an HTTP probe of the port with this name; ``period`` and ``timeout`` are in seconds."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }


def spread(owner: Owner, component: Component, revision_id: str = "") -> list[Body]:
    """Keep the pods on different nodes where that is possible, without ever holding one back."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(owner.name, component, revision_id)},
        }
    ]


def rolling() -> Body:
    """Replace pods one by one and never have fewer ready than before."""
    return {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def budget(owner: Owner, name: str, component: Component, revision_id: str = "") -> Body:
    """A PodDisruptionBudget that lets one pod go at a time, and any pod that isn't ready: a broken candidate must not
    hold up the draining of a node."""
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
