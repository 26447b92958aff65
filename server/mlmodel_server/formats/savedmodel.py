"""TensorFlow's SavedModel directories.

``strict`` serves what :func:`check` made of the file: only the graph that the signature computes, written anew from
allowed operators, with variables and tables that the server fills. TensorFlow's own loader, which runs the programs of
the file, opens only files of trusted authors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats import tensor_bundle
from mlmodel_server.formats.opened import Artefact, Opened, Table, layout_of
from mlmodel_server.formats.savedmodel_graph import TABLES, Reduced, reduce, refused
from mlmodel_server.formats.savedmodel_state import INITIALISE, State, state_of
from mlmodel_server.formats.table import library
from mlmodel_server.formats.tensorflow_common import array_of, directory, spec_of, tensorflow
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array, TensorSpec

SERVING = "serving_default"
_TAG = "serve"
_VARIABLES = "variables/variables"


@dataclass(frozen=True)
class Checked(Artefact):
    """A SavedModel reduced to what :func:`opened` needs; its files are not read again."""

    reduced: Reduced
    state: State


def check(artefact: Artefact) -> Checked:
    """Return what the signature computes. Raise :class:`RefusedModel` for a graph that does more than compute."""
    tensorflow(1)
    model = library("tensorflow.core.protobuf.saved_model_pb2").SavedModel.FromString(artefact.data)
    graphs = [meta for meta in model.meta_graphs if list(meta.meta_info_def.tags) == [_TAG]]
    if len(graphs) != 1:
        raise refused(f"{len(graphs)} graphs with the tag {_TAG}", artefact.name)
    (meta,) = graphs
    names = [name for name, signature in meta.signature_def.items() if name != INITIALISE and signature.outputs]
    reduced = reduce(meta, meta.signature_def[_chosen(names, artefact.name)], artefact.name, len(artefact.data))
    state = state_of(meta, reduced, tensor_bundle.read(artefact.files, _VARIABLES), artefact.name)
    return Checked(artefact.name, {}, reduced, state)


def _chosen(names: Sequence[str], file: str) -> str:
    if SERVING not in names and len(names) != 1:
        raise RefusedModel(
            f"{file} has {'no signature' if not names else 'several signatures'}: "
            f"save the model with one named {SERVING}"
        )
    return SERVING if SERVING in names else names[0]


def opened(artefact: Artefact, threads: int) -> Opened:
    """Return the model, by its signature ``serving_default`` or its only one."""
    tf = tensorflow(threads)
    if isinstance(artefact, Checked):
        inputs, outputs, functions = _imported(tf, artefact)
    else:
        inputs, outputs, functions = _loaded(tf, artefact)
    if not inputs:
        raise RefusedModel(f"{artefact.name} has no input tensors: save the model with a signature that has inputs")
    return Opened(
        "savedmodel",
        "tensorflow_savedmodel",
        functions,
        Signature(layout_of(inputs), inputs, outputs),
    )


_Parts = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], "_Functions"]


def _imported(tf: Any, checked: Checked) -> _Parts:
    reduced = checked.reduced
    inputs, outputs = sorted(reduced.inputs.items()), sorted(reduced.outputs.items())
    types = [tf.TensorSpec(tf.TensorShape(info.tensor_shape), info.dtype) for _, info in inputs]
    state = {name: _made(tf, name, node, checked.state) for name, node in reduced.state.items()}

    def graph(*tensors: Any) -> Any:
        given = {_edge(info.name): tensor for (_, info), tensor in zip(inputs, tensors, strict=True)}
        for name, made in state.items():
            given[f"{name}:0"] = tf.convert_to_tensor(_handle(made))
        computed = [_edge(info.name) for _, info in outputs if _edge(info.name) not in given]
        edges = {edge for node in reduced.graph.node for edge in map(_edge, node.input)}
        used = {edge: tensor for edge, tensor in given.items() if edge in edges}
        results = tf.graph_util.import_graph_def(reduced.graph, input_map=used, return_elements=computed, name="")
        found = given | dict(zip(computed, results, strict=True))
        return [tf.identity(found[_edge(info.name)]) for _, info in outputs]

    function = tf.compat.v1.wrap_function(graph, types)
    specs = [
        tuple(spec_of(name, tf.as_dtype(info.dtype).name, _shape(info), checked.name) for name, info in tensors)
        for tensors in (inputs, outputs)
    ]
    for (name, info), tensor in zip(outputs, function.outputs, strict=True):
        if tensor.dtype != tf.as_dtype(info.dtype):
            raise refused(f"the output {name[:80]!r}, which has another type than its signature,", checked.name)
    return specs[0], specs[1], _Functions(function, state, [name for name, _ in inputs], [name for name, _ in outputs])


def _made(tf: Any, name: str, node: Any, state: State) -> Any:
    """Return a variable or table of our own in the place of one of the file."""
    if node.op in TABLES:
        keys, values = state.tables[name]
        types = [tf.as_dtype(node.attr[which].type) for which in ("key_dtype", "value_dtype")]
        start = tf.lookup.KeyValueTensorInitializer(keys, values, *types)
        return tf.lookup.StaticHashTable(start, tf.zeros((), types[1]) if types[1] != tf.string else "")
    value = state.variables[name]
    return tf.Variable(value, trainable=False) if node.op == "VarHandleOp" else tf.constant(value)


def _handle(made: Any) -> Any:
    return getattr(made, "resource_handle", None) if hasattr(made, "resource_handle") else getattr(made, "handle", made)


def _edge(name: str) -> str:
    """Return the name of a tensor with its number, which graphs leave out when it is 0."""
    return name if ":" in name or name.startswith("^") else f"{name}:0"


def _loaded(tf: Any, artefact: Artefact) -> _Parts:
    with directory(artefact.files) as path:
        model = tf.saved_model.load(str(path))
    function = model.signatures[_chosen(list(model.signatures), artefact.name)]
    tensors = sorted(function.structured_input_signature[1].items()), sorted(function.structured_outputs.items())
    inputs, outputs = (
        tuple(
            spec_of(name, spec.dtype.name, None if spec.shape.rank is None else spec.shape.as_list(), artefact.name)
            for name, spec in specs
        )
        for specs in tensors
    )
    names = [spec.name for spec in inputs]

    def call(*given: Any) -> list[Any]:
        result = function(**dict(zip(names, given, strict=True)))
        return [result[spec.name] for spec in outputs]

    return inputs, outputs, _Functions(call, model, names, [spec.name for spec in outputs])


def _shape(info: Any) -> list[int | None] | None:
    shape = info.tensor_shape
    return None if shape.unknown_rank else [None if dim.size < 0 else int(dim.size) for dim in shape.dim]


class _Functions:
    def __init__(self, call: Any, owner: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._call, self._owner, self._inputs = call, owner, inputs  # the owner holds the function's variables
        self._positions = {name: index for index, name in enumerate(outputs)}

    def __call__(self, table: Table, outputs: Sequence[str]) -> list[Array]:
        tf = library("tensorflow")
        arrays = [table] if isinstance(table, np.ndarray) else [table[name] for name in self._inputs]
        tensors = self._call(*[tf.constant(array) for array in arrays])
        return [array_of(tensors[self._positions[name]]) for name in outputs]
