"""The HTTP application: what predicts is answered here, in as few steps as it takes; FastAPI has the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter
from typing import Any

from mlmodel_server.engine.batching import Overloaded
from mlmodel_server.errors import ModelFailure, RequestError
from mlmodel_server.observe.failures import FailureLog
from mlmodel_server.protocol import v2
from mlmodel_server.rest import management
from mlmodel_server.rest.body import head_of, read
from mlmodel_server.rest.busypoll import BusyPoll
from mlmodel_server.rest.connection import Answerable
from mlmodel_server.rest.endpoints import Endpoint, Headers, endpoints
from mlmodel_server.serving.context import Serving
from mlmodel_server.serving.inference import Answer, Call, Inference
from mlmodel_server.serving.reporter import Reporter
from mlmodel_server.tensors import InferRequest, shown

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

logger = logging.getLogger(__name__)

PREDICTION_ID = b"x-mlmodel-prediction-id"

ATTEMPT, REFUSED = b"x-mlmodel-attempt", b"x-mlmodel-refused"
"""The router marks what it asks of a candidate first, ``own``, and asks stable for what the candidate fails. It cannot
tell by a 400 whether a request is wrong or only does not fit this version. So in its place it gets 503, with the status
that is meant in the second header, and learns from stable which it is."""

LARGE = 256 << 10
"""Bytes of a body, from which on it is decoded, and its answer encoded, in a thread: it takes milliseconds."""


class Gone(Exception):
    """The client went away before its request was whole."""


@dataclass(slots=True)
class Reply:
    """What is sent: status, headers beside the default ones, body."""

    status: int
    headers: Headers
    body: bytes


@dataclass(slots=True)
class _Taken:
    """A request on the short way that is not answered yet."""

    connection: Answerable
    endpoint: Endpoint
    headers: dict[bytes, bytes]
    started: float
    request: InferRequest
    call: Call


class Application:
    """ASGI. Every inference request is answered, counted and timed here."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self._keys = serving.keys
        self.inference = Inference(serving)
        self._management = management.routes(serving)
        self._failures = FailureLog()
        self._endpoints = endpoints(serving)
        self._bytes = 0  # of bodies that are held
        self._recorder, self.reporter = serving.recorder, Reporter(serving)
        self.hot = {path.encode(): endpoint for path, endpoint in self._endpoints.items()}
        """By target in the request line: what :meth:`take` may take. Empty while draining."""
        self._taken: list[_Taken] = []
        self._poll = BusyPoll()

    def start(self, slot: int) -> None:
        """To be called before the first request, in the worker of this ``slot``."""
        self.reporter.start(slot)
        self.inference.start()

    def tick(self) -> None:
        """To be called some ten times a second."""
        self._recorder.queued = self.inference.waiting
        self._recorder.fold()

    def drain(self) -> None:
        """No short cut any more: every answer from now on asks its client to connect elsewhere."""
        self.serving.draining = True
        self.hot = {}

    async def stop(self) -> None:
        """To be called after the last answer over HTTP."""
        await asyncio.to_thread(self.inference.stop)
        await asyncio.to_thread(self.reporter.stop)

    def take(self, connection: Answerable, target: bytes, headers: Headers, body: bytes) -> bool:
        """See :class:`~mlmodel_server.rest.connection.Hot`."""
        started = perf_counter()
        endpoint = self.hot[target]
        try:
            self.inference.check_room()
            if not self.inference.inline:
                return False
            head = head_of(headers, endpoint.content_types, started, self.serving.limits)
            if self._keys:
                self._keys.check(head.headers)
            if head.encoding:
                return False
            request = endpoint.decode(head, body)
            call = self.inference.call(request)
            if not self.inference.is_quick(call):
                return False
        except Exception as error:
            reply = self._refused(endpoint.route, dict(headers), started, error)
            connection.answer(_start(reply), reply.body)
            return True
        if not self._taken:
            self._poll.arrived(started)
            asyncio.get_running_loop().call_soon(self.answer_taken)
        self._taken.append(_Taken(connection, endpoint, head.headers, started, request, call))
        return True

    def answer_taken(self) -> None:
        """Answer all that :meth:`take` has taken. What came in one round of the event loop is predicted together, and
        written together: a client that is woken for each answer by itself costs more than the answer."""
        taken, self._taken = self._taken, []
        replies = []
        for one, answer in zip(taken, self.inference.together([one.call for one in taken]), strict=True):
            try:
                if isinstance(answer, Exception):
                    raise answer
                reply = self._reply(one.endpoint, one.request, answer)
                self.reporter.answered(one.endpoint.route, one.headers, one.started, one.request, answer)
            except Exception as error:
                reply = self._refused(one.endpoint.route, one.headers, one.started, error)
            replies.append((one.connection, _start(reply), reply.body))
        for connection, start, body in replies:
            connection.answer(start, body)
        self._poll.answered()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        endpoint = self._endpoints.get(path)
        if endpoint is None and not path.endswith(("/infer", "/infer/")):
            if self.serving.draining:
                send = _closing(send)
            if self._keys and not _open(path):
                try:
                    self._keys.check(dict(scope["headers"]))
                except RequestError as error:
                    await _send(send, self._failed(error))
                    return
            await self._management(scope, receive, send)
            return
        started, headers = perf_counter(), dict(scope["headers"])
        route = endpoint.route if endpoint else "POST (unknown)"
        self._recorder.in_flight += 1
        try:
            request, answer, reply = await self._answer(endpoint, scope, headers, receive, started)
            self.reporter.answered(route, headers, started, request, answer)
        except Gone:
            return
        except Exception as error:
            reply = self._refused(route, headers, started, error)
        finally:
            self._recorder.in_flight -= 1
        if self.serving.draining:
            send = _closing(send)
        await _send(send, reply)

    async def _answer(
        self,
        endpoint: Endpoint | None,
        scope: Scope,
        headers: dict[bytes, bytes],
        receive: Receive,
        started: float,
    ) -> tuple[InferRequest, Answer, Reply]:
        if endpoint is None:
            raise RequestError(_unknown(scope["path"], self.serving), 404)
        if scope["method"] != "POST":
            raise RequestError(f"{scope['method']} is not possible here: POST {endpoint.what}", 405)
        if self._keys:
            self._keys.check(headers)
        self.inference.check_room()
        limits = self.serving.limits
        head = head_of(scope["headers"], endpoint.content_types, started, limits)
        held = head.length or limits.max_body  # sent in chunks: it may become that much
        if self._bytes + held > limits.max_held and self._bytes:
            raise Overloaded("too many large requests at once: send it again later", 429, "memory")
        self._bytes += held
        try:
            body = await read(head, receive, limits)
            if body is None:
                raise Gone
            threaded = len(body) > LARGE
            request = await asyncio.to_thread(endpoint.decode, head, body) if threaded else endpoint.decode(head, body)
            call = self.inference.call(request)
            answer = await self.inference.answer(call, head.deadline)
            if threaded:
                return request, answer, await asyncio.to_thread(self._reply, endpoint, request, answer)
            return request, answer, self._reply(endpoint, request, answer)
        finally:
            self._bytes -= held

    def _reply(self, endpoint: Endpoint, request: InferRequest, answer: Answer) -> Reply:
        headers, body = endpoint.encode(request, answer)
        headers.append((b"content-length", b"%d" % len(body)))
        if answer.prediction_id:
            headers.append((PREDICTION_ID, answer.prediction_id.encode()))
        return Reply(200, headers, body)

    def log_failure(self, error: Exception) -> None:
        if isinstance(error, ModelFailure):
            self._failures.failed(error)
        else:
            logger.error("internal error: %s", type(error).__name__)

    def _refused(self, route: str, headers: Mapping[bytes, bytes], started: float, error: Exception) -> Reply:
        """What is sent to who asked for a prediction and gets none; it is counted as what it is, see ``ATTEMPT``."""
        reply = self._failed(error)
        self.reporter.failed(route, headers, started, reply.status, error)
        if reply.status in (400, 429) and headers.get(ATTEMPT) == b"own":
            return Reply(503, [*reply.headers, (REFUSED, b"%d" % reply.status)], reply.body)
        return reply

    def _failed(self, error: Exception) -> Reply:
        """The reply that tells of an error: one sentence, no payload, no traceback."""
        headers = [(b"content-type", b"application/json")]
        if isinstance(error, RequestError):
            status, text = error.status, str(error)
            if status == 405:
                headers.append((b"allow", b"POST"))
            elif status == 413:
                headers.append((b"connection", b"close"))  # the rest of the body is not read
            elif status == 401:
                headers.append((b"www-authenticate", b"Bearer"))
            if isinstance(error, Overloaded):
                headers.append((b"retry-after", b"%d" % error.retry_after))
        else:
            self.log_failure(error)
            failed = isinstance(error, ModelFailure)
            status, text = 500, str(error) if failed else f"internal error ({type(error).__name__})"
        body = v2.error(text)
        headers.append((b"content-length", b"%d" % len(body)))
        return Reply(status, headers, body)


_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def _start(reply: Reply) -> bytes:
    lines = [b"%b: %b\r\n" % header for header in reply.headers]
    return b"".join((_STATUS_LINES[reply.status], *lines))


async def _send(send: Send, reply: Reply) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": reply.body})


def _open(path: str) -> bool:
    """What is answered without an API key: probes, metrics, and the page on which a key can be typed."""
    return path in ("/", "/metrics") or path.rstrip("/").endswith(("/ready", "/live"))


def _closing(send: Send) -> Send:
    """Ask the client to open its next connection elsewhere."""

    async def closing(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"connection", b"close")]
        await send(message)

    return closing


def _unknown(path: str, serving: Serving) -> str:
    parts = path.strip("/").split("/")
    if parts[:3] == ["v2", "models", serving.name] and parts[3:4] == ["versions"] and len(parts) == 6:
        return f"model {serving.name} has no version {shown(parts[4])} here, but {serving.version}"
    return f"there is no such model here: POST to /v2/models/{serving.name}/infer"
