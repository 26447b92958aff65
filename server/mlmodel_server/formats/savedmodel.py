"""TensorFlow's SavedModel directories."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.opened import Artefact, Opened, Table, layout_of
from mlmodel_server.formats.table import library
from mlmodel_server.formats.tensorflow_common import array_of, directory, spec_of, tensorflow
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array

SERVING = "serving_default"

# Stateful operators that models compute with. All other stateful operators are rejected.
_STATEFUL = frozenset(
    (
        "Assert", "AssignAddVariableOp", "AssignSubVariableOp", "AssignVariableOp", "Bucketize", "Case",
        "DestroyResourceOp", "DisableCopyOnRead", "Empty", "HashTable", "HashTableV2", "If", "LookupTableExportV2",
        "LookupTableFindV2", "LookupTableImportV2", "LookupTableInsertV2", "LookupTableSizeV2", "Multinomial",
        "MutableHashTableV2", "NoOp", "Placeholder", "RandomShuffle", "RandomStandardNormal", "RandomUniform",
        "RandomUniformInt", "ReadVariableOp", "ResourceGather", "ResourceGatherNd", "ResourceScatterAdd",
        "ResourceScatterUpdate", "RngReadAndSkip", "RngSkip", "StatefulPartitionedCall", "StatefulRandomBinomial",
        "StatefulStandardNormalV2", "StatefulTruncatedNormal", "StatefulUniform", "StatefulUniformInt",
        "TensorArrayGatherV3", "TensorArrayReadV3", "TensorArrayScatterV3", "TensorArraySizeV3", "TensorArrayV3",
        "TensorArrayWriteV3", "TruncatedNormal", "VarHandleOp", "VarIsInitializedOp", "Variable", "VariableV2",
        "While",
    )
)  # fmt: skip
# Operators that TensorFlow declares stateless although they access files, other processes or Python.
_REACHING = re.compile(
    r"File|^Save|^Restore|Checkpoint|PyFunc|Dataset|Iterator|^Debug|Dump|Proto|Remote|Rpc|^_?Send|^_?Recv|^_?Host|Summary"
    r"|ImmutableConst|LoadAndRemap|Print|Sharded|LMDB|Reader"
)
# Operators that save and load the variables; allowed only in functions that no signature calls.
_SAVING = frozenset(("SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"))
_SAVERS = re.compile(r"__inference__traced_(save|restore)_\d+")


def check(artefact: Artefact) -> None:
    """Raise :class:`RefusedModel` for a graph with an operator that does more than compute."""
    tensorflow(1)
    model = library("tensorflow.core.protobuf.saved_model_pb2").SavedModel()
    model.ParseFromString(artefact.data)
    for meta in model.meta_graphs:
        functions = {function.signature.name: function.node_def for function in meta.graph_def.library.function}
        called = _called(_output_nodes(meta), functions)
        for name, nodes in functions.items():
            saver = name not in called and _SAVERS.fullmatch(name)
            _check_nodes([node.op for node in nodes if not (saver and node.op in _SAVING)], functions, artefact.name)
        _check_nodes([node.op for node in meta.graph_def.node if node.op not in _SAVING], functions, artefact.name)


def _output_nodes(meta: Any) -> list[Any]:
    """Return the nodes of the graph that the outputs of its signatures depend on."""
    nodes = {node.name: node for node in meta.graph_def.node}
    stack = [output.name for signature in meta.signature_def.values() for output in signature.outputs.values()]
    reached: dict[str, Any] = {}
    while stack:
        name = stack.pop().lstrip("^").partition(":")[0]
        if name in nodes and name not in reached:
            reached[name] = nodes[name]
            stack += nodes[name].input
    return list(reached.values())


def _called(nodes: Iterable[Any], functions: Any) -> set[str]:
    """Return the functions that ``nodes`` call, directly or indirectly."""
    called: set[str] = set()
    stack = [nodes]
    while stack:
        for name in _callees(stack.pop(), functions):
            if name not in called:
                called.add(name)
                stack.append(functions[name])
    return called


def _callees(nodes: Iterable[Any], functions: Any) -> Iterator[str]:
    for node in nodes:
        if node.op in functions:
            yield node.op
        for value in node.attr.values():
            for name in (value.func.name, *(function.name for function in value.list.func)):
                if name in functions:
                    yield name


def _check_nodes(operators: Iterable[str], functions: Any, file: str) -> None:
    registry = library("tensorflow.python.framework.op_def_registry")
    for operator in operators:
        if operator in _STATEFUL or operator in functions:
            continue
        definition = registry.get(operator)
        if definition is None or definition.is_stateful or _REACHING.search(operator):
            raise RefusedModel(
                f"refused the operator {operator[:80]} in {file}: a SavedModel may only compute; "
                f"remove that part of the model and save it again"
            )


def opened(artefact: Artefact, threads: int) -> Opened:
    """Return the model, by its signature ``serving_default`` or its only one."""
    tf = tensorflow(threads)
    with directory(artefact.files) as path:
        model = tf.saved_model.load(str(path))
    names = list(model.signatures)
    if SERVING not in names and len(names) != 1:
        raise RefusedModel(
            f"{artefact.name} has {'no signature' if not names else 'several signatures'}: "
            f"save the model with one named {SERVING}"
        )
    function = model.signatures[SERVING if SERVING in names else names[0]]
    inputs = tuple(
        spec_of(name, spec.dtype.name, _shape(spec), artefact.name)
        for name, spec in sorted(function.structured_input_signature[1].items())
    )
    outputs = tuple(
        spec_of(name, spec.dtype.name, _shape(spec), artefact.name)
        for name, spec in sorted(function.structured_outputs.items())
    )
    if not inputs:
        raise RefusedModel(f"{artefact.name} has no input tensors: save the model with a signature that has inputs")
    return Opened(
        "savedmodel",
        "tensorflow_savedmodel",
        _SignatureFunctions(model, function, inputs[0].name),
        Signature(layout_of(inputs), inputs, outputs),
    )


def _shape(spec: Any) -> list[int | None] | None:
    return None if spec.shape.rank is None else spec.shape.as_list()


class _SignatureFunctions:
    def __init__(self, model: Any, function: Any, name: str) -> None:
        self._model, self._function, self._name = model, function, name  # the model owns the function's variables

    def __call__(self, table: Table, outputs: Sequence[str]) -> list[Array]:
        tf = library("tensorflow")
        arrays = {self._name: table} if isinstance(table, np.ndarray) else table
        tensors = self._function(**{name: tf.constant(array) for name, array in arrays.items()})
        return [array_of(tensors[name]) for name in outputs]
