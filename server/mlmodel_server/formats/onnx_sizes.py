"""Check that no value of a request decides how much memory or how many rounds an ONNX model takes.

The memory of most operators follows from the shapes of their inputs. That of a few follows from values: of ``Range`` or
``Expand``, and the rounds of ``Loop``. These values must come from constants and shapes. How much a model takes for its
own constants is tried in a process with limits (:mod:`.trial`).

Nor may a value end the process. The one operator of onnxruntime that does is ``Div``: to divide the lowest whole number
by -1 is a signal of the CPU.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.onnx_operators import CHOSEN, DRAWN, SAME_OR_LESS, SIZED

MAX_ROUNDS = 1_000_000
"""Maximum rounds of loops within each other, where a dimension of a tensor counts as one."""

MAX_CALLS = 10_000
"""Maximum calls of functions with different kinds of arguments."""

Key = tuple[str, str, str]
Refused = Callable[[str, str], RefusedModel]


def key(domain: str, name: str, overload: str) -> Key:
    """Return the identity of an operator or function."""
    return ("" if domain == "ai.onnx" else domain, name, overload)


def graphs(attribute: Any) -> Iterator[Any]:
    """Yield the graphs in an attribute."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


@dataclass(frozen=True)
class Value:
    """What is known of a tensor: whether it is the same for all requests of one shape, and its greatest number, where a
    dimension of a tensor counts as one."""

    fixed: bool = False
    most: float = math.inf
    divides: bool = False
    """Whether it can divide whole numbers: none of its numbers is -1. Numbers that are not whole always can."""


_DIVISION = ("", "Div", "")
_ANY = Value()
_SIZE = Value(True, 1, True)
Names = MutableMapping[str, Value]


@dataclass(frozen=True)
class Division:
    """A division in ``nodes``, a graph's or function's, by a tensor of which only its type can show that it is safe."""

    nodes: Any
    divisor: str


def check(model: Any, functions: Mapping[Key, Any], refused: Refused) -> list[Division]:
    """Raise unless memory and rounds of ``model`` follow from shapes and constants. Return the divisions that must not
    be of whole numbers."""
    sizes = _Sizes(functions, refused)
    sizes.graph(model.graph, ChainMap(), (), 1.0)
    return list(sizes.divisions.values())


class _Sizes:
    def __init__(self, functions: Mapping[Key, Any], refused: Refused) -> None:
        self._functions, self._refused = functions, refused
        self._calls: dict[tuple[Any, ...], list[Value]] = {}
        self.divisions: dict[tuple[int, str], Division] = {}  # by the id of the nodes, which the division keeps

    def graph(self, graph: Any, outer: Names, inputs: Sequence[Value], rounds: float) -> list[Value]:
        """Return what is known of the outputs of ``graph``, which runs ``rounds`` times."""
        names = ChainMap({}, *outer.maps) if isinstance(outer, ChainMap) else ChainMap({}, outer)
        for index, value in enumerate(graph.input):
            names[value.name] = inputs[index] if index < len(inputs) else _ANY
        for tensor in graph.initializer:
            names[tensor.name] = _constant(tensor)
        self._run(graph.node, names, rounds)
        return [names.get(value.name, _ANY) for value in graph.output]

    def _run(self, nodes: Any, names: Names, rounds: float) -> None:
        for node in nodes:
            inputs = [names.get(name, _ANY) if name else _SIZE for name in node.input]
            outputs = self._node(node, inputs, names, rounds)
            if key(node.domain, node.op_type, "") == _DIVISION and len(inputs) == 2 and not inputs[1].divides:
                self.divisions.setdefault((id(nodes), node.input[1]), Division(nodes, node.input[1]))
            for index, name in enumerate(node.output):
                names[name] = outputs[index] if index < len(outputs) else _ANY

    def _node(self, node: Any, inputs: list[Value], names: Names, rounds: float) -> list[Value]:
        identity = key(node.domain, node.op_type, node.overload)
        if identity in self._functions:
            return self._call(identity, inputs, rounds)
        for index in SIZED.get(node.op_type, ()):
            if index < len(inputs) and not inputs[index].fixed:
                raise self._refused(
                    f"the operator {node.op_type}",
                    "values of a request would decide how much memory it takes; export the model with fixed sizes, "
                    "or with sizes from the shapes of its inputs",
                )
        if node.op_type == "Loop":
            rounds *= inputs[0].most if node.input and node.input[0] else math.inf
            if rounds > MAX_ROUNDS:
                raise self._refused(
                    "a loop",
                    f"export the model with loops of at most {MAX_ROUNDS:,} rounds, or as many as the input has rows",
                )
        for attribute in node.attribute:
            for graph in graphs(attribute):
                given = [inputs[0]] if node.op_type == "Loop" else []  # the number of the round is at most this
                self.graph(graph, names, given, rounds)
        return [_result(node, inputs)] * len(node.output)

    def _call(self, identity: Key, inputs: list[Value], rounds: float) -> list[Value]:
        call = (identity, tuple(inputs), rounds)
        if call not in self._calls:
            if len(self._calls) >= MAX_CALLS:
                raise self._refused("too many functions", "export the model with functions inlined")
            function = self._functions[identity]
            names: Names = dict(zip(function.input, inputs, strict=False))
            self._run(function.node, names, rounds)
            self._calls[call] = [names.get(name, _ANY) for name in function.output]
        return self._calls[call]


