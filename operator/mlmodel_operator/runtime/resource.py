"""Kinds of the Kubernetes API, and the fields that all bodies have.

Bodies are plain dicts as the API server sends them: typed models triple the start-up time, and silently drop fields
that are newer than the models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]
Bodies = list[Body]


@dataclass(frozen=True)
class Resource:
    """One kind and its path; ``group`` is empty for the core API."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """``apiVersion`` of the kind."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """Return the URL path of the collection (all namespaces if ``namespace`` is None), object or subresource."""
        parts = ["apis" if self.group else "api", self.api_version]
        if namespace is not None and self.namespaced:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name is not None:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/" + "/".join(parts)


DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
CONTROLLER_REVISIONS = Resource("apps", "v1", "controllerrevisions", "ControllerRevision")
SERVICES = Resource("", "v1", "services", "Service")
PODS = Resource("", "v1", "pods", "Pod")
REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
AUTOSCALERS = Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
DISRUPTION_BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")


def metadata(body: Body) -> Body:
    """Return ``metadata`` of a body; empty if it has none."""
    value = body.get("metadata")
    return value if isinstance(value, dict) else {}


def address(body: Body) -> tuple[str, str]:
    """Return (namespace, name) of a body; the namespace is empty for a cluster-wide object."""
    meta = metadata(body)
    return str(meta.get("namespace", "")), str(meta.get("name", ""))


def resource_version(body: Body) -> str:
    """Return ``metadata.resourceVersion``; empty if it is absent."""
    return str(metadata(body).get("resourceVersion", ""))


def uid(body: Body) -> str:
    """Return ``metadata.uid``; empty if it is absent."""
    return str(metadata(body).get("uid", ""))


def controller_of(body: Body) -> Body | None:
    """Return the ownerReference with ``controller: true``, or None."""
    for reference in metadata(body).get("ownerReferences") or []:
        if reference.get("controller"):
            return dict(reference)
    return None


def belongs_to(body: Body, owner: str) -> bool:
    """Whether the object's controller is the one with the UID ``owner``."""
    return (controller_of(body) or {}).get("uid") == owner


def is_newer(version: str, than: str) -> bool:
    """Whether ``version`` is a later resourceVersion than ``than``.

    Since 1.35 Kubernetes documents that resourceVersions of one kind are comparable integers, as etcd has always made
    them. With other values any difference counts as newer: to handle an event twice is safe, to lose one is not.
    """
    if version.isdecimal() and than.isdecimal():
        return int(version) > int(than)
    return version != than
