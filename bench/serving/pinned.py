"""CPUs of the processes: servers on one, the load generator on another; one thread per numeric library."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hack.cluster.report import ClusterError

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def cpus() -> tuple[int, int]:
    """Return the CPU of the servers and that of the load generator.

    Raises:
        ClusterError: this process may use only one CPU.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise ClusterError(
            "The serving benchmark needs two CPUs, one for the server and one for the load, but this process has one."
        )
    return usable[0], usable[1]


def on(cpu: int, argv: Sequence[str | Path]) -> list[str]:
    """Return the command that runs ``argv`` on one CPU."""
    return ["taskset", "--cpu-list", str(cpu), *map(str, argv)]


@contextmanager
def here(cpu: int) -> Iterator[None]:
    """Run this thread, and the processes that it starts, on one CPU, so that measuring does not slow the server."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a server: this one, without proxies and with one thread per numeric library."""
    proxies = {"http_proxy", "https_proxy", "all_proxy"}
    return {name: value for name, value in os.environ.items() if name.lower() not in proxies} | ONE_THREAD | more
