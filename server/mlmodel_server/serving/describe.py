"""What is told of the server and its model, the same over every protocol."""

from __future__ import annotations

import json
from importlib.metadata import version as installed
from typing import Annotated

from msgspec import Meta

from mlmodel_server.errors import RequestError
from mlmodel_server.observe.drift import MIN_ROWS
from mlmodel_server.observe.reports import RequestReport, ScoreReport
from mlmodel_server.serving.context import Serving
from mlmodel_server.tensors import ModelMetadata, quoted

SERVER = "mlmodel-server"
EXTENSIONS = ("binary_tensor_data",)


def server() -> tuple[str, str, tuple[str, ...]]:
    """Name, version, extensions of the protocol."""
    return SERVER, installed("mlmodel"), EXTENSIONS


def model(serving: Serving) -> ModelMetadata:
    """The model; -1 in a shape is any number of rows."""
    signature = serving.model.signature
    properties = dict(serving.properties)
    if signature.classes:
        properties["classes"] = json.dumps(signature.classes, ensure_ascii=False)
    return ModelMetadata(
        serving.name, (serving.version,), serving.platform, signature.inputs, signature.outputs, properties
    )


def check(serving: Serving, model: str, version: str) -> None:
    """Raise :class:`RequestError` 404 unless this server serves this model and version; ``version`` "" is any."""
    if model != serving.name:
        raise RequestError(f"there is no model {quoted(model)} here, but {serving.name}", 404)
    if version not in ("", serving.version):
        raise RequestError(f"model {model} has no version {quoted(version)} here, but {serving.version}", 404)


class Stats(RequestReport):
    """What all workers have counted since they started."""

    name: str
    version: str
    revision: str
    drift_rows: Annotated[int, Meta(description="fewer rows say nothing about drift")]
    feedback: list[ScoreReport]


def stats(serving: Serving) -> Stats:
    """What all workers have seen since they were started, JSON-ready: see the ``report`` of the recorder, of drift and
    of feedback. Sums over shared memory, 1 ms of work."""
    return {
        "name": serving.name,
        "version": serving.version,
        "revision": serving.revision,
        **serving.recorder.report(),
        "drift_rows": MIN_ROWS,
        "feedback": serving.feedback.report(),
    }
