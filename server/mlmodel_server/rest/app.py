"""The HTTP application: inference requests go to the pipeline, all others to the routes of FastAPI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from time import perf_counter
from typing import Any

from mlmodel_server.errors import RequestError
from mlmodel_server.rehearsal import authentic
from mlmodel_server.rest import management, outputs
from mlmodel_server.rest.body import ENCODING
from mlmodel_server.rest.busypoll import BusyPoll
from mlmodel_server.rest.connection import CUT, Answerable
from mlmodel_server.rest.copies import Copies, CopyOfCall
from mlmodel_server.rest.endpoints import UNKNOWN, Endpoint, endpoints
from mlmodel_server.rest.exchange import AsgiExchange, FastExchange, Receive
from mlmodel_server.rest.reply import Reply, reply_of
from mlmodel_server.serving import describe
from mlmodel_server.serving.context import Serving
from mlmodel_server.serving.exchange import Disconnected
from mlmodel_server.serving.pipeline import Pipeline
from mlmodel_server.tensors import quoted

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


LEARNT_TARGETS = 64
"""Maximum number of targets with a query that take the fast path, after they were requested once."""


class Application:
    """An ASGI application that is also the :class:`~mlmodel_server.rest.connection.FastPath`."""

    def __init__(self, pipeline: Pipeline, copy_of_call: CopyOfCall | None = None) -> None:
        """``copy_of_call`` is for copies of gRPC calls, if the server serves gRPC."""
        serving = pipeline.serving
        self.pipeline = pipeline
        self._limits, self._hosts = serving.limits, serving.hosts
        self.budget, self.max_connections = pipeline.budget, serving.limits.max_connections
        self._management = management.routes(serving)
        self._endpoints = endpoints(serving)
        self._copies = Copies(pipeline, self._endpoints, copy_of_call)
        self.fast_endpoints = {path.encode(): endpoint for path, endpoint in self._endpoints.items()}
        """The endpoints of the fast path, by target in the request line. Empty while draining."""
        self._max_fast = len(self.fast_endpoints) + LEARNT_TARGETS
        self._accepted: list[FastExchange] = []
        self._poll = BusyPoll()

    def drain(self) -> None:
        """Turn the fast path off: from now on every response has ``Connection: close``."""
        self.pipeline.serving.draining = True
        self.fast_endpoints = {}

    def accept(self, connection: Answerable, target: bytes, headers: Mapping[bytes, bytes], body: bytes) -> bool:
        """See :class:`~mlmodel_server.rest.connection.FastPath`."""
        started = perf_counter()
        endpoint = self.fast_endpoints.get(target)
        if endpoint is None:  # SIGTERM came between the headers and the end of the body
            return False
        exchange = FastExchange(endpoint, target, headers, started, self._limits, body, connection)
        if ENCODING in headers:  # decompression may take long
            return False
        try:
            if self._hosts:
                self._hosts.check("POST", headers)
            if not self.pipeline.accept(exchange):
                return False
        except Exception as error:
            connection.answer(self.pipeline.reject(exchange, error))
            return True
        if len(connection.connections) == 1:  # no other request can come in this round of the event loop
            self._poll.arrived(started)
            connection.answer(self.pipeline.answer_one(exchange))
            self._poll.answered()
            return True
        if not self._accepted:
            self._poll.arrived(started)
            asyncio.get_running_loop().call_soon(self.answer_accepted)
        self._accepted.append(exchange)
        return True

    def answer_accepted(self) -> None:
        """Answer all accepted requests. Requests of one round of the event loop are predicted and written together:
        waking a client for each response separately takes longer than the response."""
        accepted, self._accepted = self._accepted, []
        for exchange, reply in zip(accepted, self.pipeline.answer(accepted), strict=True):
            exchange.connection.answer(reply)
        self._poll.answered()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if self._hosts:
            try:
                self._hosts.check(scope["method"], dict(scope["headers"]))
            except RequestError as refusal:
                await _send(self._closing(send), reply_of(self.pipeline.failure(refusal)))
                return
        receive = partial(_receive, scope, receive)
        if path == authentic.PATH and scope["method"] == "POST":
            copied = await self._copies.answer(dict(scope["headers"]), receive)
            if copied:
                await _send(self._closing(send), copied)
                return
        endpoint = self._endpoint(scope)
        if endpoint is None and not path.endswith(("/infer", "/infer/")):
            await self._manage(scope, receive, send)
            return
        exchange = AsgiExchange(
            endpoint or UNKNOWN,
            _target(scope),
            dict(scope["headers"]),
            perf_counter(),
            self._limits,
            receive,
            (scope.get("client") or ("",))[0],
        )
        error = _routing_error(scope, endpoint, self.pipeline.serving)
        try:
            reply = self.pipeline.reject(exchange, error) if error else await self.pipeline.serve(exchange)
        except Disconnected:
            return
        await _send(self._closing(send), reply)

    def _endpoint(self, scope: Scope) -> Endpoint | None:
        """Return the endpoint of a path, for the outputs that its query selects."""
        serving = self.pipeline.serving
        endpoint, usual = outputs.select(self._endpoints, scope["path"], scope["query_string"], serving.model)
        if endpoint and usual and not serving.draining and len(self.fast_endpoints) < self._max_fast:
            self.fast_endpoints[_target(scope)] = endpoint
        return endpoint

    async def _manage(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = self._closing(send)
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        if not _needs_no_key(scope["path"]):
            try:
                self.pipeline.authorise(dict(scope["headers"]))
            except RequestError as error:
                await _send(send, reply_of(self.pipeline.failure(error)))
                return
        await self._management(scope, receive, send)

    def _closing(self, send: Send) -> Send:
        """Return ``send``; while draining, one that adds ``Connection: close``."""
        if not self.pipeline.serving.draining:
            return send

        async def closing(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        return closing


async def _receive(scope: Scope, receive: Receive) -> MutableMapping[str, Any]:
    """Receive a part of a body. Raise the :class:`RequestError` of a request whose body is not read to its end."""
    if CUT not in scope:
        message = await receive()
        if CUT not in scope:
            return message
    raise scope[CUT]


def _target(scope: Scope) -> bytes:
    """Return the path and query as in the request line."""
    query: bytes = scope["query_string"]
    path: bytes = scope["raw_path"]
    return path + b"?" + query if query else path


async def _send(send: Send, reply: Reply) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": reply.body})


def _without_body(send: Send) -> Send:
    """Return ``send`` for HEAD: the headers of GET, Content-Length too, and an empty body."""

    async def bodiless(message: MutableMapping[str, Any]) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return bodiless


def _needs_no_key(path: str) -> bool:
    """Whether a path needs no API key: probes, metrics, and the page, which has a field for the key."""
    return path in ("/", "/metrics") or path.rstrip("/").endswith(("/ready", "/live"))


def _routing_error(scope: Scope, endpoint: Endpoint | None, serving: Serving) -> RequestError | None:
    """Return the error of a request whose path or method has no endpoint, else None."""
    if endpoint is None:
        return _not_found(scope["path"], serving)
    if scope["method"] != "POST":
        return RequestError(f"method {scope['method']} is not allowed: POST {endpoint.what}", 405)
    return None


def _not_found(path: str, serving: Serving) -> RequestError:
    parts = path.strip("/").split("/")
    version = parts[4] if len(parts) == 6 and parts[3] == "versions" else ""
    if parts[:2] == ["v2", "models"] and (version or len(parts) == 4):
        try:
            describe.check(serving, parts[2], version)
        except RequestError as error:
            return error
    return RequestError(f"path {quoted(path)} not found: POST to /v2/models/{serving.name}/infer", 404)
