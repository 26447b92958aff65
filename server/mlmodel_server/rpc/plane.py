"""The model behind gRPC: what :mod:`.app` does for HTTP, without HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

from mlmodel_server.errors import RequestError
from mlmodel_server.serving import describe
from mlmodel_server.serving.context import Serving
from mlmodel_server.serving.inference import Inference
from mlmodel_server.serving.reporter import Reporter, status_of
from mlmodel_server.tensors import InferRequest, InferResponse, ModelMetadata, shown

PREDICTION_ID = "prediction_id"
ROUTE = "inference.GRPCInferenceService/ModelInfer"


class Plane:
    """A :class:`.protocol.dataplane.DataPlane`."""

    def __init__(self, serving: Serving, inference: Inference, reporter: Reporter) -> None:
        self._serving, self._inference, self._reporter = serving, inference, reporter

    def admit(self, metadata: Mapping[str, str]) -> None:
        """See :class:`.protocol.dataplane.DataPlane`."""
        if self._serving.keys:
            self._serving.keys.check(_headers(metadata))

    def check_room(self) -> None:
        """See :class:`.protocol.dataplane.DataPlane`."""
        self._inference.check_room()

    async def infer(
        self, model: str, version: str, request: InferRequest, deadline: float | None, metadata: Mapping[str, str]
    ) -> InferResponse:
        """See :class:`.protocol.dataplane.DataPlane`."""
        started, serving = perf_counter(), self._serving
        headers = _headers(metadata)
        serving.recorder.in_flight += 1
        try:
            self._check(model, version)
            call = self._inference.call(request)
            until = min(deadline or float("inf"), started + serving.limits.timeout)
            answer = await self._inference.answer(call, until)
        except Exception as error:
            self._reporter.failed(ROUTE, headers, started, status_of(error), error)
            raise
        finally:
            serving.recorder.in_flight -= 1
        self._reporter.answered(ROUTE, headers, started, request, answer)
        parameters = {PREDICTION_ID: answer.prediction_id} if answer.prediction_id else {}
        return InferResponse(answer.response.id, answer.response.outputs, parameters)

    def refused(self, error: RequestError, metadata: Mapping[str, str]) -> None:
        """See :class:`.protocol.dataplane.DataPlane`."""
        self._reporter.failed(ROUTE, _headers(metadata), perf_counter(), error.status, error)

    def metadata(self, model: str, version: str) -> ModelMetadata:
        """See :class:`.protocol.dataplane.DataPlane`."""
        self._check(model, version)
        return describe.model(self._serving)

    def model_ready(self, model: str, version: str) -> bool:
        """See :class:`.protocol.dataplane.DataPlane`."""
        self._check(model, version)
        return self.ready()

    def ready(self) -> bool:
        """See :class:`.protocol.dataplane.DataPlane`."""
        return not self._serving.draining

    def describe(self) -> tuple[str, str, tuple[str, ...]]:
        """See :class:`.protocol.dataplane.DataPlane`."""
        return describe.server()

    def _check(self, model: str, version: str) -> None:
        serving = self._serving
        if model != serving.name:
            raise RequestError(f"there is no model {shown(model)} here, but {serving.name}", 404)
        if version not in ("", serving.version):
            raise RequestError(f"model {model} has no version {shown(version)} here, but {serving.version}", 404)


def _headers(metadata: Mapping[str, str]) -> dict[bytes, bytes]:
    """gRPC's metadata as HTTP's headers are known here."""
    return {name.encode(): value.encode() for name, value in metadata.items()}
