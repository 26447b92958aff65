"""The one way to the model, for every protocol: tensors in, tensors out, with limits kept and everything counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from mlmodel_server.engine.batching import Batcher, joined, kind_of
from mlmodel_server.engine.model import PREDICT, rows_of
from mlmodel_server.errors import RequestError
from mlmodel_server.formats.opened import Table
from mlmodel_server.serving.context import Serving
from mlmodel_server.tensors import Array, InferRequest, InferResponse, named

INLINE_SECONDS = 0.0003
"""What takes longer is predicted in the thread, so that probes, metrics and other requests are answered meanwhile. For
what is shorter, handing it over would cost more than it gains."""


@dataclass(slots=True)
class Call:
    """A request that fits: its table and the outputs that it gets."""

    id: str | None
    table: Table
    wanted: tuple[str, ...]
    rows: int


@dataclass(slots=True)
class Answer:
    """A response and what it took: seconds waited and computed, rows. ``prediction_id`` is for feedback, None when
    there is none for this model or so many rows."""

    response: InferResponse
    table: Table
    prediction_id: str | None
    queue: float
    compute: float
    rows: int


class Inference:
    """Belongs to one process and its event loop."""

    def __init__(self, serving: Serving) -> None:
        self._limits = serving.limits
        self._model, self._cost, self._recorder = serving.model, serving.cost, serving.recorder
        self._ids = serving.ids
        self._batcher = Batcher(
            serving.model,
            serving.cost,
            max_rows=serving.limits.batch_rows,
            max_waiting=serving.limits.max_waiting,
            on_batch=serving.recorder.record_batch,
        )
        self.check_room = self._batcher.check_room
        """Raises :class:`Overloaded` when so many wait that a request need not even be read."""
        self.inline = self._cost.base + self._cost.per_row <= INLINE_SECONDS
        """Whether requests of one row are answered without waiting."""

    def start(self) -> None:
        """Start the predicting thread; to be called from within the event loop."""
        self._batcher.start()

    def stop(self) -> None:
        """Answer what waits, and end the thread."""
        self._batcher.stop()

    @property
    def waiting(self) -> int:
        """Requests that wait for the model or are being predicted."""
        return self._batcher.requests

    def call(self, request: InferRequest) -> Call:
        """Check a request against the model's signature and the limits."""
        table = self._model.table(request.inputs)
        rows, limit = rows_of(table), self._limits.max_rows
        if rows > limit:
            raise RequestError(f"the request has {rows} rows, the limit is {limit}: send fewer at a time", 413)
        return Call(request.id, table, self._model.select_outputs(request.outputs), rows)

    def is_quick(self, call: Call) -> bool:
        """Whether it may be answered on the event loop: :meth:`now`, or :meth:`together` with others."""
        return self._cost.base + call.rows * self._cost.per_row <= INLINE_SECONDS

    def now(self, call: Call) -> Answer:
        """The answer to a quick call, at once."""
        started = perf_counter()
        arrays = self._model.predict(call.table, call.wanted)
        self._recorder.record_batch(call.rows)
        return self._answer(call, arrays, 0.0, perf_counter() - started)

    def together(self, calls: Sequence[Call]) -> list[Answer | Exception]:
        """The answers to quick calls, in their order; those of a kind share a run of the model."""
        if len(calls) == 1 or not self._model.batchable:
            return [self._tried(call) for call in calls]
        groups: dict[object, list[int]] = {}
        for place, call in enumerate(calls):
            groups.setdefault(kind_of(call.table, call.wanted), []).append(place)
        answers: dict[int, Answer | Exception] = {}
        size = self._limits.batch_rows
        for places in groups.values():
            for begin in range(0, len(places), size):
                some = places[begin : begin + size]
                answers.update(zip(some, self._joined([calls[place] for place in some]), strict=True))
        return [answers[place] for place in range(len(calls))]

    def _joined(self, calls: Sequence[Call]) -> Sequence[Answer | Exception]:
        if len(calls) == 1:
            return [self._tried(calls[0])]
        started = perf_counter()
        try:
            arrays = self._model.predict(joined([call.table for call in calls]), calls[0].wanted)
        except Exception:  # one bad request must not fail those that happen to come with it
            return [self._tried(call) for call in calls]
        compute = perf_counter() - started
        answers, first = [], 0
        for call in calls:
            last = first + call.rows
            answers.append(self._answer(call, [array[first:last] for array in arrays], 0.0, compute))
            first = last
        self._recorder.record_batch(first)
        return answers

    def _tried(self, call: Call) -> Answer | Exception:
        try:
            return self.now(call)
        except Exception as error:
            return error

    async def answer(self, call: Call, deadline: float) -> Answer:
        """The answer: at once when it is quick, else :meth:`later`."""
        return self.now(call) if self.is_quick(call) else await self.later(call, deadline)

    async def later(self, call: Call, deadline: float) -> Answer:
        """The answer when the model has had time for it; ``deadline`` is a reading of ``perf_counter``."""
        predicted = await self._batcher.submit(call.table, call.wanted, deadline)
        return self._answer(call, predicted.arrays, predicted.queue, predicted.compute)

    def _answer(self, call: Call, arrays: list[Array], queue: float, compute: float) -> Answer:
        predictions = arrays[call.wanted.index(PREDICT)] if PREDICT in call.wanted else None
        self._recorder.record_predictions(call.table if isinstance(call.table, np.ndarray) else None, predictions)
        response = InferResponse(call.id, list(map(named, call.wanted, arrays)))
        return Answer(response, call.table, self._ids.make(predictions), queue, compute, call.rows)
