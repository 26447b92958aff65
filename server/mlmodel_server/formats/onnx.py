"""ONNX models, through onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.opened import DATATYPES, Artefact, Opened, Table, layout_of
from mlmodel_server.formats.table import library
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array, TensorSpec

_DATATYPES = {{"float32": "float", "float64": "double"}.get(name, name): type for name, type in DATATYPES.items()}

# Where a model can contain tensors: for each message of onnx.proto, the numbers of the fields to follow.
_LEADS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_MAX_DEPTH = 64


def check(artefact: Artefact) -> None:
    """Raise :class:`RefusedModel` if weights are in another file, which could be any file of the machine."""
    try:
        if any(_external(memoryview(artefact.data), "model", 0)):
            raise RefusedModel(
                f"refused external data in {artefact.name}: save the model as one file "
                f"(onnx.save(model, 'model.onnx', save_as_external_data=False))"
            )
    except (IndexError, ValueError):
        raise RefusedModel(f"{artefact.name} is a damaged ONNX model: copy or save it again") from None


def opened(artefact: Artefact, threads: int) -> Opened:
    """Return the model in a file. Its inputs are tensors as the graph declares them, or a table if it has one input."""
    running = session(artefact.data, threads)
    inputs = tuple(_spec(node) for node in running.get_inputs())
    nodes = [node for node in running.get_outputs() if _kind(node.type) != "other"]
    if not inputs or not nodes:
        raise RefusedModel(f"{artefact.name} has no inputs or outputs that are tensors: export it with tensors")
    outputs = tuple(_output(node) for node in nodes)
    return Opened(
        "onnx",
        "onnx_onnxv1",
        SessionFunctions(running, inputs),
        Signature(layout_of(inputs), inputs, outputs),
    )


def session(data: bytes, threads: int) -> Any:
    """Return an onnxruntime session that predicts in the calling thread and ``threads`` - 1 others."""
    onnxruntime = library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other workers need the cores
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


class SessionFunctions:
    """Predict with a session, by the names of its inputs and outputs."""

    def __init__(self, running: Any, inputs: Sequence[TensorSpec]) -> None:
        # The public method checks names again and formats help: half the time of a small model.
        self._session, self._run, self._name = running, running._sess.run, inputs[0].name

    def __call__(self, table: Table, outputs: Sequence[str]) -> list[Array]:
        """See :class:`~.opened.Functions`."""
        feed = {self._name: table} if isinstance(table, np.ndarray) else dict(table)
        return [_array(output) for output in self._run(list(outputs), feed, None)]


def _array(output: Any) -> Array:
    if isinstance(output, list):  # a classifier's probabilities as one dictionary for each row
        return np.array([list(row.values()) for row in output])
    return np.asarray(output)


def _kind(type_name: str) -> str:
    if type_name.startswith("tensor("):
        return "tensor"
    return "maps" if type_name.startswith("seq(map(") else "other"


def _output(node: Any) -> TensorSpec:
    if _kind(node.type) == "maps":
        return TensorSpec(node.name, "FP64", (-1, -1))
    return _spec(node)


def _spec(node: Any) -> TensorSpec:
    kind = node.type.partition("(")[2].rstrip(")")
    if not node.type.startswith("tensor(") or kind not in _DATATYPES:
        raise RefusedModel(
            f"{node.name} is of the ONNX type {node.type}, which the protocol does not have: "
            f"export the model with one of {', '.join(_DATATYPES)}"
        )
    # A variable size is a name.
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(node.name, _DATATYPES[kind], shape)


def _external(message: memoryview, kind: str, depth: int) -> Iterator[bool]:
    """Yield True for each tensor of the protobuf ``message`` whose data is in another file."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    leads = _LEADS[kind]
    for number, value in _fields(message):
        if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value == 1)):
            yield True
        elif number in leads and isinstance(value, memoryview):
            yield from _external(value, leads[number], depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a protobuf message: number, and the bytes of a field with a length, else its value."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("a wire type that protobuf 3 has not")
        if at + size > end:
            raise ValueError("cut off")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number that is too long")
