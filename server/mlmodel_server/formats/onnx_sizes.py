"""Check that no value of a request decides how much memory or how many rounds an ONNX model takes.

The memory of most operators follows from the shapes of their inputs. That of a few follows from values: of ``Range`` or
``Expand``, and the rounds of ``Loop``. These values must come from constants and shapes. How much a model takes for its
own constants is tried in a process with limits (:mod:`.trial`).
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.onnx_operators import DRAWN, SAME_OR_LESS, SIZED

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


_ANY = Value()
_SIZE = Value(True, 1)
Names = MutableMapping[str, Value]


def check(model: Any, functions: Mapping[Key, Any], refused: Refused) -> None:
    """Raise unless memory and rounds of ``model`` follow from shapes and constants."""
    _Sizes(functions, refused).graph(model.graph, ChainMap(), (), 1.0)


class _Sizes:
    def __init__(self, functions: Mapping[Key, Any], refused: Refused) -> None:
        self._functions, self._refused = functions, refused
        self._calls: dict[tuple[Any, ...], list[Value]] = {}

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
    return Value(True, max(map(abs, numbers), default=math.inf))


def _constant(tensor: Any) -> Value:
    """Return the greatest number of an integer tensor with few elements: those are sizes and numbers of rounds."""
    dtype = {6: np.int32, 7: np.int64}.get(tensor.data_type)
    if dtype is None or math.prod(tensor.dims) > 64:
        return Value(True)
    numbers = tensor.int64_data if dtype is np.int64 else tensor.int32_data
    numbers = np.frombuffer(tensor.raw_data, dtype).tolist() if tensor.raw_data else list(numbers)
    return Value(True, max(map(abs, numbers), default=1))
