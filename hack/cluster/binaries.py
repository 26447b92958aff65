"""Build Kubernetes and the programs that it needs from the pinned Go module, once for each set of pins."""

import hashlib
import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import paths
from hack.cluster.report import ClusterError, progress
from hack.cluster.shell import locked, run

MODULE = paths.HERE / "kubernetes"
OWN = "kubetools"
"""The path of the module: packages below it are ours."""


@dataclass(frozen=True)
class Program:
    """One program of the module: its file name, its package, whether it needs a C compiler, and its build tags."""

    name: str
    package: str
    c: bool = False
    tags: str = ""


PROGRAMS = (
    Program("etcd", "go.etcd.io/etcd/server/v3"),
    Program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    Program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    Program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    Program("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    Program("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    Program("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    Program("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
    Program("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
    Program("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
    # The seccomp profile `RuntimeDefault` needs a C library in runc.
    Program("runc", "github.com/opencontainers/runc", c=True, tags="seccomp"),
    # Routed pods, as in kind: unlike a bridge, they reach Services without the kernel module br_netfilter.
    Program("ptp", "github.com/containernetworking/plugins/plugins/main/ptp"),
    Program("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local"),
    Program("loopback", "github.com/containernetworking/plugins/plugins/main/loopback"),
    Program("coredns", "github.com/coredns/coredns"),
    Program("metrics-server", "sigs.k8s.io/metrics-server/cmd/metrics-server"),
    Program("netpol", f"{OWN}/netpol"),
)


def kubernetes_version(go_mod: str) -> str:
    """Return the pinned version of Kubernetes, such as "v1.37.2", from the text of go.mod."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\d+\.\d+\.\d+)", go_mod, re.MULTILINE)
    if not found:
        raise ClusterError(f"{MODULE / 'go.mod'} does not require k8s.io/kubernetes.")
    return found[1]


def linker_flags(version: str) -> str:
    """Return the flags that set the version of the programs; without them the API server reports v0.0.0."""
    major, minor, _ = version.removeprefix("v").split(".")
    variables = {
        "k8s.io/component-base/version.gitVersion": version,
        "k8s.io/component-base/version.gitMajor": major,
        "k8s.io/component-base/version.gitMinor": minor,
        "k8s.io/client-go/pkg/version.gitVersion": version,
    }
    return " ".join(["-s -w", *(f"-X {name}={value}" for name, value in variables.items())])


def sources() -> str:
    """Return the text of the Go files and pins of the module, each after its name."""
    files = sorted([MODULE / "go.mod", MODULE / "go.sum", *MODULE.glob("*/*.go")])
    return "\0".join(f"{file.relative_to(MODULE)}\0{file.read_text(encoding='utf-8')}" for file in files)


def cache_key(sources: str, flags: str, machine: str) -> str:
    """Return the name of the folder for programs built from exactly these inputs."""
    parts = [sources, flags, machine, *map(repr, PROGRAMS)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def build() -> Path:
    """Return the folder with all programs; build those that do not exist yet.

    An interrupted build keeps the finished programs, and the next build continues with the others.
    """
    version = kubernetes_version((MODULE / "go.mod").read_text(encoding="utf-8"))
    flags = linker_flags(version)
    key = cache_key(sources(), flags, platform.machine())
    folder = paths.cache() / "bin" / key
    if all((folder / program.name).exists() for program in PROGRAMS):
        return folder
    with locked(paths.cache() / "bin.lock"):
        _build_missing(folder, version, flags)
    return folder


def _build_missing(folder: Path, version: str, flags: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    missing = [program for program in PROGRAMS if not (folder / program.name).exists()]
    if not missing:
        return
    started = time.monotonic()
    progress(f"Building Kubernetes {version}: {len(missing)} programs; the first time takes 10 to 25 min on 2 cores")
    run(["go", "mod", "download"], cwd=MODULE, what="Downloading the Go modules", log=folder / "download.log")
    for number, program in enumerate(missing, 1):
        minutes = (time.monotonic() - started) / 60
        progress(f"  building {number} of {len(missing)}: {program.name} ({minutes:.1f} min so far)")
        unfinished = folder / f".{program.name}.unfinished"
        run(
            ["go", "build", "-trimpath", "-tags", program.tags, "-ldflags", flags, "-o", unfinished, program.package],
            cwd=MODULE,
            env={"CGO_ENABLED": "1" if program.c else "0"},
            what=f"Building {program.name}",
            log=folder / f"{program.name}.log",
        )
        os.replace(unfinished, folder / program.name)
    progress(f"  built in {(time.monotonic() - started) / 60:.1f} min, cached in {folder}")
