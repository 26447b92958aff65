"""Prometheus metrics of inference. Any worker returns those of all workers.

A request only appends a tuple to a list. :meth:`Recorder.fold` counts many of them at once into shared memory.
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
from mlmodel_server.observe.figures import WARM_UP, DriftFigures, Figures
from mlmodel_server.observe.processes import Processes
from mlmodel_server.observe.reports import SHED, DriftReport, Histogram, RequestReport
from mlmodel_server.tensors import Array

BUCKETS = (
    0.00005, 0.000075, 0.0001, 0.00015, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03,
    0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Bounds in seconds; fine up to milliseconds, where versions of a tabular model differ."""

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
"""Bounds in rows of one call of the model."""

PENDING = 256
"""Maximum number of requests, or rows, that are counted at once: 0.4 ms of work. A smaller number costs more for each,
a larger one delays the next request."""

DRIFT_SECONDS = 5.0
"""Time after which the drift on the page for the operator is computed again."""

_CODES = 600
_SECONDS, _ROWS = Buckets(*BUCKETS), Buckets(*BATCHES)


class RowWatch(Collector, Protocol):
    """An object that counts the predicted rows; see :class:`.drift.Drift`."""

    def start(self, slot: int) -> None:
        """Count in this slot from now on."""

    def count(self, predicted: Sequence[tuple[Array | None, Array | None]]) -> None:
        """Count the tables and the predictions of several requests."""

    def report(self) -> list[DriftReport]:
        """Return the counts for the page, as JSON values."""

    def figures(self) -> DriftFigures:
        """Return the largest indices for the page of the operator."""


