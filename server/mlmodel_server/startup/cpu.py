"""Number of processes and threads: as many as the CPU limit of the container, not as the node has CPUs."""

from __future__ import annotations

import math
import os
from pathlib import Path

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def quota(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the CPU limit of this container in whole CPUs, rounded up (cgroup v2, else v1); None without a limit."""
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
    """Share the CPU limit among the workers: return the threads of one prediction, and set the variables of OpenMP and
    BLAS, which only works before numpy is imported. Variables that the user has set stay.

    Without a limit it is one thread: for a few rows, several threads take longer.
    """
    for variable in _VARIABLES:
        os.environ.setdefault(variable, str(max(1, (limit or 1) // workers)))
    set_by_user = os.environ[_VARIABLES[0]]
    return int(set_by_user) if set_by_user.isdigit() and int(set_by_user) else 1
