"""Copies of requests: POST /rehearsal, for pods of the same model only.

A request that is not an authentic copy is not recognised: its answer is that of any unknown path.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any
from urllib.parse import unquote

import msgspec

from mlmodel_server.engine.batching import Overloaded
from mlmodel_server.errors import RequestError
from mlmodel_server.protocol import binary
from mlmodel_server.rehearsal import authentic
from mlmodel_server.rehearsal.authentic import Content
from mlmodel_server.rehearsal.sample import LARGEST, TOTAL_BYTES
from mlmodel_server.rest import outputs
from mlmodel_server.rest.body import decompress, head_of, read
from mlmodel_server.rest.endpoints import Endpoint
from mlmodel_server.rest.exchange import LARGE, Receive
from mlmodel_server.rest.reply import Reply
from mlmodel_server.serving.context import Limits
from mlmodel_server.serving.copies import Copy, Outcome
from mlmodel_server.serving.inference import Answer
from mlmodel_server.serving.pipeline import Pipeline
from mlmodel_server.tensors import InferRequest, Tensor

LIMITS = Limits(max_body=TOTAL_BYTES // LARGEST)
"""No sample has a larger body."""

MAX_UNKNOWN = 8
"""Maximum number of copies at a time whose sender is not known yet, because their body is still being received. Anybody
in the cluster can begin one, without an API key, so they take nothing of the memory for bodies of clients."""

CONTENT_TYPE = b"application/x-msgpack"

CopyOfCall = Callable[[Content], Copy]
"""Returns the copy of a gRPC call."""


class HttpCopy(Copy):
    """A copy of a request to an inference endpoint."""

    __slots__ = ("_content", "_endpoint", "_limits", "_request")

    _request: InferRequest

    def __init__(self, endpoint: Endpoint, content: Content, limits: Limits) -> None:
        self._endpoint, self._content, self._limits = endpoint, content, limits

    @property
    def is_large(self) -> bool:
        return len(self._content.body) > LARGE or bool(self._content.encoding)

    def decode(self) -> InferRequest:
        head = head_of(self._content.headers(), self._endpoint.content_types, perf_counter(), self._limits)
        body = decompress(self._content.body, head.encoding, self._limits)
        self._request = self._endpoint.decode(head, body)
        return self._request

    def encode(self, answer: Answer) -> object:
        return self._endpoint.encode(self._request, answer)


class Copies:
    """Recognises and answers copies."""

    def __init__(
        self, pipeline: Pipeline, endpoints: Mapping[str, Endpoint], copy_of_call: CopyOfCall | None = None
    ) -> None:
        """Without ``copy_of_call`` the server does not serve gRPC."""
        self._pipeline, self._serving = pipeline, pipeline.serving
        self._endpoints, self._copy_of_call = endpoints, copy_of_call
        self._unknown = 0

    async def answer(self, headers: Mapping[bytes, bytes], receive: Receive) -> Reply | None:
        """Return the reply to an authentic copy; None if the request is not one."""
        target = self._serving.rehearsal.target() if self._serving.rehearsal else None
        content = await self._authentic(target.key, headers, receive) if target else None
        if target is None or content is None:
            return None
        if content == authentic.HELLO:
            return _plain(authentic.welcome(target.key, headers))
        copy = self._copy(content)
        if copy is None:
            return _reply(Outcome(404, 1))
        try:
            with self._pipeline.budget.hold(authentic.PATH, len(content.body)):
                return _reply(await self._pipeline.rehearse(copy), authentic.draw_of(target.key, headers))
        except Overloaded as error:
            return _reply(Outcome(error.status, 1))

    async def _authentic(self, key: bytes, headers: Mapping[bytes, bytes], receive: Receive) -> Content | None:
        """Receive the body of what may be a copy, and return its content if it is one."""
        if not authentic.is_recent(headers, time.time()) or self._unknown >= MAX_UNKNOWN:
            return None
        self._unknown += 1
        try:
            body = await read(receive, LIMITS)
        except RequestError:  # too large
            return None
        finally:
            self._unknown -= 1
        if body is None:
            return None
        return authentic.verify(key, self._serving.revision, headers, body, time.time())

    def _copy(self, content: Content) -> Copy | None:
        if content.target == authentic.GRPC:
            return self._copy_of_call(content) if self._copy_of_call else None
        path, _, query = content.target.partition(b"?")
        model = self._serving.model
        endpoint, _ = outputs.select(self._endpoints, unquote(path.decode("latin-1")), query, model)
        return HttpCopy(endpoint, content, self._serving.limits) if endpoint and endpoint.is_sampled else None


def _plain(body: bytes) -> Reply:
    return Reply(200, [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))], body)


def _reply(outcome: Outcome, draw: int | None = None) -> Reply:
    """Return what the sender compares: of the first output one row, which its ``draw`` selects; else all."""
    if draw is None:
        sent = [_encoded(tensor, tensor) for tensor in outcome.outputs]
    else:
        sent = [_encoded(tensor, row_of(tensor, draw)) | {"is_row": True} for tensor in outcome.outputs[:1]]
    times = {"own_us": outcome.own_us, "busy_us": outcome.busy_us}
    body = msgspec.msgpack.encode({"status": outcome.status, **times, "outputs": sent})
    return Reply(200, [(b"content-type", CONTENT_TYPE), (b"content-length", b"%d" % len(body))], body)


def row_of(tensor: Tensor, draw: int) -> Tensor:
    """Return the row of the tensor that ``draw`` selects; the tensor without a row, or without a dimension of rows."""
    rows = tensor.array.shape[0] if tensor.array.ndim else 0
    place = draw % rows if rows else 0
    return Tensor(tensor.name, tensor.datatype, tensor.array[place : place + 1]) if rows else tensor


def _encoded(tensor: Tensor, sent: Tensor) -> dict[str, Any]:
    shape = list(tensor.array.shape)
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "data": binary.to_raw(sent)}
