"""Keras models (.keras)."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.opened import PREDICT, Artefact, Opened, Table, layout_of, parts
from mlmodel_server.formats.table import library
from mlmodel_server.formats.tensorflow_common import array_of, directory, spec_of, tensorflow
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array

MAX_UNPACKED = 4 << 30
"""Maximum bytes that a file may unpack to."""

MAX_CONFIG = 64 << 20
"""Maximum bytes of the JSON that describes the layers."""

# Keras imports what a configuration names. These modules contain layers and arithmetic; the denied names in them run
# code or read files.
_MODULES = frozenset(
    (
        "builtins", "keras", "keras.activations", "keras.constraints", "keras.dtype_policies", "keras.initializers",
        "keras.layers", "keras.losses", "keras.metrics", "keras.models", "keras.optimizers",
        "keras.optimizers.schedules", "keras.regularizers", "keras.src.models.functional",
        "keras.src.models.model", "keras.src.models.sequential",
    )
)  # fmt: skip
_DENIED = frozenset(
    (
        "Lambda", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer", "StringLookup", "IntegerLookup",
        "TextVectorization", "HashedCrossing", "__lambda__", "__typespec__",
    )
)  # fmt: skip
_PLAIN = frozenset(
    ("__tensor__", "__numpy__", "__bytes__", "__tuple__", "__slice__", "__keras_tensor__", "__ellipsis__")
)
_WEIGHTS = "model.weights.h5"


def check(artefact: Artefact) -> None:
    """Raise :class:`RefusedModel` for a layer that is not Keras' own or does more than compute, and for weights in
    other files."""
    with zipfile.ZipFile(io.BytesIO(artefact.data)) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > MAX_UNPACKED:
            raise ValueError("it unpacks to more than the limit")
        for entry in entries:
            path = PurePosixPath(entry.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
                raise _refused(f"the path {entry.filename[:80]!r}", artefact.name)
            if path.name.endswith(".json") and entry.file_size > MAX_CONFIG:
                raise ValueError("it unpacks to more than the limit")
        for what in _forbidden(json.loads(archive.read("config.json"))):
            raise _refused(what, artefact.name)
        if any(entry.filename == _WEIGHTS for entry in entries):
            _check_weights(archive.read(_WEIGHTS), artefact.name)


def _refused(what: str, name: str) -> RefusedModel:
    return RefusedModel(
        f"refused {what} in {name}: a Keras model may only have Keras' own layers that compute; "
        f"replace that part of the model and save it again"
    )


def _forbidden(content: Any) -> Iterator[str]:
    """Yield the parts of the configuration that are not Keras' own, or that read files or run code."""
    for part in parts(content):
        if not isinstance(part, dict) or "class_name" not in part:
            continue
        module, name = part.get("module"), part["class_name"]
        if module is None and name in _PLAIN:
            continue
        full_name = f"{module}.{name}"[:80]
        if module not in _MODULES or name in _DENIED or not isinstance(name, str):
            yield full_name
        elif part.get("registered_name") not in (None, name) and name != "function":
            yield f"{full_name} registered as {str(part['registered_name'])[:80]}"


def _check_weights(data: bytes, name: str) -> None:
    """Reject HDF5 that links to other files: it would read them as weights."""
    h5py = library("h5py")

    def visit(group: Any) -> None:
        for key in group:
            link = group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise _refused("a link to other weights", name)
            item = group[key]
            if isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise _refused("weights in another file", name)
            else:
                visit(item)

    with h5py.File(io.BytesIO(data), "r") as file:
        visit(file)


def opened(artefact: Artefact, threads: int) -> Opened:
    """Return the model, compiled to one function of its inputs."""
    tf = tensorflow(threads)
    with directory({"model.keras": artefact.data}) as path:
        model = library("keras").saving.load_model(path / "model.keras", compile=False, safe_mode=True)
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise RefusedModel(f"{artefact.name} does not declare its inputs: build it with a keras.Input first")
    inputs = tuple(spec_of(tensor.name, tensor.dtype, tensor.shape, artefact.name) for tensor in model.inputs)
    names = [PREDICT] if len(model.outputs) == 1 else list(model.output_names)
    outputs = tuple(
        spec_of(name, tensor.dtype, tensor.shape, artefact.name)
        for name, tensor in zip(names, model.outputs, strict=True)
    )
    call = tf.function(
        lambda *tensors: tf.nest.flatten(model(tensors[0] if len(tensors) == 1 else list(tensors), training=False)),
        input_signature=[tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in model.inputs],
    )
    return Opened(
        "keras",
        "tensorflow_keras",
        _ModelFunctions(call, names),
        Signature(layout_of(inputs), inputs, outputs),
    )


class _ModelFunctions:
    def __init__(self, call: Any, names: Sequence[str]) -> None:
        self._call, self._positions = call, {name: index for index, name in enumerate(names)}

    def __call__(self, table: Table, outputs: Sequence[str]) -> list[Array]:
        tf = library("tensorflow")
        arrays = [table] if isinstance(table, np.ndarray) else list(table.values())
        tensors = self._call(*[tf.constant(array) for array in arrays])
        return [array_of(tensors[self._positions[name]]) for name in outputs]
