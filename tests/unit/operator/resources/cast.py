"""Inputs and checks that the tests of the builders share."""

from __future__ import annotations

from typing import Any

from mlmodel_operator.api.types import ModelSource, Owner, Revision, Snapshot

Body = dict[str, Any]

OWNER = Owner("fraud", "bank", "7f3e")
IMAGE = "example/mlmodel-server:0.1.0"


def revision(uri: str = "builtin://iris", *, serving: dict[str, Any] | None = None, **model: Any) -> Revision:
    """Return a revision of fraud with the identity 5f1c2e9a; ``serving`` has further fields of its snapshot."""
    return Revision("5f1c2e9a", Snapshot(ModelSource(uri, **model), IMAGE, **(serving or {})))


def pod(deployment: Body) -> Body:
    """Return the spec of the pod."""
    spec: Body = deployment["spec"]["template"]["spec"]
    return spec


def container(deployment: Body) -> Body:
    """Return the only container of the pod."""
    (only,) = pod(deployment)["containers"]
    return dict(only)


def fetcher(deployment: Body) -> Body:
    """Return the only init container of the pod."""
    (only,) = pod(deployment)["initContainers"]
    return dict(only)


def restricted(spec: Body) -> list[str]:
    """Return what violates the `restricted` pod security standard, or our own rules beyond it."""
    problems = []
    security = spec.get("securityContext", {})
    if not (security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0):
        problems.append("runs as root")
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        problems.append("no seccomp profile")
    if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        problems.append("host namespaces")
    for volume in spec.get("volumes", []):
        allowed = {"configMap", "downwardAPI", "emptyDir", "image", "persistentVolumeClaim", "secret"}
        if not set(volume) - {"name"} <= allowed:
            problems.append(f"volume {volume}")
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            problems.append("a scratch volume without a limit")
    if spec.get("enableServiceLinks") is not False:
        problems.append("service links")
    for item in (*spec.get("initContainers", []), *spec["containers"]):
        inner = item.get("securityContext", {})
        if inner.get("allowPrivilegeEscalation") is not False:
            problems.append("privilege escalation")
        if inner.get("capabilities") != {"drop": ["ALL"]}:
            problems.append("capabilities")
        if inner.get("readOnlyRootFilesystem") is not True:
            problems.append("writable root")
        if inner.get("privileged"):
            problems.append("privileged")
    return problems
