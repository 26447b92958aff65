"""Keras models (.keras)."""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mlmodel_server.errors import OR_SIGN, RefusedModel, Unreadable
from mlmodel_server.formats.opened import PREDICT, Artefact, Opened, Table, layout_of, max_unpacked, parts
from mlmodel_server.formats.operators import allowed
from mlmodel_server.formats.table import library
from mlmodel_server.formats.tensorflow_common import array_of, directory, spec_of, tensorflow
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array

MAX_CONFIG = 64 << 20
"""Maximum bytes of the JSON that describes the layers."""

_PLAIN = frozenset(
    ("__tensor__", "__numpy__", "__bytes__", "__tuple__", "__slice__", "__keras_tensor__", "__ellipsis__")
)
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_VOCABULARY = re.compile(r"assets/(?:\w+/){1,20}vocabulary\.txt")
_BEYOND_FILE = 64 << 20


def check(artefact: Artefact) -> Artefact:
    """Return the model, written anew from what was checked. Raise :class:`RefusedModel` for a layer that is not listed,
    for weights in other files, and for more weights than the file contains."""
    members = _members(artefact)
    config = _config(members[_CONFIG], artefact.name)
    if _WEIGHTS not in members:
        raise _refused(f"a file without {_WEIGHTS}", artefact.name)
    _check_weights(members[_WEIGHTS], artefact.name)
    _check_size(config, len(members[_WEIGHTS]), artefact.name)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, data in {**members, _CONFIG: json.dumps(config).encode()}.items():
            target.writestr(name, data)
    return Artefact(artefact.name, {artefact.name: buffer.getvalue()})


def _members(artefact: Artefact) -> dict[str, bytes]:
    """Return the files that Keras needs: description, weights, and vocabularies."""
    with zipfile.ZipFile(io.BytesIO(artefact.data)) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > max_unpacked(len(artefact.data)):
            raise Unreadable("it unpacks to more than the limit")
        if len({entry.filename for entry in entries}) != len(entries):
            raise _refused("a member that is there twice", artefact.name)
        members = {}
        for entry in entries:
            path = PurePosixPath(entry.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
                raise _refused(f"the path {entry.filename[:80]!r}", artefact.name)
            if path.name.endswith((".json", ".txt")) and entry.file_size > MAX_CONFIG:
                raise Unreadable("it unpacks to more than the limit")
            if entry.filename in (_CONFIG, _METADATA, _WEIGHTS) or _VOCABULARY.fullmatch(entry.filename):
                members[entry.filename] = archive.read(entry)
    return members


def _refused(what: str, name: str) -> RefusedModel:
    return RefusedModel(
        f"refused {what} in {name}: a Keras model may only have Keras' own layers that compute; "
        f"replace that part of the model and save it again, {OR_SIGN}"
    )


def _config(text: bytes, name: str) -> dict[str, Any]:
    """Return the description of the layers, without what is only for training, after checking every part of it."""
    config = json.loads(text)
    if not isinstance(config, dict):
        raise _refused("a damaged description", name)
    for part in parts(config):
        if isinstance(part, dict):
            part.pop("compile_config", None)
            for what in _forbidden(part):
                raise _refused(what, name)
    return config


def _forbidden(part: dict[str, Any]) -> Iterator[str]:
    """Yield what is not listed, reads another file, or keeps a state between predictions."""
    vocabulary = part.get("vocabulary")
    if vocabulary is not None and not (
        isinstance(vocabulary, list) and all(isinstance(word, (str, int)) for word in vocabulary)
    ):
        yield "a vocabulary that is not a list (such as the path of a file)"
    if part.get("stateful"):
        yield "a layer that keeps a state between predictions (stateful)"
    if "class_name" not in part:
        return
    module, name, registered = part.get("module"), part["class_name"], part.get("registered_name")
    if name == "function":
        functions = {f"keras.activations.{part.get('config')}", f"{module}.{part.get('config')}"}
        if module not in ("builtins", "keras.activations") or not functions & allowed("keras"):
            yield f"{module}.{name} {part.get('config')}"[:80]
    elif module is None and isinstance(name, str) and name in _PLAIN:
        return
    elif "." in str(name) or f"{module}.{name}" not in allowed("keras"):
        yield f"{module}.{name}"[:80]
    elif registered not in (None, name):
        yield f"{module}.{name} registered as {registered}"[:120]


def _check_size(config: dict[str, Any], stored: int, name: str) -> None:
    """Build the model without the memory for its weights, and refuse more weights than the file contains: Keras
    allocates all of them before it reads one."""
    keras, state = library("keras"), library("keras.src.backend.common.global_state")
    tensorflow(1)
    kept = state.get_global_attribute("uninitialized_variables", [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)), safe_mode=True)
            needed = sum(math.prod(variable.shape) * 4 for variable in getattr(model, "variables", ()))
    finally:
        state.set_global_attribute("uninitialized_variables", kept)
    if needed > 2 * stored + _BEYOND_FILE:
        raise _refused("layers with more weights than the file contains", name)


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
                if item.dtype.hasobject or item.nbytes != item.id.get_storage_size():
                    raise _refused("weights that are compressed, missing or not numbers", name)
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
