"""Metadata of the server and its model, the same over every protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version as installed
from typing import Annotated

from msgspec import Meta
from msgspec.json import encode
from msgspec.structs import replace

from mlmodel_server.errors import RequestError
from mlmodel_server.observe.drift import MIN_ROWS
from mlmodel_server.observe.reports import RequestReport, ScoreReport
from mlmodel_server.serving.context import Serving
from mlmodel_server.tensors import ModelMetadata, TensorSpec, quoted

SERVER = "mlmodel-server"
EXTENSIONS = ("binary_tensor_data",)
MAX_CATEGORIES = 100
"""Maximum number of categories of a column in the metadata."""


def server() -> tuple[str, str, tuple[str, ...]]:
    """Return name, version and extensions of the protocol."""
    return SERVER, installed("mlmodel"), EXTENSIONS


def model(serving: Serving) -> ModelMetadata:
    """Return the metadata of the model; -1 in a shape is any number of rows. The protocol has no field for columns of
    a DataFrame: they are a property."""
    signature = serving.model.signature
    properties = dict(serving.properties)
    if columns := _columns(signature.inputs):
        properties["columns"] = columns
    if signature.ignores_others:
        properties["extra_columns"] = "ignored"
    if signature.classes:
        properties["classes"] = json.dumps(signature.classes, ensure_ascii=False)
    if signature.default:
        properties["default_outputs"] = ", ".join(signature.default)
    return ModelMetadata(
        serving.name,
        (serving.version,),
        serving.platform,
        tuple(replace(spec, column=None) for spec in signature.inputs),
        signature.outputs,
        properties,
    )


def _columns(inputs: Sequence[TensorSpec]) -> str:
    """Return the columns of a DataFrame by name, as JSON, without categories if they are many; "" if there are none."""
    columns = {spec.name: spec.column for spec in inputs if spec.column is not None}
    shortened = {
        name: column if len(column.categories) <= MAX_CATEGORIES else replace(column, categories=())
        for name, column in columns.items()
    }
    return encode(shortened).decode() if shortened else ""


def check(serving: Serving, model: str, version: str) -> None:
    """Raise :class:`RequestError` 404 unless this server serves this model and version; ``version`` "" is any."""
    if model != serving.name:
        raise RequestError(f"model {quoted(model)} not found; this server serves {serving.name!r}", 404)
    if version not in ("", serving.version):
        raise RequestError(
            f"version {quoted(version)} of model {model!r} not found; this server serves {serving.version!r}", 404
        )


class Stats(RequestReport):
    """Counts of all workers since the start, drift and scores."""

    name: str
    version: str
    revision: str
    drift_rows: Annotated[int, Meta(description="minimum number of rows for a stability index")]
    feedback: list[ScoreReport]


def stats(serving: Serving) -> Stats:
    """Return counts of all workers since the start, drift and scores, as JSON values; see the ``report`` methods of
    Recorder, Drift and Feedback. Takes 1 ms, for sums over shared memory."""
    return {
        "name": serving.name,
        "version": serving.version,
        "revision": serving.revision,
        **serving.recorder.report(),
        "drift_rows": MIN_ROWS,
        "feedback": serving.feedback.report(),
    }
