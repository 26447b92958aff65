"""Inference for every protocol: tensors in, tensors out, within the limits, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Protocol

import msgspec
import numpy as np

from mlmodel_server.engine.batching import Batcher, joined
from mlmodel_server.engine.model import PREDICT, rows_of
from mlmodel_server.errors import RequestError
from mlmodel_server.formats.opened import Table
from mlmodel_server.serving.context import Serving
from mlmodel_server.tensors import Array, InferRequest, InferResponse, named

INLINE_SECONDS = 0.0003
"""A prediction that takes longer runs in the predicting thread, so that the event loop can answer probes, metrics and
other requests meanwhile. For a shorter one, handing it to the thread would cost more than it gains."""

CPU_EVERY = 16
"""Quick calls of the model for each one whose CPU time is measured: to read that clock takes a microsecond."""


class Call(msgspec.Struct, eq=False):
    """A request that fits the signature: its table and the names of the outputs that it gets. ``mark`` says whether its
    prediction counts in a rollout."""

    id: str | None
    table: Table
    outputs: tuple[str, ...]
    rows: int
    mark: int = 0


class Answer(msgspec.Struct, frozen=True, eq=False):
    """A response, the seconds in the queue and in the model, and the number of rows. ``prediction_id`` is for feedback;
    None if this model or a request of this many rows gets no id."""

    response: InferResponse
    table: Table
    prediction_id: str | None
    queue: float
    compute: float
    rows: int


class HasSource(Protocol):
    """A request as the queue knows it."""

    @property
    def source(self) -> object:
        """The client; see :func:`~mlmodel_server.serving.source.source_of`."""


class Inference:
    """Checks and predicts requests. Belongs to one process and its event loop."""

    def __init__(self, serving: Serving) -> None:
        self._limits = serving.limits
        self._model, self._cost, self._recorder = serving.model, serving.cost, serving.recorder
        self._cpu_ns, self._quick_calls = serving.recorder.cpu_ns, 0
        self._ids = serving.ids
        self._further = serving.model.further
        self._batcher = Batcher(
            serving.model,
            serving.cost,
            max_rows=serving.limits.batch_rows,
            max_waiting=serving.limits.max_waiting,
            on_batch=serving.recorder.record_batch,
            on_cpu=serving.recorder.record_cpu,
            cpu_ns=serving.recorder.cpu_ns,
        )
        # For a row that its compiled form does not take, a DataFrame is made, which takes milliseconds.
        self._may_be_quick = not serving.model.signature.frame
        self.is_fast = self._may_be_quick and self._cost.base + self._cost.per_row <= INLINE_SECONDS
        """Whether the event loop itself predicts requests of one row."""

    def start(self) -> None:
        """Start the predicting thread. Call this in the event loop."""
        self._batcher.start()

    def stop(self) -> None:
        """Finish the waiting requests, and stop the thread."""
        self._batcher.stop()

    @property
    def waiting(self) -> int:
        """Number of requests that wait for the model or are being predicted."""
        return self._batcher.requests

    def check_room(self, request: HasSource) -> None:
        """Raise :class:`Overloaded` if the queue has no room for this source, before a request is read."""
        if self._batcher.requests >= self._limits.max_waiting:
            self._batcher.check_room(request.source)

    def call(self, request: InferRequest) -> Call:
        """Check a request against the model's signature and the limits."""
        table = self._model.table(request.inputs)
        rows, limit = rows_of(table), self._limits.max_rows
        if rows > limit:
            raise RequestError(f"the request has {rows} rows, the limit is {limit}: send several requests", 413)
        return Call(request.id, table, self._model.select_outputs(request.outputs), rows)

    def is_quick(self, call: Call) -> bool:
        """Whether the event loop itself may predict it, with :meth:`predict_now` or :meth:`predict_together`."""
        if not self._may_be_quick or (self._further and not self._further.isdisjoint(call.outputs)):
            return False  # the cost of this request, or of these outputs, is not known
        return self._cost.base + call.rows * self._cost.per_row <= INLINE_SECONDS

    def predict_now(self, call: Call) -> Answer:
        """Predict a quick call at once."""
        started, cpu = perf_counter(), self._start_cpu()
        arrays = self._model.predict(call.table, call.outputs)
        if cpu:
            self._recorder.record_cpu(1, self._cpu_ns() - cpu)
        self._recorder.record_batch(call.rows)
        return self._answer(call, arrays, 0.0, perf_counter() - started)

    def _start_cpu(self) -> int:
        """Return the CPU time before a quick call that is measured, 0 before one that is not."""
        self._quick_calls += 1
        return 0 if self._quick_calls % CPU_EVERY else self._cpu_ns()

    def try_now(self, call: Call) -> Answer | Exception:
        """Predict a quick call at once, and return the answer or the error."""
        try:
            return self.predict_now(call)
        except Exception as error:
            return error

    def predict_together(self, calls: Sequence[Call]) -> list[Answer | Exception]:
        """Predict quick calls, and return their answers in the same order; calls of one kind share a batch."""
        if len(calls) == 1 or not self._model.can_join:
            return list(map(self.try_now, calls))
        groups: dict[object, list[int]] = {}
        for place, call in enumerate(calls):
            groups.setdefault(self._model.kind_of(call.table, call.outputs), []).append(place)
        answers: dict[int, Answer | Exception] = {}
        size = self._limits.batch_rows
        for places in groups.values():
            for start in range(0, len(places), size):
                batch = places[start : start + size]
                answers.update(zip(batch, self._predict_joined([calls[place] for place in batch]), strict=True))
        return [answers[place] for place in range(len(calls))]

    def _predict_joined(self, calls: Sequence[Call]) -> Sequence[Answer | Exception]:
        if len(calls) == 1:
            return [self.try_now(calls[0])]
        started, cpu = perf_counter(), self._start_cpu()
        try:
            arrays = self._model.predict(joined([call.table for call in calls]), calls[0].outputs)
        except Exception:  # one bad request must not fail the others of its batch
            return list(map(self.try_now, calls))
        compute = perf_counter() - started
        if cpu:
            self._recorder.record_cpu(len(calls), self._cpu_ns() - cpu)
        answers, first = [], 0
        for call in calls:
            last = first + call.rows
            answers.append(self._answer(call, [array[first:last] for array in arrays], 0.0, compute))
            first = last
        self._recorder.record_batch(first)
        return answers

    async def predict(self, call: Call, deadline: float, source: object) -> Answer:
        """Predict at once if the call is quick, else in the queue, where each source has its share; ``deadline`` is a
        reading of ``perf_counter``."""
        return self.predict_now(call) if self.is_quick(call) else await self._predict_queued(call, deadline, source)

    async def _predict_queued(self, call: Call, deadline: float, source: object) -> Answer:
        predicted = await self._batcher.submit(call.table, call.outputs, deadline, source)
        return self._answer(call, predicted.arrays, predicted.queue, predicted.compute)

    async def predict_alone(self, call: Call, deadline: float) -> tuple[Answer, int]:
        """Predict a copy, whose turn must come before ``deadline``; return its answer and the microseconds of the
        prediction alone. Only its CPU time is recorded."""
        predicted = await self._batcher.submit(call.table, call.outputs, deadline, alone=True)
        response = InferResponse(call.id, list(map(named, call.outputs, predicted.arrays)))
        answer = Answer(response, call.table, None, predicted.queue, predicted.compute, call.rows)
        return answer, predicted.own_us

    def _answer(self, call: Call, arrays: list[Array], queue: float, compute: float) -> Answer:
        table, outputs = call.table, call.outputs
        predictions = arrays[outputs.index(PREDICT)] if PREDICT in outputs else None
        self._recorder.record_predictions(table if isinstance(table, np.ndarray) else None, predictions, call.rows)
        response = InferResponse(call.id, list(map(named, outputs, arrays)))
        return Answer(response, table, self._ids.make(predictions, call.mark), queue, compute, call.rows)
