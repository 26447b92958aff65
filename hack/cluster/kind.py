"""The cluster on machines with Docker: kind runs it, and docker builds the images from the same Dockerfile."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hack import ROOT
from hack.cluster import images, paths
from hack.cluster.report import ClusterError, progress
from hack.cluster.shell import run

METRICS_SERVER = "https://github.com/kubernetes-sigs/metrics-server/releases/download/v0.9.0/components.yaml"


def available() -> bool:
    """Return whether Docker responds and kind and kubectl are installed."""
    if not all(shutil.which(program) for program in ("docker", "kind", "kubectl")):
        return False
    return subprocess.run(["docker", "info"], capture_output=True).returncode == 0


def cluster_name(name: str) -> str:
    """Return the name of the cluster in kind."""
    return f"mlmodel-{name}"


def create_command(name: str, kubeconfig: Path) -> list[str]:
    """Return the command that creates a cluster and waits for its node."""
    return [
        "kind",
        "create",
        "cluster",
        "--name",
        cluster_name(name),
        "--kubeconfig",
        str(kubeconfig),
        "--wait",
        "120s",
    ]


def build_command(target: str, tag: str) -> list[str]:
    """Return the command that builds one image."""
    return ["docker", "build", "--target", target, "--tag", tag, str(ROOT)]


def load_command(name: str, tags: Sequence[str]) -> list[str]:
    """Return the command that loads images into the node of the cluster; kind skips those that it has."""
    return ["kind", "load", "docker-image", "--name", cluster_name(name), *tags]


def exec_command(name: str, argv: Sequence[str]) -> list[str]:
    """Return the command that runs `argv` in the node, where Service and pod addresses are reachable."""
    return ["docker", "exec", "-i", f"{cluster_name(name)}-control-plane", *argv]


@dataclass
class Kind:
    """A cluster that kind runs."""

    name: str
    kubectl: Path = Path("kubectl")
    kubeconfig: Path = field(init=False)

    def __post_init__(self) -> None:
        self.kubeconfig = paths.user_dir(self.name) / "kubeconfig"

    def exec_args(self, argv: Sequence[str]) -> list[str]:
        return exec_command(self.name, argv)

    def audit_log(self) -> Path:
        raise ClusterError("This needs the audit log, which kind does not keep: run it on the embedded cluster.")

    def node_log(self, service: str) -> str:
        return run(exec_command(self.name, ["journalctl", "-n", "200", "-u", service]), what=f"Reading {service}'s log")

    def load_images(self) -> int:
        tags = build_images()
        run(load_command(self.name, tags), what="Loading the images into kind")
        return len(tags)

    def stop(self) -> None:
        run(["kind", "delete", "cluster", "--name", cluster_name(self.name)], what="Deleting the kind cluster")
        self.kubeconfig.unlink(missing_ok=True)


def build_images() -> list[str]:
    """Build the project's images with docker and return their names."""
    tags = []
    for target in images.TARGETS:
        for tag in (f"localhost/mlmodel-{target}", f"mlmodel-{target}"):
            tags.append(f"{tag}:{images.project_version()}")
            progress(f"Building image {tags[-1]}")
            run(build_command(target, tags[-1]), what=f"Building {tags[-1]}")
    return tags


def find(name: str) -> Kind | None:
    """Return the running cluster of that name, or None."""
    clusters = run(["kind", "get", "clusters"], what="Listing kind's clusters").split()
    return Kind(name) if cluster_name(name) in clusters else None


def start(name: str) -> Kind:
    """Create a cluster with the project's images and metrics-server, or use the running one."""
    found = find(name)
    cluster = found or Kind(name)
    if found is None:
        cluster.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        progress(f"Creating kind cluster {cluster_name(name)}")
        run(create_command(name, cluster.kubeconfig), what="Creating the kind cluster")
        _install_metrics_server(cluster)
    cluster.load_images()
    return cluster


def _install_metrics_server(cluster: Kind) -> None:
    kubectl = ["kubectl", "--kubeconfig", str(cluster.kubeconfig), "-n", "kube-system"]
    run([*kubectl, "apply", "-f", METRICS_SERVER], what="Installing metrics-server")
    # kind's kubelets sign their own certificates.
    flag = [{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--kubelet-insecure-tls"}]
    run(
        [*kubectl, "patch", "deployment", "metrics-server", "--type", "json", "--patch", json.dumps(flag)],
        what="Configuring metrics-server",
    )
