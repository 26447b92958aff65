"""Dynamic batching: requests that wait at the same time are predicted together.

One thread per process predicts. It never waits for more work: when it is free it takes all waiting requests that fit
into one batch. So a lone request is predicted at once, and batches form only while the model is busy. Meanwhile the
event loop answers probes, metrics, and requests that would miss their deadline.

When the requests of several sources wait, each source gets its share of the time
(:mod:`~mlmodel_server.engine.shares`), and a full queue sheds the newest request of the source that has most in it.

Copies of requests, for a rehearsal, are predicted one by one, and only when no request waits.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from time import perf_counter, thread_time_ns
from typing import Protocol

import numpy as np

from mlmodel_server.engine.alone import timed
from mlmodel_server.engine.cost import Cost
from mlmodel_server.engine.model import Model, rows_of
from mlmodel_server.engine.shares import Shares
from mlmodel_server.errors import MLModelError, RequestError
from mlmodel_server.formats.opened import Table
from mlmodel_server.tensors import Array

NICENESS = 7
"""Niceness of the thread that predicts. When both need the same core, the event loop runs first, so that probes,
metrics and rejections do not wait for a time slice of the model. It affects the threads of this server only."""

MARGIN = 1.25
"""Factor on the expected wait, to be safe: a client that is rejected at once can still retry elsewhere."""


MAX_COPIES = 16
"""Maximum number of copies that wait in a worker."""


class OnCpu(Protocol):
    """Gets the CPU time of a call of the model."""

    def __call__(self, requests: int, nanoseconds: int, *, is_copy: bool = False) -> None:
        """``requests`` is the number that the call has answered."""


class Overloaded(RequestError):
    """The server sheds this request: 429 when too many wait, 503 when its deadline cannot be met.

    ``reason`` is a label for metrics, ``retry_after`` is in whole seconds; 0 if a retry does not help.
    """

    def __init__(self, message: str, status: int, reason: str, retry_after: int = 1) -> None:
        super().__init__(message, status)
        self.reason, self.retry_after = reason, retry_after


class Late(Overloaded):
    """The deadline of this request cannot be met. The pipeline adds who set the deadline, and how to allow more time.

    ``needed`` is the expected seconds until the response, ``alone`` those of the prediction on an idle server.
    """

    def __init__(self, rows: int, needed: float, alone: float) -> None:
        super().__init__("the prediction would miss the deadline of the request", 503, "deadline")
        self.rows, self.needed, self.alone = rows, needed, alone


@dataclass(slots=True)
class Predicted:
    """The outputs for one request. ``queue`` is the seconds before its batch started, ``compute`` the seconds of the
    whole batch, ``batch_rows`` the number of rows that were predicted together, ``own_us`` the microseconds of the
    prediction of a copy without waits for a CPU."""

    arrays: list[Array]
    queue: float
    compute: float
    batch_rows: int
    own_us: int = 0


@dataclass(slots=True, eq=False)
class _Waiting:
    table: Table
    outputs: Sequence[str]
    rows: int
    kind: object
    deadline: float
    since: float
    future: asyncio.Future[Predicted]
    alone: bool = False
    source: Hashable = None
    arrived: float = 0.0
    cost: float = 0.0
    """See :class:`~mlmodel_server.engine.shares.Queued`."""
    has_started: bool = False


@dataclass(slots=True)
class _Backlog:
    """The requests of one source that wait or are being predicted, oldest first, and the number of their rows."""

    waiting: dict[_Waiting, None] = field(default_factory=dict)
    rows: int = 0


class Batcher:
    """The queue and the thread of one process. Call ``submit`` in the event loop; the thread does the rest."""

    def __init__(
        self,
        model: Model,
        cost: Cost,
        *,
        max_rows: int,
        max_waiting: int,
        on_batch: Callable[[int], None],
        on_cpu: OnCpu | None = None,
        cpu_ns: Callable[[], int] = thread_time_ns,
    ) -> None:
        """``max_rows`` limits one batch (a larger request is one batch), ``max_waiting`` the requests in the queue.

        The thread calls ``on_batch`` with the number of rows of every batch, and ``on_cpu`` with the CPU time of every
        call of the model that answered, by the clock ``cpu_ns``.
        """
        self._model, self._cost = model, cost
        self._max_rows = max_rows if model.can_join else 1
        self._max_waiting = max_waiting
        self._on_batch, self._on_cpu, self._cpu_ns = on_batch, on_cpu, cpu_ns
        self._submitted: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._waiting: deque[_Waiting] = deque()
        self._outcomes: deque[Callable[[], None]] = deque()
        self._copies: deque[_Waiting] = deque()
        self._copies_submitted = 0
        self._shares = Shares()
        self._backlogs: dict[Hashable, _Backlog] = {}
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.requests = 0
        """Number of requests that wait or are being predicted."""
        self.rows = 0
        """Number of their rows."""

    def start(self) -> None:
        """Start the thread. Call it in the process that serves, after any fork."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="predict", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread when every waiting request has been predicted."""
        if self._thread:
            self._submitted.put(None)
            self._thread.join()
            self._thread = None

    def submit(
        self, table: Table, outputs: Sequence[str], deadline: float, source: Hashable = None, *, alone: bool = False
    ) -> asyncio.Future[Predicted]:
        """Queue one request of a source; ``deadline`` is a reading of ``perf_counter``. ``alone`` is a copy.

        Raise :class:`Overloaded` at once when the queue has no room for this source, or when the requests that come
        before this one would take too long.
        """
        if alone:
            return self._submit_copy(table, outputs, deadline)
        if self._is_full():
            self._make_room(source)
        now, rows = perf_counter(), rows_of(table)
        if self.requests and now + (needed := MARGIN * self._needed(source, rows)) > deadline:
            raise Late(rows, needed, self._cost.least(rows))
        future = self._loop.create_future()
        kind = self._model.kind_of(table, outputs)
        cost = self._cost.seconds(rows) or rows
        waiting = _Waiting(
            table, outputs, rows, kind, deadline, now, future, source=source, arrived=self._shares.now, cost=cost
        )
        self._remember(source, waiting)
        self._submitted.put(waiting)
        return future

    def _needed(self, source: Hashable, rows: int) -> float:
        """Return the expected seconds until a request of this source has been predicted: of the requests that wait,
        those of the same source come before it, and of each other one as many rows at most."""
        backlogs = self._backlogs
        mine = backlogs.get(source)
        own = rows + (mine.rows if mine else 0)
        before, requests = own, 1 + (len(mine.waiting) if mine else 0)
        if len(backlogs) > (mine is not None):
            for other, backlog in backlogs.items():
                if other != source:
                    before += min(backlog.rows, own + self._max_rows)
                    requests += min(len(backlog.waiting), own + self._max_rows)
        return self._cost.seconds(before, min(requests, -(-before // self._max_rows)))

    def _remember(self, source: Hashable, waiting: _Waiting) -> None:
        backlog = self._backlogs.get(source)
        if backlog is None:
            backlog = self._backlogs[source] = _Backlog()
        backlog.waiting[waiting] = None
        backlog.rows += waiting.rows
        self.requests += 1
        self.rows += waiting.rows
        waiting.future.add_done_callback(lambda _: self._forget(waiting))  # for one that the client cancels

    def _settle_soon(self, outcome: Callable[[], None]) -> None:
        """Let the event loop call ``outcome`` in its next turn, or before, if it looks whether the queue is full: a
        turn with many requests may take longer than some predictions."""
        self._outcomes.append(outcome)
        self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        while self._outcomes:
            self._outcomes.popleft()()

    def _forget(self, waiting: _Waiting) -> None:
        """Take a request out of the counts, once. Call this with its answer: the event loop calls what waits for a
        future only in its next turn, and until then the queue would seem to be full of requests that are done."""
        backlog = self._backlogs.get(waiting.source)
        if backlog is None or waiting not in backlog.waiting:
            return
        self.requests -= 1
        self.rows -= waiting.rows
        del backlog.waiting[waiting]
        backlog.rows -= waiting.rows
        if not backlog.waiting:
            del self._backlogs[waiting.source]

    def _deliver(self, batch: list[_Waiting], results: list[Predicted]) -> None:
        for waiting, result in zip(batch, results, strict=True):
            self._forget(waiting)
            _finish(waiting.future, result)

    def _fail(self, waiting: _Waiting, error: BaseException) -> None:
        self._forget(waiting)
        _fail(waiting.future, error)

    def _submit_copy(self, table: Table, outputs: Sequence[str], deadline: float) -> asyncio.Future[Predicted]:
        """Queue a copy. It takes no room from requests. Its turn must come before the deadline; how long its prediction
        then takes is not limited, because a model that takes too long must be measured."""
        if self._copies_submitted >= MAX_COPIES:
            raise Overloaded("too many copies wait: retry after 1 s", 429, "queue_full")
        future, now = self._loop.create_future(), perf_counter()
        copy = _Waiting(table, outputs, rows_of(table), None, deadline, now, future, alone=True)
        timer = self._loop.call_later(deadline - now, _give_up, copy)
        self._copies_submitted += 1

        def forget(_: asyncio.Future[Predicted]) -> None:
            self._copies_submitted -= 1
            timer.cancel()

        future.add_done_callback(forget)
        self._submitted.put(copy)
        return future

    def _is_full(self) -> bool:
        """Take out what is done, if that makes room; return whether as many requests wait as may."""
        if self.requests >= self._max_waiting:
            self._settle()
        return self.requests >= self._max_waiting

    def check_room(self, source: Hashable) -> None:
        """Raise :class:`Overloaded` when the queue is full, and no other source has more in it than this one would."""
        if self._is_full() and self._largest(source) is None:
            raise self._full()

    def _make_room(self, source: Hashable) -> None:
        """Shed the newest request of the source that has most in the queue, or raise :class:`Overloaded`."""
        largest = self._largest(source)
        waiting = reversed(largest.waiting) if largest else ()
        newest = next((one for one in waiting if not one.has_started and not one.future.done()), None)
        if newest is None:
            raise self._full()
        self._fail(newest, self._full())

    def _largest(self, source: Hashable) -> _Backlog | None:
        """Return the longest backlog, if that of ``source`` would still be shorter with one more request."""
        mine = self._backlogs.get(source)
        largest = max(self._backlogs.values(), key=lambda backlog: len(backlog.waiting))
        return largest if len(largest.waiting) > (len(mine.waiting) if mine else 0) + 1 else None

    def _full(self) -> Overloaded:
        return Overloaded(
            f"{self.requests} requests wait already, the limit is {self._max_waiting}: retry after 1 s",
            429,
            "queue_full",
        )

    def _run(self) -> None:
        _lower_priority()
        while self._waiting or self._copies or not self._stopping:
            self._collect(block=not self._waiting and not self._copies and not self._stopping)
            batch = self._next()
            if batch:
                self._predict(batch)
            elif self._copies:
                self._predict_copy(self._copies.popleft())

    def _collect(self, block: bool) -> None:
        """Move all submitted requests to the queue of the thread."""
        try:
            while True:
                submitted = self._submitted.get(block)
                block = False
                if submitted is None:
                    self._stopping = True
                else:
                    (self._copies if submitted.alone else self._waiting).append(submitted)
        except Empty:
            return

    def _next(self) -> list[_Waiting]:
        """Return the request whose turn it is and those that can be predicted with it, in order of their turns; reject
        late ones."""
        alive: list[_Waiting] = []
        now, rejected = perf_counter(), False
        for waiting in self._waiting:
            if waiting.future.done():  # the client has disconnected, or the request was shed
                continue
            if now + (needed := self._cost.seconds(waiting.rows)) > waiting.deadline:
                late = Late(waiting.rows, now - waiting.since + needed, self._cost.least(waiting.rows))
                self._settle_soon(partial(self._fail, waiting, late))
                rejected = True
            else:
                alive.append(waiting)
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        rows = 0
        for waiting in self._shares.ordered(alive):
            if not batch or (rows + waiting.rows <= self._max_rows and waiting.kind == batch[0].kind):
                batch.append(waiting)
                rows += waiting.rows
            else:
                others.append(waiting)
        self._waiting = others
        self._shares.serve(batch)
        for waiting in batch:
            waiting.has_started = True
        if rejected and not batch:
            self._cost.relax()
        return batch

    def _predict(self, batch: list[_Waiting]) -> None:
        rows = sum(waiting.rows for waiting in batch)
        started, cpu = perf_counter(), self._cpu_ns()
        try:
            table = batch[0].table if len(batch) == 1 else joined([waiting.table for waiting in batch])
            answers = self._model.predict(table, batch[0].outputs)
        except Exception as error:
            if len(batch) > 1:  # one bad request must not fail the others of its batch
                for waiting in batch:
                    self._predict([waiting])
            else:
                self._settle_soon(partial(self._fail, batch[0], _failure(error)))
            return
        compute = perf_counter() - started
        self._report_cpu(len(batch), cpu)
        if self._model.further.isdisjoint(batch[0].outputs):  # the cost of the others is not known
            self._cost.observe(rows, compute)
        self._on_batch(rows)
        results, first = [], 0
        for waiting in batch:
            last = first + waiting.rows
            arrays = answers if len(batch) == 1 else [answer[first:last] for answer in answers]
            results.append(Predicted(arrays, started - waiting.since, compute, rows))
            first = last
        self._settle_soon(partial(self._deliver, batch, results))

    def _predict_copy(self, copy: _Waiting) -> None:
        if copy.future.done():  # cancelled, or it waited too long
            return
        copy.has_started, started, cpu = True, perf_counter(), self._cpu_ns()
        try:
            arrays, own_us = timed(lambda: self._model.predict(copy.table, copy.outputs))
        except Exception as error:
            self._loop.call_soon_threadsafe(_fail, copy.future, _failure(error))
            return
        predicted = Predicted(arrays, started - copy.since, perf_counter() - started, copy.rows, own_us)
        self._report_cpu(1, cpu, is_copy=True)
        self._loop.call_soon_threadsafe(_finish, copy.future, predicted)

    def _report_cpu(self, requests: int, since: int, *, is_copy: bool = False) -> None:
        if self._on_cpu:
            self._on_cpu(requests, self._cpu_ns() - since, is_copy=is_copy)


def _give_up(copy: _Waiting) -> None:
    if not copy.has_started:
        _fail(copy.future, Overloaded("requests of clients came first: retry after 1 s", 503, "deadline"))


def _failure(error: Exception) -> Exception:
    """Return the error for a client: an unexpected one without its text, which may quote the input."""
    return error if isinstance(error, MLModelError) else RuntimeError(type(error).__name__)


def _lower_priority() -> None:
    """Lower the priority of this thread, on systems where each thread has a priority."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with suppress(OSError):  # not permitted: the thread keeps its priority
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS))


def joined(tables: list[Table]) -> Table:
    """Return the rows of several tables of one kind as one table, in order."""
    arrays = [table for table in tables if isinstance(table, np.ndarray)]
    if arrays:
        return np.concatenate(arrays)
    named = [table for table in tables if not isinstance(table, np.ndarray)]
    return {name: np.concatenate([table[name] for table in named]) for name in named[0]}


def _finish(future: asyncio.Future[Predicted], result: Predicted) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Predicted], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
