"""How many threads numeric libraries may start: as many as the container has CPUs, not as the node has."""

from __future__ import annotations

import math
import os
from pathlib import Path

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The CPU limit of this container in whole CPUs (cgroup v2, then v1), else the CPUs that the process may use."""
    available = len(os.sched_getaffinity(0))
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return available
    if quota in ("max", "-1"):
        return available
    return max(1, min(available, math.ceil(int(quota) / int(period))))


def restrict() -> None:
    """Tell OpenMP and BLAS; only works before numpy is imported. What the user has set stays."""
    for variable in _VARIABLES:
        os.environ.setdefault(variable, str(limit()))
