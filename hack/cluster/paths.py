"""Paths: caches and running clusters outside the checkout, and in `.cluster/` the files whose paths a user types."""

import hashlib
import os
import re
from pathlib import Path

from hack import ROOT
from hack.cluster.report import ClusterError

HERE = Path(__file__).resolve().parent

DEFAULT = "default"


def cache() -> Path:
    """Return the folder of all that outlives a cluster. All of it can be rebuilt: deleting it costs only time."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "mlmodel-cluster"


def check_name(name: str) -> str:
    """Return `name` if it is a valid name of a cluster: it becomes part of paths and of the name of a cgroup.

    Raises:
        ClusterError: it is not.
    """
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?", name):
        raise ClusterError(
            f"'{name}' is not a valid name of a cluster: type at most 30 of a-z, 0-9 and '-', for example second."
        )
    return name


def run_dir(name: str) -> Path:
    """Return the folder of everything that a cluster writes. It exists while the cluster runs or was not cleaned up.

    It is on the file system of the image store, so that it can have hard links to the layers of the store.
    """
    return cache() / "run" / check_name(name)


def cgroup_name(name: str) -> str:
    """Return the name of the cgroup of all pods of a cluster; it differs between caches, so also between users."""
    return f"mlmodel-{name}-{hashlib.sha256(str(run_dir(name)).encode()).hexdigest()[:6]}"


def user_dir(name: str) -> Path:
    """Return the folder of the files whose paths a user types: `.cluster`, or `.cluster/NAME` for another cluster."""
    base = ROOT / ".cluster"
    return base if name == DEFAULT else base / check_name(name)
