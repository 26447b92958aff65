"""An inference request over gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from time import perf_counter
from typing import Any

import grpc

from mlmodel_server.rehearsal.authentic import GRPC, Content
from mlmodel_server.rpc.message import InferMessage
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from mlmodel_server.serving.context import Serving
from mlmodel_server.serving.exchange import Exchange, Failure
from mlmodel_server.serving.inference import Answer
from mlmodel_server.serving.lateness import IN_A_CLUSTER, SERVER, Limit
from mlmodel_server.tensors import InferRequest

Context = grpc.aio.ServicerContext[Any, Any]

CALL = Limit("the deadline of the call", f"set a deadline of {{ms}} ms or more (in a cluster at most {IN_A_CLUSTER})")


class GrpcExchange(Exchange[pb.ModelInferResponse | Failure]):
    """A ModelInfer call. gRPC has already read the message and checked its size; it is parsed after the API key and the
    room in the queue have been checked."""

    __slots__ = ("_deadline", "_is_decoded", "_limit", "_message", "headers", "peer", "started")

    route = "inference.GRPCInferenceService/ModelInfer"
    is_large = False

    def __init__(self, raw: bytes, context: Context, serving: Serving) -> None:
        self._message, self._is_decoded = InferMessage(raw, serving), False
        self.headers, self.started = headers_of(context), perf_counter()
        self.peer = context.peer().partition(":")[2].rpartition(":")[0]
        left = context.time_remaining()
        left = inf if left is None else left
        self._deadline = self.started + min(left, serving.limits.timeout)
        self._limit = CALL if left < serving.limits.timeout else SERVER

    @property
    def deadline(self) -> float:
        return self._deadline

    @property
    def limit(self) -> Limit:
        return self._limit

    @property
    def is_sampled(self) -> bool:
        return self._is_decoded and not self._message.names_version

    def content(self) -> Content:
        return Content(GRPC, b"", b"", b"", self._message.raw)

    def check(self) -> int:
        return 0

    async def read(self) -> None:
        pass

    def decode(self) -> InferRequest:
        request = self._message.decode()
        self._is_decoded = True
        return request

    def encode(self, answer: Answer) -> pb.ModelInferResponse:
        return self._message.encode(answer)

    def reject(self, failure: Failure) -> Failure:
        return failure


def headers_of(context: Context) -> Mapping[bytes, bytes]:
    """Return the text metadata of a call, in the form of HTTP headers."""
    metadata = context.invocation_metadata() or ()
    return {name.encode(): value.encode() for name, value in metadata if isinstance(value, str)}
