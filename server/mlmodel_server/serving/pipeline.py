"""The steps of every inference request, in order, over any transport:

authorise, check for room, check the headers, read, decode, check against the signature, predict, encode, report.

:meth:`Pipeline.accept` and :meth:`Pipeline.answer` are the fast path: no step waits, and requests that are accepted in
one round of the event loop are predicted together. :meth:`Pipeline.serve` takes the same steps for any request, and
waits for its body and for the model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter

from mlmodel_server.engine.batching import Late, Overloaded
from mlmodel_server.errors import ModelFailure, RequestError
from mlmodel_server.observe.failures import FailureLog
from mlmodel_server.observe.rollout import DRAWN
from mlmodel_server.serving.context import Serving
from mlmodel_server.serving.copies import TURN_SECONDS, Copy, Outcome
from mlmodel_server.serving.exchange import Disconnected, Exchange, Failure, Reply, failure_of
from mlmodel_server.serving.inference import Call, Inference
from mlmodel_server.serving.lateness import explained
from mlmodel_server.serving.reporter import Reporter

logger = logging.getLogger(__name__)


class Pipeline:
    """Serves requests. Belongs to one process and its event loop. Create it before the fork, :meth:`start` it after."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.inference = Inference(serving)
        self._keys, self._recorder = serving.keys, serving.recorder
        self._reporter = Reporter(serving)
        self._failures = FailureLog()
        self._body_bytes = 0  # of all requests
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
        replies = []
        answers = self.inference.predict_together([exchange.call for exchange in exchanges])
        for exchange, answer in zip(exchanges, answers, strict=True):
            try:
                if isinstance(answer, Exception):
                    raise answer
                reply = exchange.encode(answer)
                self._reporter.answered(exchange, answer)
            except Exception as error:
                reply = self.reject(exchange, error)
            replies.append(reply)
        return replies

    async def serve(self, exchange: Exchange[Reply]) -> Reply:
        """Take all steps, and return the reply. Raise :class:`Disconnected` if the client disconnects."""
        self._recorder.in_flight += 1
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        self._tasks.add(task)
        try:
            self._admit(exchange)
            with self.holding(exchange.check()):
                await exchange.read()
                large = exchange.is_large
                await asyncio.to_thread(self._decode, exchange) if large else self._decode(exchange)
                answer = await self.inference.predict(exchange.call, exchange.deadline)
                reply = await asyncio.to_thread(exchange.encode, answer) if large else exchange.encode(answer)
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
            self._recorder.in_flight -= 1

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
        self.inference.check_room()

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Reserve memory for a body. A single request always gets it: its own limit bounds it.

        Raise :class:`Overloaded` if too much is reserved.
        """
        if size and self._body_bytes and self._body_bytes + size > self.serving.limits.max_body_total:
            raise Overloaded("too many large requests at once: retry after 1 s", 429, "memory")
        self._body_bytes += size
        try:
            yield
        finally:
            self._body_bytes -= size

    def _call_of(self, copy: Copy) -> Call:
        return self.inference.call(copy.decode())

    def _decode(self, exchange: Exchange[Reply]) -> None:
        request = exchange.request = exchange.decode()
        call = exchange.call = self.inference.call(request)
        drawn = exchange.headers.get(DRAWN)
        if drawn:
            call.mark = self.serving.ids.mark(drawn)
