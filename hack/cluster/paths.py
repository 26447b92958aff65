"""Where things are kept: caches and running clusters outside the checkout, what the user types in `.cluster/`."""

import hashlib
import os
import re
from pathlib import Path

from hack import ROOT
from hack.cluster.report import ClusterError

HERE = Path(__file__).resolve().parent

DEFAULT = "default"


def cache() -> Path:
    """The folder of everything that outlives a cluster, all of it reproducible: deleting it costs only time."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "mlmodel-cluster"


def check_name(name: str) -> str:
    """Return `name` if it can name a cluster (it becomes part of paths and of a cgroup's name)."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?", name):
        raise ClusterError(f"'{name}' can't name a cluster: use at most 30 of a-z, 0-9 and '-', such as 'second'.")
    return name


def run_dir(name: str) -> Path:
    """Everything that one running cluster writes; its existence means that the cluster is up or was not cleaned up.

    It shares a file system with the image store, so that the store's layers can be hard-linked into it.
    """
    return cache() / "run" / check_name(name)


def cgroup_name(name: str) -> str:
    """The cgroup that holds all pods of a cluster; clusters of other users' caches get other names."""
    return f"mlmodel-{name}-{hashlib.sha256(str(run_dir(name)).encode()).hexdigest()[:6]}"


def user_dir(name: str) -> Path:
    """The folder with the files that a user types the path of: `.cluster`, or `.cluster/NAME` for another cluster."""
    base = ROOT / ".cluster"
    return base if name == DEFAULT else base / check_name(name)