def _result(node: Any, inputs: list[Value]) -> Value:
    """Return what is known of the outputs of a node that is not a function."""
    if node.op_type in ("Shape", "Size"):
        return _SIZE
    if node.op_type == "Constant":
        return next((_attribute(attribute) for attribute in node.attribute), _ANY)
    return replace(_size(node, inputs), divides=_divides(node, inputs))


def _divides(node: Any, inputs: list[Value]) -> bool:
    """Whether no number of the output is -1 because none of the inputs is."""
    if node.op_type in CHOSEN:
        return bool(inputs) and inputs[0].divides
    return node.op_type in ("Concat", "Max", "Min") and all(value.divides for value in inputs)


def _size(node: Any, inputs: list[Value]) -> Value:
    """Return how large the numbers in the outputs of a node can be."""
    subgraphs = any(graph for attribute in node.attribute for graph in graphs(attribute))
    if subgraphs or node.op_type in DRAWN or not all(value.fixed for value in inputs):
        return _ANY
    most = [value.most for value in inputs]
    if node.op_type in SAME_OR_LESS:
        return Value(True, max(most, default=math.inf))
    if node.op_type in ("Add", "Sub"):
        return Value(True, sum(most))
    return Value(True, math.prod(most) if node.op_type == "Mul" else math.inf)


def _attribute(attribute: Any) -> Value:
    if attribute.HasField("t"):
        return _constant(attribute.t)
    if attribute.ref_attr_name:
        return Value(True)
    numbers = [attribute.i] if attribute.HasField("i") else list(attribute.ints)
    return Value(True, max(map(abs, numbers), default=math.inf), -1 not in numbers)


def _constant(tensor: Any) -> Value:
    """Return the greatest number of an integer tensor with few elements: those are sizes and numbers of rounds."""
    dtype = {6: np.int32, 7: np.int64}.get(tensor.data_type)
    if dtype is None:
        return Value(True, divides=True)  # shorter whole numbers are divided as int
    listed = tensor.int64_data if dtype is np.int64 else tensor.int32_data
    numbers = np.frombuffer(tensor.raw_data, dtype) if tensor.raw_data else np.array(listed, dtype)
    most = math.inf if len(numbers) > 64 else max(map(abs, numbers.tolist()), default=1)
    return Value(True, most, not (numbers == -1).any())
