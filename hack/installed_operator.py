"""The operator on a throwaway cluster: installed with the very manifest that users apply."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from hack import ROOT
from hack.cluster import Cluster, images
from hack.traffic import wait_for

NAMESPACE = "mlmodel-system"
LABEL = "app.kubernetes.io/name=mlmodel-operator"
"""Selects the operator's pods."""
DEPLOYMENT = "deployment/mlmodel-operator"
_SELECTOR = ("-n", NAMESPACE, "-l", LABEL)


def image(target: str) -> str:
    """The name of one of the project's images, as the manifest has it."""
    return f"mlmodel-{target}:{images.project_version()}"


def install(cluster: Cluster) -> None:
    """``kubectl apply -f manifests/install.yaml``; only the stock router image is replaced by the one that is here."""
    running = cluster.kubectl("get", "-n", NAMESPACE, DEPLOYMENT, "--ignore-not-found", "-o", "name")
    text = (ROOT / "manifests" / "install.yaml").read_text()
    cluster.kubectl("apply", "-f", "-", input=text.replace("docker.io/library/haproxy:3.2", image("router")))
    if running:
        # The tag stays the same when the image changes, so Kubernetes sees no difference.
        cluster.kubectl("rollout", "restart", "-n", NAMESPACE, DEPLOYMENT)
    wait_installed(cluster)


def wait_installed(cluster: Cluster) -> None:
    """Waits until the newest operator is ready and the only one."""
    cluster.kubectl("rollout", "status", "-n", NAMESPACE, DEPLOYMENT, "--timeout=90s", seconds=100)
    wait_for("one operator is left", 60, lambda: len(pods(cluster)) == 1)


@contextmanager
def settings(cluster: Cluster, **environment: str) -> Iterator[None]:
    """The operator with other settings for a while; returns when it leads with them."""
    before = json.loads(cluster.kubectl("get", "-n", NAMESPACE, DEPLOYMENT, "-o", "json"))
    held = {
        entry["name"]: entry["value"]
        for entry in before["spec"]["template"]["spec"]["containers"][0]["env"]
        if entry["name"] in environment
    }

    def put(values: dict[str, str]) -> None:
        assignments = [f"{name}={value}" for name, value in values.items()]
        cluster.kubectl("set", "env", "-n", NAMESPACE, DEPLOYMENT, *assignments)
        wait_installed(cluster)

    put(environment)
    try:
        yield
    finally:
        put(held)


def pods(cluster: Cluster) -> list[str]:
    """Names of the operator's pods."""
    return cluster.kubectl("get", "pods", *_SELECTOR, "-o", "name").split()


def kill(cluster: Cluster) -> None:
    """Ends the operator's process with SIGKILL and waits until kubelet has started it again."""

    def starts() -> int:
        found = json.loads(cluster.kubectl("get", "pods", *_SELECTOR, "-o", "json"))["items"]
        return sum(status["restartCount"] for pod in found for status in pod["status"]["containerStatuses"])

    before = starts()
    name = pods(cluster)[0]
    # A process cannot send SIGKILL to the first one of its own PID namespace: it takes one outside.
    container = json.loads(cluster.kubectl("get", "-n", NAMESPACE, name, "-o", "json"))["status"]["containerStatuses"][
        0
    ]
    cluster.run(["sh", "-c", _KILL, "sh", container["containerID"].split("//")[1]])
    wait_for("kubelet has seen it", 60, lambda: starts() > before)


_KILL = (
    'for file in /proc/[0-9]*/cgroup; do if grep -q "$1" "$file" 2>/dev/null; then'
    ' pid="${file#/proc/}"; kill -9 "${pid%/cgroup}"; fi; done'
)
