"""How many threads numeric libraries may start: as many as the container has CPUs, not as the node has."""

from __future__ import annotations

import math
import os
from pathlib import Path

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


_CGROUP = Path("/sys/fs/cgroup")


def quota(cgroup: Path = _CGROUP) -> int | None:
    """The CPU limit of this container in whole CPUs, rounded up (cgroup v2, then v1); None when it has none."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if limit in ("max", "-1") else max(1, math.ceil(int(limit) / int(period)))


def limit(cgroup: Path = _CGROUP) -> int:
    """How many CPUs this process may keep busy: its quota, or as many as it may run on."""
    available = len(os.sched_getaffinity(0))
    return min(available, quota(cgroup) or available)


def restrict() -> None:
    """Tell OpenMP and BLAS; only works before numpy is imported. What the user has set stays."""
    for variable in _VARIABLES:
        os.environ.setdefault(variable, str(limit()))
