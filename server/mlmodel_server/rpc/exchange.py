"""An inference request over gRPC."""

from __future__ import annotations

from math import inf
from time import perf_counter

from mlmodel_server.rehearsal.authentic import GRPC, Content
from mlmodel_server.rpc.arrivals import Arrivals, Context, headers_of, peer_of
from mlmodel_server.rpc.message import InferMessage
from mlmodel_server.serving.context import Serving
from mlmodel_server.serving.exchange import Exchange, Failure
from mlmodel_server.serving.inference import Answer
from mlmodel_server.serving.lateness import IN_A_CLUSTER, SERVER, Limit
from mlmodel_server.serving.source import source_of
from mlmodel_server.tensors import InferRequest

CALL = Limit("the deadline of the call", f"set a deadline of {{ms}} ms or more (in a cluster at most {IN_A_CLUSTER})")


LARGE = 256 << 10
"""Bytes; a larger message is decoded, and its response encoded, in a thread, because that takes milliseconds."""


class GrpcExchange(Exchange[bytes | Failure]):
    """A ModelInfer call. Its message is received after the API key and the room in the queue have been checked. A reply
    is the serialised message."""

    __slots__ = (
        "_arrivals",
        "_context",
        "_deadline",
        "_is_decoded",
        "_limit",
        "_message",
        "_serving",
        "headers",
        "started",
    )

    route = "inference.GRPCInferenceService/ModelInfer"

    def __init__(self, context: Context, serving: Serving, arrivals: Arrivals) -> None:
        self._context, self._serving, self._arrivals = context, serving, arrivals
        self._message: InferMessage | None = None
        self._is_decoded = False
        self.headers, self.started = headers_of(context), perf_counter()
        left = context.time_remaining()
        left = inf if left is None else left
        self._deadline = self.started + min(left, serving.limits.timeout)
        self._limit = CALL if left < serving.limits.timeout else SERVER

    @property
    def peer(self) -> str:
        return peer_of(self._context)

    @property
    def source(self) -> object:
        return source_of(self.peer, self.headers)

    @property
    def deadline(self) -> float:
        return self._deadline

    @property
    def limit(self) -> Limit:
        return self._limit

    @property
    def is_sampled(self) -> bool:
        return self._is_decoded and not self._whole.names_version

    def content(self) -> Content | None:
        return None if self._message is None else Content(GRPC, b"", b"", b"", self._message.raw)

    def check(self) -> None:
        pass

    async def read(self) -> None:
        raw = await self._arrivals.receive(self._context, self._deadline - self.started)
        self._message = InferMessage(raw, self._serving)

    @property
    def size(self) -> int:
        return len(self._whole.raw)

    @property
    def is_large(self) -> bool:
        return self.size > LARGE

    @property
    def _whole(self) -> InferMessage:
        assert self._message is not None, "it has been read"
        return self._message

    def decode(self) -> InferRequest:
        request = self._whole.decode()
        self._is_decoded = True
        return request

    def encode(self, answer: Answer) -> bytes:
        return self._whole.encode(answer).SerializeToString()

    def reject(self, failure: Failure) -> Failure:
        return failure
