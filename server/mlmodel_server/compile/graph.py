"""A growing ONNX graph, and the table of converters that make it grow: one small function for each kind of estimator.

Everything is computed in float64, with the operations of the library itself and in its order, so that most models come
out equal to the last bit. That is why there are converters here at all: skl2onnx computes trees, support vectors and
probabilities in float32, which gives other answers next to a decision boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mlmodel_server.compile.verdict import Unsupported
from mlmodel_server.tensors import Array

ML = "ai.onnx.ml"
DOUBLE = int(TensorProto.DOUBLE)
INT64 = int(TensorProto.INT64)


class Graph:
    """Nodes and constants so far. Tensors are known by name."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.guarded: list[str] = []

    def add(self, op: str, *inputs: str | Array | float, domain: str = "", **attributes: Any) -> str:
        """One operation; arrays and numbers become constants. Returns the name of its first output."""
        names = [given if isinstance(given, str) else self.constant(given) for given in inputs]
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [output], domain=domain, **attributes))
        return output

    def constant(self, value: Array | float) -> str:
        """A constant; what is no integer and no text is float64, also the weights of a model fitted on float32."""
        array = np.asarray(value)
        if array.dtype.kind == "f":
            array = array.astype(np.float64)
        name = f"c{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def sum(self, terms: Sequence[str]) -> str:
        """Added one after the other, from the first to the last."""
        total = terms[0]
        for term in terms[1:]:
            total = self.add("Add", total, term)
        return total

    def over_columns(self, op: str, matrix: str) -> str:
        """``ReduceSum``, ``ReduceMax``, … over the columns: shape [rows, 1]."""
        return self.add(op, matrix, np.array([1]), keepdims=1)

    def columns(self, matrix: str, positions: Iterable[int]) -> str:
        """Some columns, in this order."""
        return self.add("Gather", matrix, np.array(list(positions), dtype=np.int64), axis=1)

    def concat(self, parts: Sequence[str]) -> str:
        """Side by side."""
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=1)

    def finite(self, matrix: str) -> str:
        """``matrix`` itself: the estimator raises where it is not finite, so the compiled model has to as well."""
        self.guarded.append(matrix)
        return matrix

    def guard(self) -> str:
        """Zero when everything is finite that has to be, else missing: [1]."""
        nothing = [self.add("Reshape", self.add("Mul", matrix, 0.0), np.array([-1])) for matrix in self.guarded]
        return self.add("ReduceSum", self.add("Concat", *nothing, axis=0), np.array([0]), keepdims=1)

    def reachable(self, outputs: Iterable[str]) -> tuple[list[NodeProto], list[TensorProto]]:
        """Only what these outputs need: converters add what they may not use."""
        needed = set(outputs)
        nodes = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        return nodes[::-1], [constant for name, constant in self.constants.items() if name in needed]


@dataclass(frozen=True)
class Columns:
    """Columns of a table: which column of the matrix ``numbers`` or of the matrix ``text`` each one is."""

    numbers: str
    text: str
    places: tuple[tuple[bool, int], ...]
    """(is text, position)"""
    width: int
    """Columns of ``numbers``."""

    @classmethod
    def of(cls, numbers: str, width: int) -> Columns:
        """All columns of a matrix of numbers."""
        return cls(numbers, "", tuple((False, position) for position in range(width)), width)

    def pick(self, positions: Iterable[int]) -> Columns:
        """Some of them; nothing is computed yet."""
        return Columns(self.numbers, self.text, tuple(self.places[position] for position in positions), self.width)

    def matrix(self, graph: Graph) -> str:
        """As one matrix of numbers."""
        if any(text for text, _ in self.places):
            raise Unsupported("a text column reaches a step that takes numbers")
        positions = [position for _, position in self.places]
        if positions == list(range(self.width)):
            return self.numbers
        return graph.columns(self.numbers, positions)

    def column(self, graph: Graph, index: int) -> tuple[str, bool]:
        """One of them as [rows, 1], and whether it is text."""
        text, position = self.places[index]
        return graph.columns(self.text if text else self.numbers, [position]), text


