"""A message of ModelInfer and its response, without a connection: this module does not import grpc."""

from __future__ import annotations

from mlmodel_server.rpc import codec
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from mlmodel_server.serving import describe
from mlmodel_server.serving.context import Serving
from mlmodel_server.serving.inference import Answer
from mlmodel_server.tensors import InferRequest, InferResponse

PREDICTION_ID = "prediction_id"


class InferMessage:
    """A message, parsed by :meth:`decode`."""

    __slots__ = ("_message", "_serving", "raw")

    _message: pb.ModelInferRequest

    def __init__(self, raw: bytes, serving: Serving) -> None:
        self.raw, self._serving = raw, serving

    def decode(self) -> InferRequest:
        """Return the tensors. Raise :class:`RequestError` if they are wrong, or of another model or version."""
        self._message = codec.parse(pb.ModelInferRequest, self.raw)
        request = codec.decode(self._message)
        describe.check(self._serving, self._message.model_name, self._message.model_version)
        return request

    @property
    def names_version(self) -> bool:
        """Whether the client chose a version."""
        return bool(self._message.model_version)

    def encode(self, answer: Answer) -> pb.ModelInferResponse:
        """Return the response in the form of the message: raw or typed contents."""
        parameters = {PREDICTION_ID: answer.prediction_id} if answer.prediction_id else {}
        response = InferResponse(answer.response.id, answer.response.outputs, parameters)
        raw = bool(self._message.raw_input_contents)
        return codec.encode(response, self._serving.name, self._serving.version, raw=raw)
