"""The inputs that the tests of the builders share, and the questions that they ask of every body."""

from __future__ import annotations

from typing import Any

from mlmodel_operator.api.types import ModelSource, Owner, Revision, Snapshot

Body = dict[str, Any]

OWNER = Owner("fraud", "bank", "7f3e")
IMAGE = "example/mlmodel-server:0.1.0"


def revision(uri: str = "builtin://iris", *, serving: dict[str, Any] | None = None, **model: Any) -> Revision:
    """A revision of fraud with the id 5f1c2e9a; ``serving`` are further fields of its snapshot."""
    return Revision("5f1c2e9a", Snapshot(ModelSource(uri, **model), IMAGE, **(serving or {})))


def pod(deployment: Body) -> Body:
    """The pod's spec."""
    found: Body = deployment["spec"]["template"]["spec"]
    return found


def container(deployment: Body) -> Body:
    """The pod's only container."""
    (found,) = pod(deployment)["containers"]
    return dict(found)


def restricted(spec: Body) -> list[str]:
    """What keeps a pod's spec from the `restricted` pod security standard and our own rules beyond it."""
    wrong = []
    security = spec.get("securityContext", {})
    if not (security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0):
        wrong.append("runs as root")
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        wrong.append("no seccomp profile")
    if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        wrong.append("host namespaces")
    for volume in spec.get("volumes", []):
        if not set(volume) - {"name"} <= {"configMap", "emptyDir", "image", "persistentVolumeClaim", "secret"}:
            wrong.append(f"volume {volume}")
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            wrong.append("a scratch volume without a limit")
    if spec.get("enableServiceLinks") is not False:
        wrong.append("service links")
    for one in spec["containers"]:
        inner = one.get("securityContext", {})
        if inner.get("allowPrivilegeEscalation") is not False:
            wrong.append("privilege escalation")
        if inner.get("capabilities") != {"drop": ["ALL"]}:
            wrong.append("capabilities")
        if inner.get("readOnlyRootFilesystem") is not True:
            wrong.append("writable root")
        if inner.get("privileged"):
            wrong.append("privileged")
    return wrong