class _Layout:
    """Positions of the numbers in a row of cells."""

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
    """Counts and times the requests of one revision. Create it before the fork; :meth:`start` it in each worker.

    ``in_flight`` is the number of requests that the server is answering, ``queued`` the number of those that wait for
    the model. The event loop sets both, and calls :meth:`fold` ten times a second and when it stops.
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
        figures: Figures | None = None,
    ) -> None:
        """``figures`` are those for the operator, None without a page for it."""
        self.in_flight = self.queued = 0
        self._since = time.time()
        self._identity = identity
        self._cells = Cells(slots, _AT.width)
        self._watch = watch
        self._collectors = collectors
        self._watts = watts_per_core
        self._exposition = Exposition()
        self._processes = Processes()
        self._cpu_before = self._processes.cpu_seconds(
            self._processes.read(())
        )  # the time of loading the model does not count
        self._requests: list[tuple[int, float, float, float, int]] = []
        self._calls: list[int] = []
        self._predicted: list[tuple[Array | None, Array | None]] = []
        self._rows = 0
        self._figures = figures
        self.cpu_ns = figures.cpu_ns if figures else time.thread_time_ns
        """The clock for :meth:`record_cpu`, in nanoseconds."""
        self._cpu: list[tuple[int, int, bool]] = []
        self._is_warm = 0
        self._drift_due = 0.0
        self._slot = 0
        self._lock = Lock()

    def warm_up(self) -> None:
        """Encode the metrics once in each format, before the fork: the first time takes much longer."""
        for accept in ("", OPENMETRICS):
            self._exposition.page(self._families(), accept)

    def start(self, slot: int = 0) -> None:
        """Make this process the worker of ``slot``. Its counters continue, its gauges restart at 0."""
        self._row = self._cells.row(slot)
        self._row[_AT.now] = 0
        self._row[_AT.pid] = os.getpid()
        self._row[_AT.starts] += 1
        self._slot = slot
        if self._watch:
            self._watch.start(slot)
        if self._figures:
            self._figures.start(slot)

    def record_response(self, code: int, total: float, queue: float = 0.0, compute: float = 0.0, rows: int = 0) -> None:
        """Record a response to an inference request: HTTP status, seconds from its headers to the response, of these
        the seconds in the queue and in the model, and the number of predicted rows, 0 if none."""
        self._requests.append((code, total, queue, compute, rows))
        if len(self._requests) >= PENDING:
            self.fold()

    def record_batch(self, rows: int) -> None:
        """Record a call of the model with a batch of this number of rows. Safe from any thread."""
        self._calls.append(rows)

    def record_cpu(self, requests: int, nanoseconds: int, *, is_copy: bool = False) -> None:
        """Record the CPU time of a call of the model that has answered this number of requests, or a copy. Safe from
        any thread."""
        if self._is_warm < WARM_UP:
            self._is_warm += 1
        elif self._figures:
            self._cpu.append((requests, nanoseconds, is_copy))

    def record_predictions(self, table: Array | None, predictions: Array | None, rows: int) -> None:
        """Record the ``rows`` of one or several requests: their table [rows, columns], if they are a table, and their
        predictions [rows], if they requested these.

        Both are read later: do not write to them any more. Safe from any thread.
        """
        self._predicted.append((table, predictions))
        self._rows += rows
        if self._rows >= PENDING:
            self.fold()

    def record_shed(self, reason: str) -> None:
        """Record a request that was shed for one of the reasons ``SHED``."""
        self._row[_SHED_CELL.get(reason, _SHED_CELL["other"])] += 1

    def fold(self) -> None:
        """Count what was recorded since the last call, and publish the gauges."""
        with self._lock:
            self._row[_AT.now] = self.in_flight, self.queued
            if self._requests:
                self._fold_requests()
            if self._calls:
                self._fold_calls()
            if self._predicted:
                self._fold_predicted()
            if self._figures:
                self._fold_figures(self._figures)

    def _fold_requests(self) -> None:
        count = len(self._requests)  # other threads may append meanwhile
        flat = np.fromiter(chain.from_iterable(self._requests[:count]), np.float64, count * 5)
        del self._requests[:count]
        codes, total, queue, compute, rows = flat.reshape(count, 5).T
        row = self._row
        row[_AT.codes] += np.bincount(codes.astype(np.intp), minlength=_CODES)
        row[_AT.rows] += rows.sum()
        _SECONDS.observe(row[_AT.total], total)
        predicted = rows > 0
        _SECONDS.observe(row[_AT.queue], queue[predicted])
        _SECONDS.observe(row[_AT.compute], compute[predicted])

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

    def _fold_figures(self, figures: Figures) -> None:
        if self._cpu:
            count = len(self._cpu)  # other threads may append meanwhile
            flat = np.fromiter(chain.from_iterable(self._cpu[:count]), np.float64, count * 3)
            del self._cpu[:count]
            requests, nanoseconds, is_copy = flat.reshape(count, 3).T
            copies = is_copy > 0
            microseconds = nanoseconds / 1000.0
            figures.add(
                requests[~copies].sum(), microseconds[~copies].sum(), requests[copies].sum(), microseconds[copies].sum()
            )
        now = time.monotonic()
        if self._watch and self._slot == 0 and now >= self._drift_due:
            self._drift_due = now + DRIFT_SECONDS
            figures.publish(self._watch.figures())

    def text(self, accept: str = "", names: Collection[str] = ()) -> tuple[bytes, str]:
        """Return the text of ``/metrics``, and its content type.

        ``accept`` is the header of that name: it may request OpenMetrics. ``names`` (``?name[]=``) selects samples,
        which saves the time for all others; empty means all.
        """
        self.fold()
        return self._exposition.page(_selected(self._families(), frozenset(names)), accept)

    def report(self) -> RequestReport:
        """Return the same for the page, as JSON values: all counts since ``since``, in seconds since 1970, which also
        identifies the server. ``seconds`` has three histograms over the upper bounds ``buckets`` in seconds, with one
        more count for values above all bounds, and the sums."""
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
        requests = counter(
            "mlmodel_requests_total",
            "Inference requests by HTTP status; gRPC requests by the HTTP status that corresponds to their code.",
            "code",
        )
        for code in sorted({200, *np.flatnonzero(total[_AT.codes]).tolist()}):
            requests.add_metric([*own, str(code)], total[code])
        yield requests
        for name, text, cells in (
            (
                "request_duration",
                "Time from the headers of an inference request to its response, in seconds.",
                _AT.total,
            ),
            ("queue", "Time that a request waits for the model, in seconds.", _AT.queue),
            ("compute", "Time that a request spends in the model, in seconds.", _AT.compute),
        ):
            yield _SECONDS.add(histogram(f"mlmodel_{name}_seconds", text), own, total[cells])
        yield _ROWS.add(histogram("mlmodel_batch_rows", "Rows of each call of the model."), own, total[_AT.batch])
        rows = counter("mlmodel_rows_total", "Rows that the model predicted.")
        rows.add_metric(own, total[_AT.rows])
        yield rows
        shed = counter("mlmodel_shed_total", f"Requests that were shed, by reason: {', '.join(SHED)}.", "reason")
        for reason, cell in _SHED_CELL.items():
            shed.add_metric([*own, reason], total[cell])
        yield shed
        in_flight, queued = total[_AT.now]
        in_flight_gauge = gauge("mlmodel_requests_in_flight", "Requests that the server is answering.")
        in_flight_gauge.add_metric(own, in_flight)
        yield in_flight_gauge
        queue = gauge("mlmodel_queue_length", "Requests that wait for the model.")
        queue.add_metric(own, queued)
        yield queue
        restarts = counter("mlmodel_worker_restarts_total", "Workers that died and were replaced.")
        restarts.add_metric(own, float(np.maximum(self._cells.rows()[:, _AT.starts] - 1, 0).sum()))
        yield restarts
        yield from self._resources()
        for collector in (self._watch, *self._collectors):
            if collector:
                yield from collector.collect()

    def _resources(self) -> Iterator[Metric]:
        found = self._processes.read(self._cells.rows()[:, _AT.pid].astype(int).tolist())
        if not found:
            return
        seconds = self._processes.cpu_seconds(found) - self._cpu_before
        cpu = counter(
            "mlmodel_cpu_seconds_total",
            "CPU time of all processes since the model was loaded, in seconds; divided by mlmodel_rows_total it is the "
            "CPU time per prediction.",
        )
        cpu.add_metric(self._identity, seconds)
        yield cpu
        energy = counter(
            "mlmodel_energy_joules_estimated_total",
            "Estimate of the energy, in joules: mlmodel_cpu_seconds_total times --watts-per-core.",
            "watts_per_core",
        )
        energy.add_metric([*self._identity, number(self._watts)], seconds * self._watts)
        yield energy
        yield from self._processes.collect(found)


def _histogram(cells: Array) -> Histogram:
    return {"counts": cells[:-1].tolist(), "sum": cells[-1]}


def _selected(families: Iterator[Metric], names: frozenset[str]) -> Iterator[Metric]:
    """Yield the families of the selected samples, all if ``names`` is empty; stop after the last selected one."""
    remaining = names
    for family in families:
        samples = {family.name + suffix for suffix in ("", "_total", "_bucket", "_sum", "_count")}
        if not names or remaining & samples:
            yield family
            remaining -= samples
        if names and not remaining:
            return
