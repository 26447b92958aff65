"""The cgroup of the pods of one cluster, on cgroup v1 (one tree for each controller) and v2 (one tree)."""

import os
from pathlib import Path

from hack.cluster.shell import wait_for

MOUNT = Path("/sys/fs/cgroup")
_V2_CONTROLLERS = ("cpu", "cpuset", "memory", "pids")


def is_v2(mount: Path = MOUNT) -> bool:
    """Return whether this is cgroup v2, in which the mount itself is a cgroup."""
    return (mount / "cgroup.controllers").exists()


def roots(name: str, mount: Path = MOUNT) -> list[Path]:
    """Return the folders of the cgroup `name`, one for each tree of this machine."""
    if is_v2(mount):
        return [mount / name]
    # Each folder is a tree. cpu and cpuacct are often one tree with two names, and then resolve to the same folder.
    trees = {tree.resolve() for tree in mount.iterdir() if (tree / "cgroup.procs").exists()}
    return [tree / name for tree in sorted(trees)]


def create(name: str) -> None:
    """Create the cgroup; kubelet requires that the configured one exists."""
    if is_v2():
        available = (MOUNT / "cgroup.controllers").read_text().split()
        enabled = " ".join(f"+{controller}" for controller in _V2_CONTROLLERS if controller in available)
        (MOUNT / "cgroup.subtree_control").write_text(enabled)
    for root in roots(name):
        root.mkdir(exist_ok=True)
        if is_v2():
            (root / "cgroup.subtree_control").write_text(enabled)
        elif (root / "cpuset.cpus").exists():
            # A new cpuset on v1 has no CPUs and no memory nodes, so no process can join it.
            for file in ("cpuset.cpus", "cpuset.mems"):
                (root / file).write_text((root.parent / file).read_text())


def remove(name: str) -> None:
    """Remove the cgroup and its children as soon as their processes, which must have been killed, have exited.

    Raises:
        ClusterError: one of them still has a process after 10 seconds.
    """
    for root in roots(name):
        wait_for(f"Removal of the cgroup {root}", lambda root=root: _removed(root), seconds=10)  # type: ignore[misc]


def _removed(root: Path) -> bool:
    if not root.exists():
        return True
    for folder, _, _ in os.walk(root, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            return False
    return True


def leftovers(name: str) -> list[Path]:
    """Return the folders of the cgroup that exist."""
    return [root for root in roots(name) if root.exists()]
