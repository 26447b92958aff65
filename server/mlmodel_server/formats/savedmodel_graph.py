"""Reduce a SavedModel to what its signature computes, made only of allowed operators.

A SavedModel contains programs for saving, restoring, initialising and gradients beside the one that predicts. None of
them is run or kept: the reduced graph is written anew, node by node, from the parts that were checked, so it contains
nothing that this module did not look at. Variables and tables become inputs of the graph, which the server fills from
the checkpoint and from constants (:mod:`.savedmodel_state`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from mlmodel_server.errors import OR_SIGN, RefusedModel
from mlmodel_server.formats.operators import allowed
from mlmodel_server.formats.table import library
from mlmodel_server.formats.tensor_bundle import NUMBERS, shape_of

MAX_CONSTANTS = 256 << 20
"""Maximum bytes of all constants beyond those that the file contains: a constant can repeat one value."""

MAX_NODES = 1_000_000
"""Maximum number of operators, with those of a function counted for each call: TensorFlow expands calls."""

VARIABLES = frozenset(("VarHandleOp", "VariableV2", "Variable"))
_CALLS = frozenset(("PartitionedCall", "StatefulPartitionedCall"))
TABLES = frozenset(("HashTableV2", "MutableHashTableV2"))
_CHANGING = (
    "Assign",
    "LookupTableImport",
    "LookupTableInsert",
    "LookupTableRemove",
    "ResourceScatter",
    "RngReadAndSkip",
    "RngSkip",
    "StatefulStandardNormal",
    "StatefulTruncatedNormal",
    "StatefulUniform",
)
_KEPT = "_lower_using_switch_merge"  # the only option beside an operator's own attributes that stays


@dataclass(frozen=True)
class Reduced:
    """``graph`` computes the tensors ``outputs`` from the tensors ``inputs``, which are nodes of it no longer, and from
    the variables and tables ``state``, by the names of their former nodes."""

    graph: Any
    state: Mapping[str, Any]
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


def refused(what: str, name: str) -> RefusedModel:
    """Return the error for a part that does more than compute."""
    return RefusedModel(
        f"refused {what} in {name}: a SavedModel may only compute; remove that part of the model and save it again, "
        f"{OR_SIGN}"
    )


def reduce(meta: Any, signature: Any, name: str, size: int) -> Reduced:
    """Return what ``signature`` of ``meta`` computes, from a file ``name`` of ``size`` bytes. Raise
    :class:`RefusedModel` for an operator that is not allowed."""
    return _Reduction(meta, name, size).of(signature)


@cache
def _definitions() -> Callable[[str], Any]:
    get: Callable[[str], Any] = library("tensorflow.python.framework.op_def_registry").get
    return get


@dataclass
class _Reduction:
    meta: Any
    name: str
    size: int
    constants: int = 0
    weights: dict[str, int] = field(default_factory=dict)  # operators of a function, with those that it calls

    def __post_init__(self) -> None:
        library_of = self.meta.graph_def.library.function
        self.functions = {function.signature.name: function for function in library_of}
        if len(self.functions) != len(library_of):
            raise refused("a function that is defined twice", self.name)
        self.nodes = {node.name: node for node in self.meta.graph_def.node}
        if len(self.nodes) != len(self.meta.graph_def.node):
            raise refused("a node that is defined twice", self.name)
        self.renamed: dict[str, str] = {}
        self.written: list[Any] = []

    def of(self, signature: Any) -> Reduced:
        inputs = {key: self._tensor(info) for key, info in signature.inputs.items()}
        outputs = {key: self._tensor(info) for key, info in signature.outputs.items()}
        for info in inputs.values():
            node = self.nodes.get(_node_of(info.name))
            if node is None or node.op not in ("Placeholder", "PlaceholderWithDefault") or _index_of(info.name):
                raise refused(f"the input {info.name[:80]!r}, which is not a placeholder,", self.name)
        graph = library("tensorflow.core.framework.graph_pb2").GraphDef()
        graph.versions.CopyFrom(self.meta.graph_def.versions)
        state: dict[str, Any] = {}
        given = {_node_of(info.name) for info in inputs.values()}
        reached = self._reached((info.name for info in outputs.values()), given)
        # Constants that functions of TensorFlow 2 captured stay arguments, as in TensorFlow: folding them rounds
        # differently.
        captured = self._captured(reached)
        for node in reached:
            if node.op in VARIABLES | TABLES or node.name in captured:
                state[node.name] = node
        replaced = given | state.keys()
        total = 0
        for node in reached:
            if node.name not in replaced:
                total += 1 + self._node(node, graph.node.add(), ())
                self._keep_inputs(node, graph.node[-1], replaced)
        self._bound(total)
        graph.library.function.extend(self.written)
        return Reduced(graph, state, inputs, outputs)

    def _tensor(self, info: Any) -> Any:
        if info.WhichOneof("encoding") != "name":
            raise refused("an input or output that is not a dense tensor", self.name)
        return info

    def _reached(self, outputs: Iterator[str], given: set[str]) -> list[Any]:
        """Return the nodes of the graph that ``outputs`` depend on."""
        stack, reached = [_node_of(output) for output in outputs], {}
        while stack:
            name = stack.pop()
            if name in reached or name in given:
                continue
            node = self.nodes.get(name)
            if node is None:
                raise refused("an edge from a node that does not exist", self.name)
            reached[name] = node
            stack += [_node_of(edge) for edge in node.input]
        return list(reached.values())

    def _captured(self, reached: Sequence[Any]) -> set[str]:
        """Return the constants that only calls use, after checking them."""
        used = {True: set[str](), False: set[str]()}
        for node in reached:
            used[node.op in _CALLS].update(_node_of(edge) for edge in node.input)
        captured = {node.name for node in reached if node.op == "Const"} & used[True] - used[False]
        for name in captured:
            self._constant(self.nodes[name].attr["value"].tensor)
        return captured

    @staticmethod
    def _keep_inputs(node: Any, target: Any, replaced: set[str]) -> None:
        del target.input[:]
        target.input.extend(edge for edge in node.input if not (edge[:1] == "^" and edge[1:] in replaced))

    def _node(self, node: Any, target: Any, callers: tuple[str, ...]) -> int:
        """Write the checked parts of ``node`` into ``target``; return how many operators its calls expand to."""
        target.name = node.name
        target.input.extend(node.input)
        if node.op in self.functions:
            target.op, expanded = self._function(node.op, callers)
            return expanded
        definition = _definitions()(node.op)
        if node.op.startswith(_CHANGING):
            raise RefusedModel(
                f"refused the operator {node.op[:80]} in {self.name}: the model changes its variables when it "
                f"predicts, so an answer depends on the requests before; save it without that part (such as a counter, "
                f"a layer with state or random augmentation)"
            )
        if node.op not in allowed("tensorflow") or definition is None:
            raise refused(f"the operator {node.op[:80]}", self.name)
        target.op = node.op
        expanded = 0
        for declared in definition.attr:
            if node.op.endswith("PartitionedCall") and declared.name in ("config", "config_proto", "executor_type"):
                target.attr[declared.name].s = b""  # options of execution, which name optimisers and executors
            elif declared.name in node.attr:
                expanded += self._attribute(node.attr[declared.name], target.attr[declared.name], callers)
            elif declared.HasField("default_value"):
                target.attr[declared.name].CopyFrom(declared.default_value)
            else:
                raise refused(f"a damaged operator {node.op[:80]}", self.name)
        if node.attr[_KEPT].b if _KEPT in node.attr else False:
            target.attr[_KEPT].b = True
        return expanded

    def _attribute(self, value: Any, target: Any, callers: tuple[str, ...]) -> int:
        kind = value.WhichOneof("value")
        if kind == "func":
            target.func.name, expanded = self._function(value.func.name, callers)
            return expanded
        if kind == "list" and value.list.func:
            total = 0
            for function in value.list.func:
                name, expanded = self._function(function.name, callers)
                target.list.func.add().name = name
                total += expanded
            return total
        if kind == "tensor":
            self._constant(value.tensor)
        elif kind == "placeholder" or (kind == "list" and value.list.tensor):
            raise refused("an attribute that is not a plain value", self.name)
        target.CopyFrom(value)
        return 0

    def _constant(self, tensor: Any) -> None:
        dtype = library("tensorflow").dtypes.as_dtype(tensor.dtype)
        if dtype.name not in NUMBERS and dtype.name != "string":
            raise refused("a constant that is not numbers or text", self.name)
        count = 1
        for size in shape_of(tensor.tensor_shape):
            count *= size
        self.constants += count * (dtype.size or 16)
        if self.constants > MAX_CONSTANTS + self.size:
            raise refused(f"constants of more than {MAX_CONSTANTS >> 20} MiB", self.name)

    def _function(self, name: str, callers: tuple[str, ...]) -> tuple[str, int]:
        """Write a checked copy of a function under a name that no other model has; return name and operators."""
        function = self.functions.get(name)
        if function is None or name in callers:
            raise refused("a call of a function that does not exist or calls itself", self.name)
        if name not in self.renamed:
            if _definitions()(name) is not None or function.signature.attr or len(callers) > 200:
                raise refused(
                    "a function with the name of an operator, with types as arguments or nested deep", self.name
                )
            copy = library("tensorflow.core.framework.function_pb2").FunctionDef()
            total = 0
            for node in function.node_def:
                total += 1 + self._node(node, copy.node_def.add(), (*callers, name))
            self._bound(total)
            self._signature(function, copy)
            self.renamed[name] = copy.signature.name = f"__model_{_next()}"
            self.weights[name] = total
            self.written.append(copy)
        return self.renamed[name], self.weights[name]

    @staticmethod
    def _signature(function: Any, copy: Any) -> None:
        for ours, theirs in (
            (copy.signature.input_arg, function.signature.input_arg),
            (copy.signature.output_arg, function.signature.output_arg),
        ):
            for argument in theirs:
                ours.add(name=argument.name, type=argument.type)
        copy.signature.is_stateful = function.signature.is_stateful
        copy.signature.control_output.extend(function.signature.control_output)
        copy.ret.update(function.ret)
        copy.control_ret.update(function.control_ret)

    def _bound(self, operators: int) -> None:
        if operators > MAX_NODES:
            raise refused(f"more than {MAX_NODES:,} operators", self.name)


_count = iter(range(1 << 62))


def _next() -> int:
    """Return a number for a function's name: all models of a process share TensorFlow's table of functions."""
    return next(_count)


def _node_of(edge: str) -> str:
    return edge.removeprefix("^").partition(":")[0]


def _index_of(edge: str) -> int:
    index = edge.partition(":")[2]
    return int(index) if index.isdigit() else 0
