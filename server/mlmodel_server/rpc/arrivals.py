"""What a gRPC client can occupy with messages that do not arrive and with streams.

gRPC receives a message itself, in memory that it does not report, and gives us the whole. So it is not known what has
arrived of a message, and it is bounded how many may be on their way: almost all are there at once, and of those that are
not, a further one ends the oldest of the source that has most.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc

from mlmodel_server.engine.batching import Overloaded
from mlmodel_server.errors import RequestError, TooSlow
from mlmodel_server.serving.budget import Budget
from mlmodel_server.serving.inference import HasSource
from mlmodel_server.serving.source import source_of

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

QUICK_SECONDS = 0.05
"""Seconds after which a message counts as one that is on its way."""

MESSAGE_SECONDS = 60.0
"""Maximum seconds for a message."""

MIN_WAITING = 4
"""Minimum number of messages that may be on their way, however large one may be."""

MAX_STREAMS = 32
"""Maximum number of streams in a worker: of the health service and of reflection."""

LARGE = 64 << 10
"""Bytes of a response that are charged until the client has received it."""


class Bounded:
    """Calls that wait for their client, at most ``most``. A further one ends the oldest of the source that has most."""

    def __init__(self, most: int, what: str) -> None:
        self._most, self._what = most, what
        self._calls: dict[Waiting, None] = {}

    def enter(self, call: Waiting) -> None:
        """Add a call, and end another if there are too many."""
        self._calls[call] = None
        if len(self._calls) > self._most:
            counts = Counter(other.source for other in self._calls)
            largest = max(counts.values())
            oldest = next(other for other in self._calls if counts[other.source] == largest)
            del self._calls[oldest]
            oldest.end(Overloaded(f"too many calls {self._what}: retry after 1 s", 429, "memory"))

    def leave(self, call: Waiting) -> None:
        """Remove a call, if it is still there."""
        self._calls.pop(call, None)


class Waiting:
    """A call that waits for its client, in the task that is current."""

    __slots__ = ("_context", "_source", "_task", "error")

    def __init__(self, context: Context) -> None:
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"
        self._context, self._task = context, task
        self._source: object = None
        self.error: RequestError | None = None

    @property
    def source(self) -> object:
        """The client."""
        if self._source is None:
            self._source = source_of(peer_of(self._context), headers_of(self._context))
        return self._source

    def end(self, error: RequestError) -> None:
        """Let :meth:`ending` raise ``error``."""
        if self.error is None:
            self.error = error
            self._task.cancel()

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Raise the error of :meth:`end` instead of a cancellation."""
        try:
            yield
        except asyncio.CancelledError:
            if self.error is None:
                raise
            self._task.uncancel()
            raise self.error from None


class Arrivals:
    """Receives the messages of calls. Belongs to one event loop."""

    def __init__(self, budget: Budget, max_body: int) -> None:
        """Half of the budget bounds what is on its way; a message has at most ``max_body`` bytes."""
        self._budget = budget
        self._slow = Bounded(max(MIN_WAITING, budget.limit // 2 // max_body), "have not sent their message")
        self._streams = Bounded(MAX_STREAMS, "are streams")

    async def receive(self, context: Context, seconds: float = MESSAGE_SECONDS) -> Any:
        """Return the message of a call. Raise :class:`RequestError` if it does not arrive within ``seconds``, or if
        others need its place."""
        waiting, loop = Waiting(context), asyncio.get_running_loop()
        timer = loop.call_later(QUICK_SECONDS, self._slow.enter, waiting)
        last = loop.call_later(min(seconds, MESSAGE_SECONDS), waiting.end, _too_slow(seconds))
        try:
            with waiting.ending():
                message = await context.read()
        finally:
            timer.cancel()
            last.cancel()
            self._slow.leave(waiting)
        if message is grpc.aio.EOF:
            raise RequestError("the call has no message: send one")
        return message

    @contextmanager
    def stream(self, context: Context) -> Iterator[None]:
        """Count a stream while it lasts, and raise :class:`RequestError` in it if others need its place."""
        waiting = Waiting(context)
        self._streams.enter(waiting)
        try:
            with waiting.ending():
                yield
        finally:
            self._streams.leave(waiting)

    def charge(self, context: Context, call: HasSource, size: int) -> None:
        """Charge the response of a call until the client has received it."""
        if size > LARGE:
            held = self._budget.hold(call.source)
            held.force(size)
            context.add_done_callback(lambda _: held.close())


class Bounding:
    """A server as generated code sees it: it adds the handlers of a service in a bounded form."""

    def __init__(self, server: grpc.aio.Server, arrivals: Arrivals, abort: Abort) -> None:
        self._server, self._arrivals, self._abort = server, arrivals, abort

    def add_generic_rpc_handlers(self, _: Any) -> None:
        """Do nothing: handlers are found by registered methods, see :mod:`~mlmodel_server.rpc.accepting`."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Add the handlers of a service."""
        self._server.add_registered_method_handlers(
            service, {name: self._bounded(handler) for name, handler in handlers.items()}
        )

    def _bounded(self, handler: Handler) -> Handler:
        arrivals, abort = self._arrivals, self._abort
        one: Any = handler.unary_unary
        many: Any = handler.unary_stream
        stream: Any = handler.stream_stream

        async def answer(_: Any, context: Context) -> Any:
            try:
                return await one(await arrivals.receive(context), context)
            except RequestError as error:
                await abort(context, error)

        async def watch(_: Any, context: Context) -> None:
            try:
                message = await arrivals.receive(context)
                with arrivals.stream(context):
                    await many(message, context)
            except RequestError as error:
                await abort(context, error)

        async def converse(messages: AsyncIterator[Any], context: Context) -> None:
            try:
                with arrivals.stream(context):
                    async for response in stream(messages, context):
                        await context.write(response)
            except RequestError as error:
                await abort(context, error)

        codecs = handler.request_deserializer, handler.response_serializer
        if one:
            return grpc.stream_unary_rpc_method_handler(answer, *codecs)
        return grpc.stream_stream_rpc_method_handler(watch if many else converse, *codecs)  # type: ignore[arg-type]


Abort = Callable[[Context, RequestError], Any]
"""Ends a call with the code of an error."""


def _too_slow(seconds: float) -> TooSlow:
    return TooSlow(f"the message did not arrive within {min(seconds, MESSAGE_SECONDS):.3g} s: send it at once")


def headers_of(context: Context) -> Mapping[bytes, bytes]:
    """Return the text metadata of a call, in the form of HTTP headers."""
    metadata = context.invocation_metadata() or ()
    return {name.encode(): value.encode() for name, value in metadata if isinstance(value, str)}


def peer_of(context: Context) -> str:
    """Return the address at the other end of the connection, without its port."""
    return context.peer().partition(":")[2].rpartition(":")[0]
