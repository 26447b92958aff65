"""Predicts together what waits together.

One thread per process predicts. It never waits for more work: when it is free it takes everything that is there and
fits into one batch, so a lone request is predicted at once and batches form only while the model is busy. The event
loop meanwhile answers probes, metrics, and those whose turn cannot come in time.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import perf_counter

import numpy as np

from mlmodel_server.engine.cost import Cost
from mlmodel_server.engine.model import Model, rows_of
from mlmodel_server.errors import MLModelError, RequestError
from mlmodel_server.formats.opened import Table
from mlmodel_server.tensors import Array

NICENESS = 7
"""Of the thread that predicts: where both want the same core, the event loop comes first, so that probes, metrics and
whoever is turned away do not wait for a time slice of the model. It counts between threads of this server only."""

MARGIN = 1.25
"""Times the expected wait, to be on the safe side of a deadline: who is told at once can still ask elsewhere."""


class Overloaded(RequestError):
    """This request is not taken, or is given up, for lack of time: 429 when too many wait, 503 when its deadline cannot
    be met. ``reason`` is a label for metrics, ``retry_after`` whole seconds."""

    def __init__(self, message: str, status: int, reason: str, retry_after: int = 1) -> None:
        super().__init__(message, status)
        self.reason, self.retry_after = reason, retry_after


@dataclass(slots=True)
class Predicted:
    """The answers to one request. Seconds: ``queue`` before its batch began, ``compute`` of the whole batch.
    ``batch_rows`` are the rows that were predicted together."""

    arrays: list[Array]
    queue: float
    compute: float
    batch_rows: int


@dataclass(slots=True)
class _Waiting:
    table: Table
    wanted: Sequence[str]
    rows: int
    kind: object
    deadline: float
    since: float
    future: asyncio.Future[Predicted]


class Batcher:
    """The queue and the thread of one process. ``submit`` belongs to the event loop, everything else to the thread."""

    def __init__(
        self, model: Model, cost: Cost, *, max_rows: int, max_waiting: int, called: Callable[[int], None]
    ) -> None:
        """``max_rows`` of one batch (a larger request is a batch of its own); ``max_waiting`` requests in the queue.
        ``called`` hears of the rows of every batch, in the thread."""
        self._model, self._cost = model, cost
        self._max_rows = max_rows if model.batchable else 1
        self._max_waiting = max_waiting
        self._called = called
        self._arriving: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._waiting: deque[_Waiting] = deque()
        self._ending = False
        self._thread: threading.Thread | None = None
        self.requests = 0
        """Requests that wait or are being predicted."""
        self.rows = 0
        """Their rows."""

    def start(self) -> None:
        """Start the thread; to be called in the process that serves, after any fork."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="predict", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread when all that waits is answered."""
        if self._thread:
            self._arriving.put(None)
            self._thread.join()
            self._thread = None

    def submit(self, table: Table, wanted: Sequence[str], deadline: float) -> asyncio.Future[Predicted]:
        """Queue one request; ``deadline`` is a reading of ``perf_counter``.

        :class:`Overloaded` at once when the queue is full or when what waits already would take too long.
        """
        self.check_room()
        now, rows = perf_counter(), rows_of(table)
        batches = min(self.requests + 1, -(-(self.rows + rows) // self._max_rows))
        if self.requests and now + MARGIN * self._cost.seconds(self.rows + rows, batches) > deadline:
            raise Overloaded("too many requests wait for this one to meet its deadline", 503, "deadline")
        future = self._loop.create_future()
        self.requests += 1
        self.rows += rows
        future.add_done_callback(lambda _: self._left(rows))
        self._arriving.put(_Waiting(table, wanted, rows, kind_of(table, wanted), deadline, now, future))
        return future

    def check_room(self) -> None:
        """:class:`Overloaded` when the queue is full."""
        if self.requests >= self._max_waiting:
            raise Overloaded(f"{self.requests} requests wait already: send it again later", 429, "queue_full")

    def _left(self, rows: int) -> None:
        self.requests -= 1
        self.rows -= rows

    def _run(self) -> None:
        _step_back()
        while self._waiting or not self._ending:
            self._collect(block=not self._waiting and not self._ending)
            batch = self._next()
            if batch:
                self._predict(batch)

    def _collect(self, block: bool) -> None:
        """Move all that has arrived to the thread's own queue."""
        try:
            while True:
                arrived = self._arriving.get(block)
                block = False
                if arrived is None:
                    self._ending = True
                else:
                    self._waiting.append(arrived)
        except Empty:
            return

    def _next(self) -> list[_Waiting]:
        """The oldest and what can be predicted with it, in order of arrival; none whose time is over."""
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        rows, now = 0, perf_counter()
        for waiting in self._waiting:
            if waiting.future.cancelled():  # the client is gone
                continue
            if now + self._cost.seconds(waiting.rows) > waiting.deadline:
                late = Overloaded("its deadline would pass", 503, "deadline")
                self._loop.call_soon_threadsafe(_fail, waiting.future, late)
            elif not batch or (rows + waiting.rows <= self._max_rows and waiting.kind == batch[0].kind):
                batch.append(waiting)
                rows += waiting.rows
            else:
                others.append(waiting)
        self._waiting = others
        return batch

    def _predict(self, batch: list[_Waiting]) -> None:
        rows = sum(waiting.rows for waiting in batch)
        started = perf_counter()
        try:
            table = batch[0].table if len(batch) == 1 else joined([waiting.table for waiting in batch])
            answers = self._model.predict(table, batch[0].wanted)
        except Exception as error:
            if len(batch) > 1:  # one bad request must not fail those that happen to wait beside it
                for waiting in batch:
                    self._predict([waiting])
            else:
                failure = error if isinstance(error, MLModelError) else RuntimeError(type(error).__name__)
                self._loop.call_soon_threadsafe(_fail, batch[0].future, failure)
            return
        compute = perf_counter() - started
        self._cost.seen(rows, compute)
        self._called(rows)
        results, first = [], 0
        for waiting in batch:
            last = first + waiting.rows
            arrays = answers if len(batch) == 1 else [answer[first:last] for answer in answers]
            results.append(Predicted(arrays, started - waiting.since, compute, rows))
            first = last
        self._loop.call_soon_threadsafe(_deliver, batch, results)


def _step_back() -> None:
    """Give this thread a lower priority, where threads have one of their own."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with suppress(OSError):  # forbidden: all is as it would be without
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS))


def kind_of(table: Table, wanted: Sequence[str]) -> object:
    """Equal for requests whose tables can be joined."""
    if isinstance(table, np.ndarray):
        return (*wanted, table.dtype.char, table.shape[1:])
    return (*wanted, *((array.dtype.char, array.shape[1:]) for array in table.values()))


def joined(tables: list[Table]) -> Table:
    """The rows of several tables of one kind, one after the other."""
    arrays = [table for table in tables if isinstance(table, np.ndarray)]
    if arrays:
        return np.concatenate(arrays)
    named = [table for table in tables if not isinstance(table, np.ndarray)]
    return {name: np.concatenate([table[name] for table in named]) for name in named[0]}


def _deliver(batch: list[_Waiting], results: list[Predicted]) -> None:
    for waiting, result in zip(batch, results, strict=True):
        if not waiting.future.done():
            waiting.future.set_result(result)


def _fail(future: asyncio.Future[Predicted], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
