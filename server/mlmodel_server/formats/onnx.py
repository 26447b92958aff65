"""ONNX models, through onnxruntime."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.onnx_branches import variants
from mlmodel_server.formats.onnx_graph import rewritten
from mlmodel_server.formats.opened import DATATYPES, FILLS, Artefact, Opened, Table, layout_of, measured_rows
from mlmodel_server.formats.table import library
from mlmodel_server.formats.trial import TooMuchMemory, tried
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array, TensorSpec

_DATATYPES = {{"float32": "float", "float64": "double"}.get(name, name): type for name, type in DATATYPES.items()}

_NO_MEMORY = re.compile("alloc", re.IGNORECASE)
"""How onnxruntime reports that it got no memory. The names of operators, which are in its messages, may match too; such
a model fails on these rows anyway."""

_NO_FOLDER = "/dev/null"
"""Where onnxruntime may look for weights in other files: below a file there is none."""


def check(artefact: Artefact) -> Artefact:
    """Return the model as it was read and checked, which is what to open: onnxruntime reads some files differently.

    A process with limits reads it, opens it and predicts the rows of the self-test first. Raise
    :class:`RefusedModel`, or ValueError for a damaged file.
    """
    library("onnxruntime")  # imported before the fork, so only once
    data = tried(lambda: _tried(artefact), artefact.name, artefact.data)
    return replace(artefact, files={**artefact.files, artefact.name: data})


def _tried(artefact: Artefact) -> bytes:
    """Return the checked model, after it predicted what the server will at the start: one row, and several."""
    data, asserting = rewritten(artefact.data, artefact.name)
    _tried_once(lambda: _asserted(asserting, data, artefact.name))
    for variant in variants(data, artefact.name):
        _tried_once(partial(session, variant, 1))
    return data


def _tried_once(opened: Callable[[], Any]) -> None:
    try:
        _predict(opened())
    except RefusedModel:
        raise
    except Exception as error:  # other errors are those of :func:`opened` and of the self-test
        if _NO_MEMORY.search(str(error)):
            raise TooMuchMemory from None


def _asserted(asserting: bytes, data: bytes, name: str) -> Any:
    """Return a session of the model with assertions."""
    try:
        return session(asserting, 1)
    except Exception:
        running = session(data, 1)  # raises if the reason is another one
        if asserting != data:
            raise RefusedModel(
                f"refused a division of whole numbers in {name}: a request could end the server with it; export the "
                "model with floating-point numbers, or with a constant as the divisor"
            ) from None
        return running


def _predict(running: Any) -> None:
    """Predict the first row of those that the self-test tries which the model accepts, and several of it."""
    inputs = running.get_inputs()
    for fill in FILLS:
        try:
            started = perf_counter()
            running.run(None, {node.name: _filled(node, fill, 1) for node in inputs})
        except Exception:
            if fill == FILLS[-1]:
                raise
        else:
            rows = measured_rows(perf_counter() - started)
            if rows > 1:
                running.run(None, {node.name: _filled(node, fill, rows) for node in inputs})
            return


def _filled(node: Any, fill: float, rows: int) -> Array:
    """Return ``rows`` rows of an input, as the self-test makes them."""
    shape = [max(1, size) if isinstance(size, int) else 1 for size in node.shape]
    shape[:1] = [rows if not isinstance(size, int) else shape[0] for size in node.shape[:1]]
    kind = node.type.partition("(")[2].rstrip(")")
    name = {"float": "float32", "double": "float64", "string": "object"}.get(kind, kind)
    blank: Any = {"object": "", "bool": False}.get(name, fill)
    return np.full(shape, blank, name)


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
    options.add_session_config_entry("session.load_model_format", "ONNX")  # and not onnxruntime's own, by its content
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NO_FOLDER)
    options.log_severity_level = 4  # errors are raised
    running = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    running._model_bytes = None  # it keeps the file, to open it again with other providers
    return running


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
