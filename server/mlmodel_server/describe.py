"""What is told of the server and its model, the same over every protocol."""

from __future__ import annotations

import json
from importlib.metadata import version as installed

from .protocol.tensors import ModelMetadata
from .serving import Serving

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
