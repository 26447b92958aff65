"""Install and control the operator on a throwaway cluster, with the manifest that users apply."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from hack import ROOT, faults
from hack.cluster import Cluster, images
from hack.traffic import wait_for
from mlmodel_operator import manifests

NAMESPACE = "mlmodel-system"
LABEL = "app.kubernetes.io/name=mlmodel-operator"
"""Selects the operator's pods."""
DEPLOYMENT = "deployment/mlmodel-operator"
IMAGES = "configmap/mlmodel-operator-images"
STOCK_ROUTER = "docker.io/library/haproxy:3.2"
"""The router's image in the manifest, which a throwaway cluster cannot pull."""
_SELECTOR = ("-n", NAMESPACE, "-l", LABEL)


def image(target: str) -> str:
    """Return the name of one of the project's images, as in the manifest."""
    return f"mlmodel-{target}:{images.project_version()}"


def install(cluster: Cluster) -> None:
    """Run ``kubectl apply -f manifests/install.yaml``, with the stock router image replaced by the project's."""
    running = cluster.kubectl("get", "-n", NAMESPACE, DEPLOYMENT, "--ignore-not-found", "-o", "name")
    _apply(cluster, (ROOT / "manifests" / "install.yaml").read_text())
    if running:
        # The tag stays the same when the image changes, so Kubernetes sees no difference.
        cluster.kubectl("rollout", "restart", "-n", NAMESPACE, DEPLOYMENT)
    wait_installed(cluster)


def _apply(cluster: Cluster, manifest: str) -> None:
    cluster.kubectl("apply", "-f", "-", input=manifest.replace(STOCK_ROUTER, image("router")))


@contextmanager
def network_policies(cluster: Cluster) -> Iterator[None]:
    """Run the operator that maintains NetworkPolicies inside the context; then turn it off as the manual says."""
    _apply(cluster, manifests.text(manifests.options_of(["--network-policies"])))
    try:
        wait_installed(cluster)
        yield
    finally:
        _apply(cluster, (ROOT / "manifests" / "install.yaml").read_text())
        wait_installed(cluster)
        label = "app.kubernetes.io/managed-by=mlmodel-operator"
        cluster.kubectl("delete", "networkpolicies", "--all-namespaces", "--selector", label)


def wait_installed(cluster: Cluster) -> None:
    """Wait until the newest operator pod is ready and the only one."""
    cluster.kubectl("rollout", "status", "-n", NAMESPACE, DEPLOYMENT, "--timeout=300s", seconds=310)
    wait_for("one operator pod is left", 60, lambda: len(pods(cluster)) == 1)


@contextmanager
def settings(cluster: Cluster, **environment: str) -> Iterator[None]:
    """Run the operator with these environment variables inside the context, which is entered when it is ready."""
    before = json.loads(cluster.kubectl("get", "-n", NAMESPACE, DEPLOYMENT, "-o", "json"))
    original = {
        entry["name"]: entry["value"]
        for entry in before["spec"]["template"]["spec"]["containers"][0]["env"]
        if entry["name"] in environment
    }

    def set_environment(values: dict[str, str]) -> None:
        assignments = [f"{name}={value}" for name, value in values.items()]
        cluster.kubectl("set", "env", "-n", NAMESPACE, DEPLOYMENT, *assignments)
        wait_installed(cluster)

    def permit(images: list[str]) -> None:
        """List images in the ConfigMap of the admission policies, beside those of the manifest."""
        change = json.dumps({"data": {"more": "\n".join(images)}})
        cluster.kubectl("patch", "-n", NAMESPACE, IMAGES, "--type=merge", "-p", change)

    permit([value for name, value in environment.items() if name.endswith("_IMAGE")])
    set_environment(environment)
    try:
        yield
    finally:
        set_environment(original)
        permit([])


def pods(cluster: Cluster) -> list[str]:
    """Return the names of the operator's pods, as ``pod/NAME``."""
    return cluster.kubectl("get", "pods", *_SELECTOR, "-o", "name").split()


def kill(cluster: Cluster) -> None:
    """Kill the operator's process with SIGKILL and wait until kubelet has restarted its container."""

    def restarts() -> int:
        found = json.loads(cluster.kubectl("get", "pods", *_SELECTOR, "-o", "json"))["items"]
        return sum(status["restartCount"] for pod in found for status in pod["status"]["containerStatuses"])

    before = restarts()
    name = pods(cluster)[0]
    faults.kill_container(cluster, NAMESPACE, name.removeprefix("pod/"))
    wait_for("kubelet has restarted the operator", 60, lambda: restarts() > before)


def leader(cluster: Cluster) -> str:
    """Return the name of the operator's pod that holds the Lease."""
    found = json.loads(cluster.kubectl("get", "lease", "-n", NAMESPACE, "-o", "json"))["items"]
    (holder,) = (item["spec"]["holderIdentity"] for item in found)
    return str(holder)
