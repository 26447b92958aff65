"""The steps of every inference request, in order, over any transport:

authorise, check for room, check the headers, read, decode, check against the signature, predict, encode, report.

:meth:`Pipeline.accept` and :meth:`Pipeline.answer` are the fast path: no step waits, and requests that are accepted in
one round of the event loop are predicted together. :meth:`Pipeline.serve` takes the same steps for any request, and
waits for its body and for the model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from time import perf_counter

from mlmodel_server.engine.batching import Late, Overloaded
from mlmodel_server.engine.model import bytes_of
from mlmodel_server.errors import ModelFailure, RequestError
from mlmodel_server.observe.failures import FailureLog
from mlmodel_server.observe.rollout import DRAWN
from mlmodel_server.serving.budget import Budget
from mlmodel_server.serving.context import Serving
from mlmodel_server.serving.copies import TURN_SECONDS, Copy, Outcome
from mlmodel_server.serving.exchange import Disconnected, Exchange, Failure, Reply, failure_of
from mlmodel_server.serving.inference import Answer, Call, Inference
from mlmodel_server.serving.lateness import explained
from mlmodel_server.serving.reporter import Reporter

SMALL = 16 << 10
"""Bytes; a smaller request is not charged while it is answered: the length of the queue bounds how many there are."""

logger = logging.getLogger(__name__)


class Pipeline:
    """Serves requests. Belongs to one process and its event loop. Create it before the fork, :meth:`start` it after."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.inference = Inference(serving)
        self._keys, self._recorder = serving.keys, serving.recorder
        self._reporter = Reporter(serving)
        self._failures = FailureLog()
        self.budget = Budget(serving.limits.max_body_total)
        self._decoding = asyncio.Lock()
        self._tasks: set[asyncio.Task[object]] = set()  # of the requests in serve()
        self._is_cut = False

    def start(self, slot: int) -> None:
        """Start the threads of this process, the worker of ``slot``. Call this before the first request."""
        self._reporter.start(slot)
        self.inference.start()

    def tick(self) -> None:
        """Publish the counts. Call this about ten times a second."""
        self._recorder.queued = self.inference.waiting
        self._recorder.fold()
        self._reporter.tick()

    def wipe(self) -> None:
        """Wipe the sample of requests. Call this in the event loop at the start of draining."""
        self._reporter.wipe()

    def cut(self) -> None:
        """Answer every request that waits with 503: the process exits soon. Call this at the end of draining."""
        self._is_cut = True
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        """Finish the waiting requests, and stop the threads. Call this after the last reply."""
        await asyncio.to_thread(self.inference.stop)
        await asyncio.to_thread(self._reporter.stop)

    def authorise(self, headers: Mapping[bytes, bytes]) -> None:
        """Raise :class:`RequestError` 401 if the server requires an API key and the headers have no known one."""
        if self._keys:
            self._keys.check(headers)

    def accept(self, exchange: Exchange[Reply]) -> bool:
        """Take all steps before the prediction, for a request whose body is complete and small.

        Return False if the prediction would block the event loop for too long: then call :meth:`serve`.
        """
        self._admit(exchange)
        if not self.inference.is_fast:
            return False
        exchange.check()
        self._decode(exchange)
        return self.inference.is_quick(exchange.call)

    def answer(self, exchanges: Sequence[Exchange[Reply]]) -> list[Reply]:
        """Return the replies to accepted requests, in the same order."""
        answers = self.inference.predict_together([exchange.call for exchange in exchanges])
        return list(map(self._reply, exchanges, answers))

    def answer_one(self, exchange: Exchange[Reply]) -> Reply:
        """Return the reply to one accepted request, as :meth:`answer`."""
        return self._reply(exchange, self.inference.try_now(exchange.call))

    def _reply(self, exchange: Exchange[Reply], answer: Answer | Exception) -> Reply:
        try:
            if isinstance(answer, Exception):
                raise answer
            reply = exchange.encode(answer)
            self._reporter.answered(exchange, answer)
            return reply
        except Exception as error:
            return self.reject(exchange, error)

    async def serve(self, exchange: Exchange[Reply]) -> Reply:
        """Take all steps, and return the reply. Raise :class:`Disconnected` if the client disconnects."""
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        self._tasks.add(task)
        try:
            self._admit(exchange)
            exchange.check()
            await exchange.read()
            answer, reply = await self._answer(exchange)
            self._reporter.answered(exchange, answer)
            return reply
        except Disconnected:
            raise
        except asyncio.CancelledError:
            if not self._is_cut:  # gRPC cancels the call of a client that disconnects
                raise
            task.uncancel()
            return self.reject(exchange, Overloaded("the server stops: retry, on a new connection", 503, "drain"))
        except Exception as error:
            return self.reject(exchange, error)
        finally:
            self._tasks.discard(task)

    async def _answer(self, exchange: Exchange[Reply]) -> tuple[Answer, Reply]:
        """Decode, predict and encode a request that has arrived."""
        self._recorder.in_flight += 1
        try:
            size, source = exchange.size, exchange.source
            if size < SMALL:
                self._decode(exchange)
                answer = await self.inference.predict(exchange.call, exchange.deadline, source)
                return answer, exchange.encode(answer)
            with self.budget.hold(source, size) as held:
                large = exchange.is_large
                await self._decode_large(exchange) if large else self._decode(exchange)
                held.grow(bytes_of(exchange.call.table))
                answer = await self.inference.predict(exchange.call, exchange.deadline, source)
                return answer, await asyncio.to_thread(exchange.encode, answer) if large else exchange.encode(answer)
        finally:
            self._recorder.in_flight -= 1

    async def _decode_large(self, exchange: Exchange[Reply]) -> None:
        """Decode in a thread, one request at a time: to decode takes many times the memory of the body, and the
        interpreter decodes only one anyway."""
        async with self._decoding:
            await asyncio.to_thread(self._decode, exchange)

    async def rehearse(self, copy: Copy) -> Outcome:
        """Answer a copy: it needs no key, is predicted alone when no client waits, and is not reported.

        If the model fails, the log says so, as for any request: that is where to find why.
        """
        own_us = 1
        try:
            if self.serving.draining:
                raise Overloaded("the server stops", 503, "drain")
            large = copy.is_large
            call = await asyncio.to_thread(self._call_of, copy) if large else self._call_of(copy)
            answer, own_us = await self.inference.predict_alone(call, perf_counter() + TURN_SECONDS)
            await asyncio.to_thread(copy.encode, answer) if large else copy.encode(answer)
            return Outcome(200, own_us, answer.response.outputs, int(answer.compute * 1e6))
        except Exception as error:
            return Outcome(self.failure(error).status, own_us)

    def reject(self, exchange: Exchange[Reply], error: Exception) -> Reply:
        """Report an error, and return the reply with it."""
        if isinstance(error, Late):
            error = explained(error, exchange.deadline - exchange.started, exchange.limit)
        failure = self.failure(error)
        self._reporter.failed(exchange, failure.status, error)
        return exchange.reject(failure)

    def failure(self, error: Exception) -> Failure:
        """Return what a client gets for an error; log it unless the request caused it."""
        if isinstance(error, ModelFailure):
            self._failures.log(error)
        elif not isinstance(error, RequestError):
            logger.error("internal error", extra={"error": type(error).__name__})
        return failure_of(error)

    def _admit(self, exchange: Exchange[Reply]) -> None:
        self.authorise(exchange.headers)
        self.inference.check_room(exchange)

    def _call_of(self, copy: Copy) -> Call:
        return self.inference.call(copy.decode())

    def _decode(self, exchange: Exchange[Reply]) -> None:
        request = exchange.request = exchange.decode()
        call = exchange.call = self.inference.call(request)
        headers = exchange.headers
        if DRAWN in headers:
            call.mark = self.serving.ids.mark(headers[DRAWN])
