"""An inference request over HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from mlmodel_server.errors import RequestError
from mlmodel_server.rehearsal.authentic import Content, content_of
from mlmodel_server.rest.body import TIMEOUT, Head, decompress, head_of, read
from mlmodel_server.rest.connection import Answerable
from mlmodel_server.rest.elsewhere import explained
from mlmodel_server.rest.endpoints import Endpoint
from mlmodel_server.rest.reply import Reply, reply_of
from mlmodel_server.serving.context import Limits
from mlmodel_server.serving.exchange import Disconnected, Exchange, Failure
from mlmodel_server.serving.inference import Answer
from mlmodel_server.serving.lateness import IN_A_CLUSTER, SERVER, Limit
from mlmodel_server.serving.source import source_of
from mlmodel_server.tensors import InferRequest

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

HEADER = Limit(TIMEOUT.decode(), f"send {TIMEOUT.decode()}: {{ms}} or more (in a cluster at most {IN_A_CLUSTER})")

PREDICTION_ID = b"x-mlmodel-prediction-id"

LARGE = 256 << 10
"""Bytes; a larger body is decoded, and its response encoded, in a thread, because that takes milliseconds."""


class HttpExchange(Exchange[Reply]):
    """The common part of the fast path and the ASGI path."""

    __slots__ = ("body", "endpoint", "head", "headers", "limits", "raw", "started", "target")

    endpoint: Endpoint
    target: bytes
    """Path and query as sent."""
    limits: Limits
    raw: bytes | None
    """The body as sent, None until it is read."""
    body: bytes
    """The body, decompressed."""
    head: Head

    @property
    def route(self) -> str:
        return self.endpoint.route

    @property
    def is_sampled(self) -> bool:
        return self.endpoint.is_sampled

    def content(self) -> Content | None:
        return None if self.raw is None else content_of(self.target, self.headers, self.raw)

    @property
    def source(self) -> object:
        return source_of(self.peer, self.headers)

    def check(self) -> None:
        self.head = head_of(self.headers, self.endpoint.content_types, self.started, self.limits)

    @property
    def size(self) -> int:
        return len(self.body) if self.raw is self.body else len(self.body) + len(self.raw or b"")

    @property
    def deadline(self) -> float:
        return self.head.deadline

    @property
    def limit(self) -> Limit:
        return HEADER if TIMEOUT in self.headers else SERVER

    @property
    def is_large(self) -> bool:
        return len(self.body) > LARGE

    def decode(self) -> InferRequest:
        try:
            return self.endpoint.decode(self.head, self.body)
        except RequestError as error:
            raise explained(error, self.body, self.endpoint.elsewhere) from None

    def encode(self, answer: Answer) -> Reply:
        headers, body = self.endpoint.encode(self.request, answer)
        headers.append((b"content-length", b"%d" % len(body)))
        if answer.prediction_id:
            headers.append((PREDICTION_ID, answer.prediction_id.encode()))
        return Reply(200, headers, body)

    def reject(self, failure: Failure) -> Reply:
        return reply_of(failure)


class FastExchange(HttpExchange):
    """A request on the fast path: its body is complete, and the reply is written to the ``connection``."""

    __slots__ = ("connection",)

    def __init__(
        self,
        endpoint: Endpoint,
        target: bytes,
        headers: Mapping[bytes, bytes],
        started: float,
        limits: Limits,
        body: bytes,
        connection: Answerable,
    ) -> None:
        self.endpoint, self.target, self.headers, self.started, self.limits = endpoint, target, headers, started, limits
        self.raw = self.body = body
        self.connection = connection

    @property
    def peer(self) -> str:
        return self.connection.peer

    async def read(self) -> None:
        pass


class AsgiExchange(HttpExchange):
    """A request on the ASGI path: ``receive`` delivers its body."""

    __slots__ = ("_peer", "_receive")

    def __init__(
        self,
        endpoint: Endpoint,
        target: bytes,
        headers: Mapping[bytes, bytes],
        started: float,
        limits: Limits,
        receive: Receive,
        peer: str = "",
    ) -> None:
        self.endpoint, self.target, self.headers, self.started, self.limits = endpoint, target, headers, started, limits
        self.raw = None
        self._receive, self._peer = receive, peer

    @property
    def peer(self) -> str:
        return self._peer

    async def read(self) -> None:
        raw = await read(self._receive, self.limits)
        if raw is None:
            raise Disconnected
        self.body = decompress(raw, self.head.encoding, self.limits)
        self.raw = raw
