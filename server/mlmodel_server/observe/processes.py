"""What the server's processes use, from /proc: the parent and its workers as one.

Where there is no /proc (a laptop without Linux) there are no such numbers. Every call of the system here lets the
thread that predicts have the interpreter for a while, so there are as few as possible.
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
"""The kernel walks through all page tables for a proportional share, 0.4 ms for each 100 MB: not at every reading."""

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    """What one of them uses."""

    pid: int
    cpu: float  # seconds, its own
    ended: float  # seconds of its children that have ended and were waited for
    virtual: int  # bytes
    resident: int


class Processes:
    """The process that makes this, and its children among the pids that are asked about."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._parent = os.getpid()
        self._share = Cells(1, 2)  # when it was read (monotonic), bytes
        self._started = time.time()

    def read(self, pids: Iterable[int]) -> list[Process]:
        """The parent, and those of ``pids`` that are its children; none without /proc."""
        found = []
        for pid in {self._parent, *pids}:
            try:
                text = _text(self._proc / str(pid) / "stat")
            except OSError:  # it has ended, or there is no /proc
                continue
            field = text.rpartition(")")[2].split()  # from the third on: the second is a name and may hold anything
            if pid == self._parent or int(field[1]) == self._parent:  # else the pid is somebody else's by now
                own, ended = int(field[11]) + int(field[12]), int(field[13]) + int(field[14])
                found.append(
                    Process(pid, own / _TICKS, ended / _TICKS, int(field[20]), int(field[21]) * _PAGE)
                )  # fmt: skip
        return found

    def cpu_seconds(self, found: Iterable[Process]) -> float:
        """CPU time of the parent, of the living workers and of those that ended.

        It does not go back when a worker ends: its parent then answers for it.
        """
        return sum(process.cpu + (process.ended if process.pid == self._parent else 0.0) for process in found)

    def collect(self, found: Sequence[Process]) -> Iterator[Metric]:
        """The standard ``process_*`` metrics."""
        if not found:
            return
        yield CounterMetricFamily(
            "process_cpu_seconds_total", "User and system CPU time of all processes.", self.cpu_seconds(found)
        )
        yield GaugeMetricFamily(
            "process_resident_memory_bytes",
            "Resident memory, summed over the processes; what they share counts once for each.",
            sum(process.resident for process in found),
        )
        yield GaugeMetricFamily(
            "process_virtual_memory_bytes",
            "Virtual memory, summed over the processes.",
            sum(process.virtual for process in found),
        )
        yield GaugeMetricFamily(
            "mlmodel_memory_bytes",
            "Memory of all processes, in which shared pages count once (PSS; at most 30 s old).",
            self._shared(found),
        )
        yield GaugeMetricFamily(
            "process_open_fds",
            "Open file descriptors of the process that has most.",
            max(self._open(process.pid) for process in found),
        )
        yield GaugeMetricFamily(
            "process_max_fds",
            "Largest number of open file descriptors of one process.",
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )
        yield GaugeMetricFamily(
            "process_start_time_seconds", "When the server started, in seconds since 1970.", self._started
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
            return os.stat(folder).st_size or len(os.listdir(folder))  # Linux before 6.2 says 0
        except OSError:
            return 0


def _text(path: Path) -> str:
    """A short file of /proc."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 4096).decode("utf-8", "replace")
    finally:
        os.close(file)