def side_by_side(graph: Graph, parts: Sequence[Columns]) -> Columns:
    """The columns of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    if any(text for part in parts for text, _ in part.places):
        raise Unsupported("a text column is passed on as it is")
    joined = graph.concat([part.matrix(graph) for part in parts if part.places])
    return Columns.of(joined, sum(len(part.places) for part in parts))


@dataclass(frozen=True)
class Answer:
    """What a predictor answers.

    ``predict`` is [rows], [rows, 1] or [rows, targets]. Of classifiers also: ``index`` ([rows] or [rows, 1], the class
    as int64), ``proba`` ([rows, classes]), and ``scores``, its ``decision_function`` with two dimensions.
    """

    predict: str
    index: str = ""
    proba: str = ""
    scores: str = ""


def argmax(graph: Graph, classes: Array, values: str, *, proba: str = "", scores: str = "") -> Answer:
    """The class of the greatest value in each row; the first of equals, as numpy does."""
    index = graph.add("ArgMax", values, axis=1, keepdims=0)
    return Answer(graph.add("Gather", labels(classes), index), index, proba, scores)


def either(graph: Graph, classes: Array, second: str, *, proba: str = "", scores: str = "") -> Answer:
    """The second of two classes where ``second`` ([rows, 1]) is true."""
    known = labels(classes)
    predict = graph.add("Where", second, known[1:], known[:1])
    return Answer(predict, graph.add("Cast", second, to=INT64), proba, scores)


def pair(graph: Graph, second: str) -> str:
    """The probabilities of two classes from that of the second, [rows, 1]."""
    return graph.concat([graph.add("Sub", 1.0, second), second])


def sigmoid(graph: Graph, values: str) -> str:
    """1 / (1 + exp(-x)). The operation of that name has no digit right below -30, and is 0 below -37."""
    return graph.add("Div", 1.0, graph.add("Add", graph.add("Exp", graph.add("Neg", values)), 1.0))


def normalised(graph: Graph, values: str, classes: int) -> str:
    """Each row divided by its sum; equal shares where that is zero."""
    total = graph.over_columns("ReduceSum", values)
    shares = graph.add("Div", values, total)
    return graph.add("Where", graph.add("Equal", total, 0.0), np.full((1, classes), 1 / classes), shares)


def labels(classes: Array) -> Array:
    """As a constant: text, or the numbers in a type that every operation takes."""
    classes = np.asarray(classes)
    if classes.dtype.kind in "biu":
        return classes.astype(np.int64)
    return classes.astype(np.float64) if classes.dtype.kind == "f" else classes.astype(str).astype(object)


Converter = TypeVar("Converter", bound=Callable[..., "Columns | Answer"])
_CONVERTERS: dict[str, Callable[..., Columns | Answer]] = {}


def converts(*kinds: str) -> Callable[[Converter], Converter]:
    """Registers a function for classes, as ``library.Class``, and what inherits from them in the same library."""

    def register(converter: Converter) -> Converter:
        _CONVERTERS.update(dict.fromkeys(kinds, converter))
        return converter

    return register


def transform(graph: Graph, estimator: Any, table: Columns) -> Columns:
    """The columns that a fitted transformer makes of ``table``."""
    made = _convert(graph, estimator, table)
    if not isinstance(made, Columns):
        raise Unsupported(f"{type(estimator).__name__} is used as a transformer")
    return made


def predict(graph: Graph, estimator: Any, table: Columns) -> Answer:
    """The answers of a fitted predictor to ``table``."""
    made = _convert(graph, estimator, table)
    if not isinstance(made, Answer):
        raise Unsupported(f"{type(estimator).__name__} is used as a predictor")
    return made


def _convert(graph: Graph, estimator: Any, table: Columns) -> Columns | Answer:
    library = type(estimator).__module__.partition(".")[0]
    for kind in type(estimator).__mro__:
        # The class must be of the library too: what a user's subclass overrides, we cannot know.
        converter = _CONVERTERS.get(f"{library}.{kind.__name__}")
        if converter:
            return converter(graph, estimator, table)
    raise Unsupported(f"{type(estimator).__name__} is not converted")
