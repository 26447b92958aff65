"""Say what this machine lacks for the embedded cluster, and install it where that is one `apt-get` away."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import paths
from hack.cluster.report import ClusterError, say
from hack.cluster.shell import run

MINIMUM_GO = (1, 21)
"""From here on Go fetches by itself the newer version that the pinned module asks for."""


@dataclass(frozen=True)
class Tool:
    """A program, the Debian package that has it, and what it is for."""

    program: str
    package: str
    purpose: str


TOOLS = (
    Tool("unshare", "util-linux", "makes the cluster's namespaces"),
    Tool("nsenter", "util-linux", "enters them"),
    Tool("ip", "iproute2", "sets up the node's network"),
    Tool("nft", "nftables", "kube-proxy's way to write its rules"),
    Tool("gcc", "gcc", "compiles runc's C part and the pause image"),
    Tool("pkg-config", "pkg-config", "finds the library for runc"),
    Tool("buildah", "buildah", "builds the images"),
    Tool("debootstrap", "debootstrap", "makes their base"),
    Tool("haproxy", "haproxy", "runs the router's own tests"),
)

# Not programs: C headers without which the compiler is of no use here, and the keys of Debian's archive.
_LIBRARIES = ("libc6-dev", "libseccomp-dev", "debian-archive-keyring")


@dataclass(frozen=True)
class Machine:
    """What matters about this machine; given as values so that the report can be tested."""

    system: str
    root: bool
    go: tuple[int, int] | None
    has: Callable[[str], bool]
    seccomp_headers: bool
    can_apt: bool
    cache_filesystem: str
    """The type of the file system that holds the caches and the running clusters, such as "ext4"."""


def look() -> Machine:
    """Look at this machine."""
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
        # Of those mounted on one another at the same place, the last counts.
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    return kind


def go_version() -> tuple[int, int] | None:
    """Return the version of the Go compiler on the path, or None."""
    if not shutil.which("go"):
        return None
    # Not `go version` alone: inside the module that would first fetch the version which the module asks for.
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


def hopeless(machine: Machine) -> list[str]:
    """Return what no package can mend, one sentence each."""
    problems = []
    if machine.system != "linux":
        problems.append("The embedded cluster needs Linux; here, install Docker, kind and kubectl, and it uses these.")
    elif not machine.root:
        problems.append(
            "The embedded cluster needs root, for it makes namespaces: run this with sudo, or install Docker and kind."
        )
    if machine.cache_filesystem == "overlay":
        problems.append(
            "The cache lies on an overlay file system, on which containers' layers can't be mounted: "
            "set XDG_CACHE_HOME to a folder on a disk or a volume."
        )
    if machine.go is not None and machine.go < MINIMUM_GO:
        problems.append(
            f"Go {machine.go[0]}.{machine.go[1]} is too old: install 1.21 or newer, from your distribution's "
            "backports or as described at https://go.dev/doc/install."
        )
    return problems


def missing_report(machine: Machine) -> list[str]:
    """Return what is missing, one sentence each, with how to get it; empty if nothing is."""
    report = hopeless(machine)
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
    """Return if this machine can run the embedded cluster, after installing what apt can.

    Raises:
        ClusterError: it can't; with everything that is missing and how to get it.
    """
    machine = look()
    if missing_report(machine) and not hopeless(machine) and machine.can_apt:
        prepare(packages(machine))
        machine = look()
    report = missing_report(machine)
    if report:
        raise ClusterError("This machine can't run the embedded cluster yet:\n  " + "\n  ".join(report))


def find(program: str, *wanted: str) -> str | None:
    """Return the path of a program, after installing its Debian packages if root and apt can; None if it is missing."""
    found = shutil.which(program)
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        prepare(wanted)
        found = shutil.which(program)
    return found


def prepare(wanted: Sequence[str]) -> None:
    """Install Debian packages with apt, as it is set up on this machine."""
    if not wanted:
        say("Nothing is missing")
        return
    say(f"Installing what is missing: apt-get install {' '.join(wanted)}")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-q"], env=environment, what="apt-get update")
    install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *wanted]
    run(install, env=environment, what="apt-get install")
