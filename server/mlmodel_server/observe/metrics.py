"""Prometheus metrics of the inference path, of all workers, answered by any of them.

On the fast path a request only appends a tuple to a list; :meth:`Recorder.fold` counts what has come together, many at
once, into shared memory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from threading import Lock
from typing import Protocol

import numpy as np
from prometheus_client import Metric

from mlmodel_server.observe.cells import Cells, Identity
from mlmodel_server.observe.exposition import OPENMETRICS, Exposition
from mlmodel_server.observe.families import Buckets, Collector, counter, gauge, histogram, number
from mlmodel_server.observe.processes import Processes
from mlmodel_server.observe.reports import SHED, DriftReport, Histogram, RequestReport
from mlmodel_server.tensors import Array

BUCKETS = (
    0.00005, 0.000075, 0.0001, 0.00015, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03,
    0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Seconds; fine at milliseconds and below, where two versions of a tabular model differ."""

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
"""Rows of one call of the model."""

PENDING = 256
"""So many requests, or rows, are counted at once at the latest: 0.4 ms of work. Fewer cost more each, more hold up
whoever comes meanwhile."""

_CODES = 600
_SECONDS, _ROWS = Buckets(*BUCKETS), Buckets(*BATCHES)


class RowWatch(Collector, Protocol):
    """What looks at the rows that were predicted; see :class:`.drift.Drift`."""

    def start(self, slot: int) -> None:
        """Count in this slot from now on."""

    def count(self, predicted: Sequence[tuple[Array | None, Array | None]]) -> None:
        """Count the tables and the predictions of several requests."""

    def report(self) -> list[DriftReport]:
        """What has been counted, JSON-ready, for a page."""


class _Layout:
    """Where in a row of cells each number is."""

    def __init__(self) -> None:
        self.width = 0
        self.codes = self._reserve(_CODES)
        self.total = self._reserve(_SECONDS.cells)
        self.queue = self._reserve(_SECONDS.cells)
        self.compute = self._reserve(_SECONDS.cells)
        self.batch = self._reserve(_ROWS.cells)
        self.rows = self._reserve(1).start
        self.starts = self._reserve(1).start
        self.shed = self._reserve(len(SHED))
        self.now = self._reserve(2)  # in flight, queued
        self.pid = self._reserve(1).start

    def _reserve(self, size: int) -> slice:
        self.width += size
        return slice(self.width - size, self.width)


_AT = _Layout()
_SHED_CELL = {reason: _AT.shed.start + index for index, reason in enumerate(SHED)}


