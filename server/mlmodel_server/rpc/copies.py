"""The copy of a gRPC call, which arrives over HTTP: this module does not import grpc."""

from __future__ import annotations

from mlmodel_server.rehearsal.authentic import Content
from mlmodel_server.rpc.message import InferMessage
from mlmodel_server.serving.context import Serving
from mlmodel_server.serving.copies import Copy
from mlmodel_server.serving.inference import Answer
from mlmodel_server.tensors import InferRequest


class CallCopy(Copy):
    """A copy of a ModelInfer call."""

    __slots__ = ("_message",)

    def __init__(self, content: Content, serving: Serving) -> None:
        self._message = InferMessage(content.body, serving)

    def decode(self) -> InferRequest:
        return self._message.decode()

    def encode(self, answer: Answer) -> bytes:
        return self._message.encode(answer).SerializeToString()
