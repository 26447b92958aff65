"""Resources of the server's processes, the parent and its workers together, read from /proc.

Without /proc (a laptop without Linux) these metrics do not exist. Each system call here may pass the interpreter lock
to the thread that predicts, so there are as few as possible.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from mlmodel_server.observe.cells import Cells

SHARE_SECONDS = 30.0
"""Seconds for which the PSS is cached: the kernel walks all page tables for it, 0.4 ms for each 100 MB."""

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    """Resources of one process."""

    pid: int
    cpu: float  # seconds of the process
    reaped: float  # seconds of its children that exited and were waited for
    virtual: int  # bytes
    resident: int


class Processes:
    """The process that creates this object, and its children."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._parent = os.getpid()
        self._share = Cells(1, 2)  # when it was read (monotonic), bytes
        self._started = time.time()

    def read(self, pids: Iterable[int]) -> list[Process]:
        """Return the parent and those of ``pids`` that are its children; empty without /proc."""
        found = []
        for pid in {self._parent, *pids}:
            try:
                text = _text(self._proc / str(pid) / "stat")
            except OSError:  # the process has exited, or the system has no /proc
                continue
            field = text.rpartition(")")[
                2
            ].split()  # fields from the third on: the second is a name with any characters
            if pid == self._parent or int(field[1]) == self._parent:  # else another program has the pid now
                own, reaped = int(field[11]) + int(field[12]), int(field[13]) + int(field[14])
                found.append(
                    Process(pid, own / _TICKS, reaped / _TICKS, int(field[20]), int(field[21]) * _PAGE)
                )  # fmt: skip
        return found

    def cpu_seconds(self, found: Iterable[Process]) -> float:
        """Return the CPU seconds of the parent, of the running workers and of those that exited.

        The sum does not decrease when a worker exits: the parent's ``reaped`` then includes it.
        """
        return sum(process.cpu + (process.reaped if process.pid == self._parent else 0.0) for process in found)

    def collect(self, found: Sequence[Process]) -> Iterator[Metric]:
        """Yield the standard ``process_*`` metrics and the memory."""
        if not found:
            return
        yield CounterMetricFamily(
            "process_cpu_seconds_total",
            "User and system CPU time of all processes, in seconds.",
            self.cpu_seconds(found),
        )
        yield GaugeMetricFamily(
            "process_resident_memory_bytes",
            "Resident memory of all processes in bytes; shared pages are counted once for each process.",
            sum(process.resident for process in found),
        )
        yield GaugeMetricFamily(
            "process_virtual_memory_bytes",
            "Virtual memory of all processes in bytes.",
            sum(process.virtual for process in found),
        )
        yield GaugeMetricFamily(
            "mlmodel_memory_bytes",
            "Memory of all processes in bytes, with shared pages counted once (PSS); at most 30 s old.",
            self._shared(found),
        )
        yield GaugeMetricFamily(
            "process_open_fds",
            "Open file descriptors of the process that has the most.",
            max(self._open(process.pid) for process in found),
        )
        yield GaugeMetricFamily(
            "process_max_fds",
            "Maximum number of open file descriptors of one process.",
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )
        yield GaugeMetricFamily(
            "process_start_time_seconds", "Start time of the server, in seconds since 1970.", self._started
        )

    def _shared(self, found: Sequence[Process]) -> float:
        share = self._share.row(0)
        if not share[1] or time.monotonic() - share[0] > SHARE_SECONDS:
            share[:] = time.monotonic(), sum(self._proportional(process.pid) for process in found)
        return float(share[1])

    def _proportional(self, pid: int) -> int:
        try:
            for line in _text(self._proc / str(pid) / "smaps_rollup").splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        return 0

    def _open(self, pid: int) -> int:
        folder = self._proc / str(pid) / "fd"
        try:
            return os.stat(folder).st_size or len(os.listdir(folder))  # 0 on Linux before 6.2
        except OSError:
            return 0


def _text(path: Path) -> str:
    """Read a short file of /proc."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 4096).decode("utf-8", "replace")
    finally:
        os.close(file)
