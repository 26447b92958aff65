"""The values of a SavedModel's variables and tables, without running the file's programs.

A SavedModel restores its variables with a program: this module reads from it which tensor of the checkpoint belongs to
which variable, and nothing else. A program that does more than that gives no value, and the model is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlmodel_server.errors import RefusedModel, Unreadable
from mlmodel_server.formats.savedmodel_graph import TABLES, Reduced
from mlmodel_server.formats.table import library
from mlmodel_server.formats.tensor_bundle import NUMBERS, Bundle, shape_of
from mlmodel_server.tensors import Array

INITIALISE = "__saved_model_init_op"
_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
_ASSIGNING = frozenset(("Assign", "AssignVariableOp"))
_FILLING = frozenset(("LookupTableImportV2", "InitializeTableV2"))
_CALLS = frozenset(("PartitionedCall", "StatefulPartitionedCall"))
_MAX_STEPS = 1_000_000


@dataclass(frozen=True)
class State:
    """The value of each variable, and keys and values of each table, by the names of their nodes."""

    variables: Mapping[str, Array]
    tables: Mapping[str, tuple[Array, Array]]


class _Frame:
    """The nodes of the graph, or of one call of a function with its arguments."""

    def __init__(self, nodes: Any, arguments: Mapping[str, tuple[_Frame, str]], *, is_graph: bool) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.arguments = arguments
        self.is_graph = is_graph


def state_of(meta: Any, reduced: Reduced, bundle: Bundle, name: str) -> State:
    """Return the values of the variables and tables that ``reduced`` needs. Raise :class:`RefusedModel` if one is not
    read from the checkpoint or from constants."""
    variables: dict[str, Array] = {}
    tables: dict[str, tuple[Array, Array]] = {}
    found = {}
    for frame, node in _reached(meta, _starts(meta)):
        if node.op in _ASSIGNING | _FILLING or node.op.startswith("InitializeTable"):
            owner, target, _ = _origin(frame, node.input[0])
            if owner.is_graph:  # a function may have a node of the same name
                found[target] = (frame, node)
    for state, definition in reduced.state.items():
        if definition.op == "Const":
            variables[state] = library("tensorflow").make_ndarray(definition.attr["value"].tensor)
            continue
        if state not in found:
            kind = "table" if definition.op in TABLES else "variable"
            raise _refused(f"the {kind} {state[:80]!r}, whose value is not in the checkpoint,", name)
        frame, node = found[state]
        if definition.op not in TABLES and node.op in _ASSIGNING:
            variables[state] = _value(frame, node.input[1], bundle, name)
        elif definition.op in TABLES and node.op in _FILLING:
            tables[state] = (
                _value(frame, node.input[1], bundle, name),
                _value(frame, node.input[2], bundle, name),
            )
        else:
            raise _refused(f"the operator {node.op[:80]}", name)
    return State(variables, tables)


def _refused(what: str, name: str) -> RefusedModel:
    return RefusedModel(
        f"refused {what} in {name}: a variable must be in the checkpoint, and a table be initialised from constants "
        f"(tf.lookup.KeyValueTensorInitializer) and not from a file; change that part of the model and save it again"
    )


def _starts(meta: Any) -> Iterator[str]:
    """Yield the nodes of the programs that restore and initialise, in the order in which TensorFlow runs them."""
    if meta.saver_def.restore_op_name:
        yield meta.saver_def.restore_op_name
    for collection in _COLLECTIONS:
        if collection in meta.collection_def:
            yield from meta.collection_def[collection].node_list.value
    if INITIALISE in meta.signature_def:
        for output in meta.signature_def[INITIALISE].outputs.values():
            yield output.name


def _reached(meta: Any, starts: Iterator[str]) -> Iterator[tuple[_Frame, Any]]:
    """Yield the nodes that ``starts`` depend on, and those of the functions that they call."""
    functions = {function.signature.name: function for function in meta.graph_def.library.function}
    graph = _Frame(meta.graph_def.node, {}, is_graph=True)
    steps, seen = 0, set()
    for start in starts:
        stack = [start]
        while stack:
            name = _node_name(stack.pop())
            if name in seen or name not in graph.nodes:
                continue
            seen.add(name)
            node = graph.nodes[name]
            stack += node.input
            yield graph, node
            calls = [(graph, node)]
            while calls:
                frame, call = calls.pop()
                function = functions.get(call.attr["f"].func.name) if call.op in _CALLS else functions.get(call.op)
                if function is None:
                    continue
                edges = [edge for edge in call.input if not edge.startswith("^")]
                names = [argument.name for argument in function.signature.input_arg]
                given = {name: (frame, edge) for name, edge in zip(names, edges, strict=False)}
                inner = _Frame(function.node_def, given, is_graph=False)
                for node_in in function.node_def:
                    steps += 1
                    if steps > _MAX_STEPS:
                        raise Unreadable("it restores its variables with too many steps")
                    yield inner, node_in
                    if node_in.op in _CALLS or node_in.op in functions:
                        calls.append((inner, node_in))


def _origin(frame: _Frame, edge: str) -> tuple[_Frame, str, int]:
    """Follow an edge through arguments of functions and copies; return the node that it comes from and the output."""
    for _ in range(_MAX_STEPS):
        name = _node_name(edge)
        if name in frame.arguments and name not in frame.nodes:
            frame, edge = frame.arguments[name]
            continue
        node = frame.nodes.get(name)
        if node is not None and node.op == "Identity" and node.input:
            edge = node.input[0]
            continue
        index = edge.rpartition(":")[2]
        return frame, name, int(index) if ":" in edge and index.isdigit() else 0
    raise Unreadable("its graph is a circle")


def _value(frame: _Frame, edge: str, bundle: Bundle, name: str) -> Array:
    origin, source, index = _origin(frame, edge)
    node = origin.nodes.get(source)
    if node is not None and node.op == "Const":
        return _constant(node)
    if node is not None and node.op == "RestoreV2":
        names, slices = (_texts(origin, edge, name) for edge in node.input[1:3])
        if index < len(names) and index < len(slices):
            if slices[index]:
                raise _refused("a variable in slices (of a partitioner)", name)
            return bundle.tensor(names[index].decode("utf-8"))
    raise _refused("a variable or table with a computed value", name)


def _texts(frame: _Frame, edge: str, name: str) -> list[bytes]:
    origin, source, _ = _origin(frame, edge)
    node = origin.nodes.get(source)
    if node is None or node.op != "Const":
        raise _refused("a variable with a computed name", name)
    return list(_constant(node).ravel())


def _constant(node: Any) -> Array:
    tensor = node.attr["value"].tensor
    dtype = library("tensorflow").dtypes.as_dtype(tensor.dtype)
    count = 1
    for size in shape_of(tensor.tensor_shape):
        count *= size
    if (dtype.name not in NUMBERS and dtype.name != "string") or count > max(1_024, tensor.ByteSize()):
        raise Unreadable("it has a table that is not numbers or text, or repeats one value too often")
    array: Array = library("tensorflow").make_ndarray(tensor)
    return array


def _node_name(edge: str) -> str:
    return edge.removeprefix("^").partition(":")[0]