class Recorder:
    """Counts and times the requests of one revision. Make it before the fork, then :meth:`start` it in each worker.

    ``in_flight`` and ``queued`` are the requests that are being answered and, of those, the ones that wait for the
    model: plain numbers for the event loop to change. The loop calls :meth:`fold` ten times a second and when it ends.
    """

    _row: Array

    def __init__(
        self,
        identity: Identity,
        slots: int = 1,
        *,
        watch: RowWatch | None = None,
        collectors: Sequence[Collector] = (),
        watts_per_core: float = 0.0,
    ) -> None:
        self.in_flight = self.queued = 0
        self._since = time.time()
        self._identity = identity
        self._cells = Cells(slots, _AT.width)
        self._watch = watch
        self._collectors = collectors
        self._watts = watts_per_core
        self._exposition = Exposition()
        self._processes = Processes()
        self._cpu_before = self._processes.cpu_seconds(self._processes.read(()))  # loading the model is no prediction
        self._requests: list[tuple[int, float, float, float, int]] = []
        self._calls: list[int] = []
        self._predicted: list[tuple[Array | None, Array | None]] = []
        self._rows = 0
        self._lock = Lock()

    def rehearse(self) -> None:
        """Write each page once, before the fork: the first one takes many times as long as all others."""
        for accept in ("", OPENMETRICS):
            self._exposition.page(self._families(), accept)

    def start(self, slot: int = 0) -> None:
        """This process is the worker of ``slot`` from now on. Its counters go on, its gauges begin anew."""
        self._row = self._cells.row(slot)
        self._row[_AT.now] = 0
        self._row[_AT.pid] = os.getpid()
        self._row[_AT.starts] += 1
        if self._watch:
            self._watch.start(slot)

    def answered(self, code: int, total: float, queue: float = 0.0, compute: float = 0.0, rows: int = 0) -> None:
        """One answered inference request: HTTP code, seconds from its headers to the answer, of those the seconds in
        the queue and in the model, and the rows that the model was asked for, 0 when it never got there."""
        self._requests.append((code, total, queue, compute, rows))
        if len(self._requests) >= PENDING:
            self.fold()

    def called(self, rows: int) -> None:
        """One call of the model with a batch of so many rows. Safe from any thread."""
        self._calls.append(rows)

    def predicted(self, table: Array | None, predictions: Array | None) -> None:
        """The rows of one or several requests: their table [rows, columns] if it is one, and their predictions [rows]
        if the model was asked for some.

        Both are looked at later, so nobody may write into them any more. Safe from any thread.
        """
        self._predicted.append((table, predictions))
        known = table if table is not None else predictions
        self._rows += 1 if known is None else len(known)
        if self._rows >= PENDING:
            self.fold()

    def shed(self, reason: str) -> None:
        """One request was turned away for one of the reasons of ``SHED``."""
        self._row[_SHED_CELL.get(reason, _SHED_CELL["other"])] += 1

    def fold(self) -> None:
        """Count what has been recorded since the last time, and show the gauges."""
        with self._lock:
            self._row[_AT.now] = self.in_flight, self.queued
            if self._requests:
                self._fold_requests()
            if self._calls:
                self._fold_calls()
            if self._predicted:
                self._fold_predicted()

    def _fold_requests(self) -> None:
        count = len(self._requests)  # more may be appended meanwhile
        flat = np.fromiter(chain.from_iterable(self._requests[:count]), np.float64, count * 5)
        del self._requests[:count]
        codes, total, queue, compute, rows = flat.reshape(count, 5).T
        row = self._row
        row[_AT.codes] += np.bincount(codes.astype(np.intp), minlength=_CODES)
        row[_AT.rows] += rows.sum()
        _SECONDS.observe(row[_AT.total], total)
        asked = rows > 0
        _SECONDS.observe(row[_AT.queue], queue[asked])
        _SECONDS.observe(row[_AT.compute], compute[asked])

    def _fold_calls(self) -> None:
        count = len(self._calls)
        _ROWS.observe(self._row[_AT.batch], np.array(self._calls[:count], np.float64))
        del self._calls[:count]

    def _fold_predicted(self) -> None:
        predicted = self._predicted[:]
        del self._predicted[: len(predicted)]
        self._rows = 0
        if self._watch:
            self._watch.count(predicted)

    def text(self, accept: str = "", names: Collection[str] = ()) -> tuple[bytes, str]:
        """The page that ``/metrics`` answers, and its content type.

        ``accept`` is the header of that name: OpenMetrics is answered when it is asked for. ``names`` are the only
        samples that are wanted (``?name[]=``), which spares the time for all others; none means all.
        """
        self.fold()
        return self._exposition.page(_chosen(self._families(), frozenset(names)), accept)

    def report(self) -> RequestReport:
        """The same for a page, JSON-ready: all counts since ``since``, seconds since 1970, which also tells one server
        from another. ``seconds`` has three histograms over the upper bounds ``buckets`` in seconds, with one count more
        for what is above them all, and their sums."""
        self.fold()
        total = self._cells.total()
        in_flight, queued = total[_AT.now].tolist()
        return {
            "since": self._since,
            "requests": {str(code): total[code] for code in np.flatnonzero(total[_AT.codes]).tolist()},
            "rows": total[_AT.rows],
            "shed": {reason: total[cell] for reason, cell in _SHED_CELL.items()},
            "in_flight": in_flight,
            "queued": queued,
            "buckets": BUCKETS,
            "seconds": {
                "total": _histogram(total[_AT.total]),
                "queue": _histogram(total[_AT.queue]),
                "compute": _histogram(total[_AT.compute]),
            },
            "drift": self._watch.report() if self._watch else [],
        }

    def _families(self) -> Iterator[Metric]:
        total, own = self._cells.total(), self._identity
        requests = counter("mlmodel_requests_total", "Inference requests by HTTP status.", "code")
        for code in sorted({200, *np.flatnonzero(total[_AT.codes]).tolist()}):
            requests.add_metric([*own, str(code)], total[code])
        yield requests
        for name, text, cells in (
            ("request_duration", "Time from the headers of an inference request to its answer.", _AT.total),
            ("queue", "Of it, the time that the request waited for the model.", _AT.queue),
            ("compute", "Of it, the time in the model.", _AT.compute),
        ):
            yield _SECONDS.add(histogram(f"mlmodel_{name}_seconds", text), own, total[cells])
        yield _ROWS.add(histogram("mlmodel_batch_rows", "Rows of each call of the model."), own, total[_AT.batch])
        rows = counter("mlmodel_rows_total", "Rows that the model was asked for.")
        rows.add_metric(own, total[_AT.rows])
        yield rows
        shed = counter("mlmodel_shed_total", "Requests that were turned away, by reason.", "reason")
        for reason, cell in _SHED_CELL.items():
            shed.add_metric([*own, reason], total[cell])
        yield shed
        in_flight, queued = total[_AT.now]
        flying = gauge("mlmodel_requests_in_flight", "Requests that are being answered.")
        flying.add_metric(own, in_flight)
        yield flying
        queue = gauge("mlmodel_queue_length", "Requests that wait for the model.")
        queue.add_metric(own, queued)
        yield queue
        restarts = counter("mlmodel_worker_restarts_total", "Workers that were replaced because they ended.")
        restarts.add_metric(own, float(np.maximum(self._cells.rows()[:, _AT.starts] - 1, 0).sum()))
        yield restarts
        yield from self._used()
        for collector in (self._watch, *self._collectors):
            if collector:
                yield from collector.collect()

    def _used(self) -> Iterator[Metric]:
        found = self._processes.read(self._cells.rows()[:, _AT.pid].astype(int).tolist())
        if not found:
            return
        seconds = self._processes.cpu_seconds(found) - self._cpu_before
        cpu = counter("mlmodel_cpu_seconds_total", "CPU time of all processes since the model was loaded.")
        cpu.add_metric(self._identity, seconds)
        yield cpu
        energy = counter(
            "mlmodel_energy_joules_estimated_total",
            "An estimate, not a measurement: mlmodel_cpu_seconds_total times the watts assumed for a busy core.",
            "watts_per_core",
        )
        energy.add_metric([*self._identity, number(self._watts)], seconds * self._watts)
        yield energy
        yield from self._processes.collect(found)


def _histogram(cells: Array) -> Histogram:
    return {"counts": cells[:-1].tolist(), "sum": cells[-1]}


def _chosen(families: Iterator[Metric], names: frozenset[str]) -> Iterator[Metric]:
    """The families that hold the wanted samples, all without ``names``; asks for no more once it has them."""
    wanted = names
    for family in families:
        samples = {family.name + suffix for suffix in ("", "_total", "_bucket", "_sum", "_count")}
        if not names or wanted & samples:
            yield family
            wanted -= samples
        if names and not wanted:
            return
