"""How many processes and threads may be busy: as many as the container has CPUs, not as the node has."""

from __future__ import annotations

import math
import os
from pathlib import Path

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def quota(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The CPU limit of this container in whole CPUs, rounded up (cgroup v2, then v1); None when it has none."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if limit in ("max", "-1"):
        return None
    return min(max(1, math.ceil(int(limit) / int(period))), len(os.sched_getaffinity(0)))


def restrict(workers: int, limit: int | None) -> int:
    """Share a CPU limit among so many workers: returns the threads that each may use for a prediction, and tells
    OpenMP and BLAS, which only works before numpy is imported. What the user has set stays.

    One thread without a limit: for a few rows, several take longer than one.
    """
    for variable in _VARIABLES:
        os.environ.setdefault(variable, str(max(1, (limit or 1) // workers)))
    set_by_user = os.environ[_VARIABLES[0]]
    return int(set_by_user) if set_by_user.isdigit() and int(set_by_user) else 1
