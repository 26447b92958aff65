"""Report what this machine lacks for the embedded cluster, and install it with `apt-get` where possible."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import paths
from hack.cluster.report import ClusterError, progress
from hack.cluster.shell import run

MINIMUM_GO = (1, 21)
"""From this version on, Go downloads the newer version that the pinned module requires."""


@dataclass(frozen=True)
class Tool:
    """A program, its Debian package, and its purpose."""

    program: str
    package: str
    purpose: str


TOOLS = (
    Tool("unshare", "util-linux", "makes the cluster's namespaces"),
    Tool("nsenter", "util-linux", "enters the cluster's namespaces"),
    Tool("ip", "iproute2", "sets up the node's network"),
    Tool("nft", "nftables", "writes the rules of kube-proxy"),
    Tool("iptables", "iptables", "writes the rules of NetworkPolicies"),
    Tool("ipset", "ipset", "writes the sets of addresses of NetworkPolicies"),
    Tool("gcc", "gcc", "compiles the C code of runc and the pause image"),
    Tool("pkg-config", "pkg-config", "finds the library of runc"),
    Tool("buildah", "buildah", "builds the images"),
    Tool("debootstrap", "debootstrap", "builds the base image"),
    Tool("dpkg-deb", "dpkg", "unpacks HAProxy, for the tests and the image of the router"),
    Tool("gpgv", "gpgv", "verifies the index of HAProxy's package"),
)

# Not programs: C headers for the compiler, and the keys of the Debian archive.
_LIBRARIES = ("libc6-dev", "libseccomp-dev", "debian-archive-keyring")


@dataclass(frozen=True)
class Machine:
    """The facts about this machine that the report depends on, as values so that it can be tested."""

    system: str
    root: bool
    go: tuple[int, int] | None
    has: Callable[[str], bool]
    seccomp_headers: bool
    can_apt: bool
    cache_filesystem: str
    """The type of the file system that holds the caches and the running clusters, such as "ext4"."""


def inspect() -> Machine:
    """Return the facts about this machine."""
    return Machine(
        system=sys.platform,
        root=os.geteuid() == 0,
        go=go_version(),
        has=lambda program: shutil.which(program) is not None,
        seccomp_headers=subprocess.run(["pkg-config", "--exists", "libseccomp"], capture_output=True).returncode == 0
        if shutil.which("pkg-config")
        else False,
        can_apt=shutil.which("apt-get") is not None,
        cache_filesystem=filesystem(paths.cache(), Path("/proc/self/mounts")),
    )


def filesystem(path: Path, mounts: Path) -> str:
    """Return the type of the file system that holds `path`, from a list of mounts such as /proc/self/mounts."""
    best, kind = "", ""
    for line in mounts.read_text().splitlines() if mounts.exists() else []:
        _, point, found, *_ = line.split()
        # Of several file systems mounted at the same path, the last one is visible.
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    return kind


def go_version() -> tuple[int, int] | None:
    """Return the version of the Go compiler on the path, or None."""
    if not shutil.which("go"):
        return None
    # Not `go version`: inside the module, it would first download the version that the module requires.
    text = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, cwd="/").stdout
    found = re.search(r"go(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def packages(machine: Machine) -> list[str]:
    """Return the Debian packages that are missing."""
    missing = [tool.package for tool in TOOLS if not machine.has(tool.program)]
    if not machine.seccomp_headers:
        missing += _LIBRARIES
    if machine.go is None:
        missing.append("golang-go")
    return list(dict.fromkeys(missing))


def unsolvable(machine: Machine) -> list[str]:
    """Return the problems that no package solves, one sentence each."""
    problems = []
    if machine.system != "linux":
        problems.append("The embedded cluster needs Linux: install Docker, kind and kubectl to use kind instead.")
    elif not machine.root:
        problems.append(
            "The embedded cluster needs root to create namespaces: run this with sudo, or install Docker and kind."
        )
    if machine.cache_filesystem == "overlay":
        problems.append(
            "The cache is on an overlay file system, on which layers of containers cannot be mounted: "
            "set XDG_CACHE_HOME to a directory on a disk or a volume."
        )
    if machine.go is not None and machine.go < MINIMUM_GO:
        problems.append(
            f"Go {machine.go[0]}.{machine.go[1]} is too old: install 1.21 or newer, from the backports of your "
            "distribution or as described at https://go.dev/doc/install."
        )
    return problems


def missing_report(machine: Machine) -> list[str]:
    """Return what is missing and how to get it, one sentence each; empty if nothing is missing."""
    report = unsolvable(machine)
    report += [
        f"{tool.program} is missing ({tool.purpose}): apt-get install {tool.package}"
        for tool in TOOLS
        if not machine.has(tool.program)
    ]
    if not machine.seccomp_headers:
        report.append(f"The headers of libseccomp are missing: apt-get install {' '.join(_LIBRARIES)}")
    if machine.go is None:
        report.append("Go is missing: apt-get install golang-go (1.21 or newer), or see https://go.dev/doc/install")
    return report


def require() -> None:
    """Check that this machine can run the embedded cluster; install missing packages with apt where possible.

    Raises:
        ClusterError: it cannot; with everything that is missing and how to get it.
    """
    machine = inspect()
    if missing_report(machine) and not unsolvable(machine) and machine.can_apt:
        install(packages(machine))
        machine = inspect()
    report = missing_report(machine)
    if report:
        raise ClusterError("This machine cannot run the embedded cluster yet:\n  " + "\n  ".join(report))


def find(program: str, *packages: str) -> str | None:
    """Return the path of a program; if it is missing, install its Debian packages as root, else return None."""
    found = shutil.which(program)
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        install(packages)
        found = shutil.which(program)
    return found


def install(packages: Sequence[str]) -> None:
    """Install Debian packages with apt-get, with the sources and proxies that this machine configures."""
    if not packages:
        progress("No package is missing")
        return
    progress(f"Installing missing packages: apt-get install {' '.join(packages)}")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-q"], env=environment, what="apt-get update")
    command = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages]
    run(command, env=environment, what="apt-get install")
