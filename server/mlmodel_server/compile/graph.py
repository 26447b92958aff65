"""Build an ONNX graph with converters: one small function for each kind of estimator.

The graph computes in float64, with the operations of the original library and in their order, so most models are equal
to the last bit. This is why the project has its own converters: skl2onnx computes trees, support vectors and
probabilities in float32, which gives other predictions next to a decision boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mlmodel_server.compile.domain import Limit
from mlmodel_server.compile.limits import trial
from mlmodel_server.compile.own import OwnStep, matrix_of
from mlmodel_server.compile.plain import CATEGORY, is_date, number_of
from mlmodel_server.compile.verdict import Unsupported
from mlmodel_server.formats.frame import Frames
from mlmodel_server.formats.prepare import in_double, is_own
from mlmodel_server.tensors import Array, TensorSpec

ML = "ai.onnx.ml"
DOUBLE = int(TensorProto.DOUBLE)
INT64 = int(TensorProto.INT64)
FINITE = Limit(missing=False, infinite=False, single=False)


class Frame(NamedTuple):
    """What is known of a model that gets a DataFrame: its parts, a row of a request with these columns, and for each
    column its place in :class:`Columns`."""

    parts: Sequence[Any]
    example: Array
    columns: Sequence[TensorSpec]
    places: Sequence[tuple[bool, int]]


class Graph:
    """The nodes and constants so far. Names identify tensors."""

    def __init__(self, frame: Frame | None = None) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.limits: dict[str, tuple[Limit, ...]] = {}
        """What steps accept, by the name of the matrix that they get."""
        self.own: dict[str, OwnStep] = {}
        """The steps that are not in the graph, by the names of the inputs with their answers."""
        self._frame = frame
        self._selections: dict[tuple[str, tuple[int, ...]], str] = {}

    def add(self, op: str, *inputs: str | Array | float, domain: str = "", **attributes: Any) -> str:
        """Add one operation and return the name of its first output; arrays and numbers become constants."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [output], domain=domain, **attributes))
        return output

    def constant(self, value: Array | float) -> str:
        """Add a constant and return its name; all floating-point numbers become float64, those in float32 too."""
        array = np.asarray(value)
        if array.dtype.kind == "f":
            array = array.astype(np.float64)
        name = f"c{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def beside(self, step: Any, table: Columns) -> Columns:
        """Return the columns that a step makes which stays as it is, beside the graph.

        Raise :class:`Unsupported` if it does not get columns of the request, or does not return numbers.
        """
        name = type(step).__name__
        if self._frame is None or not table.is_frame:
            raise Unsupported(f"{name} with code that is not known, behind another step, is not converted")
        columns = tuple(self._frame.places.index(place) for place in table.places)
        rows = Frames([self._frame.columns[column] for column in columns])(self._frame.example[:, list(columns)])
        try:
            answer = matrix_of(step.transform(rows), 1)
        except ValueError as error:
            raise Unsupported(f"{name} with code that is not known is not converted: {error}") from error
        part = next(place for place, part in enumerate(self._frame.parts) if part is step)
        found = self.own[f"own{len(self.own)}"] = OwnStep(part, columns, answer.shape[1], str(answer.dtype))
        others = frozenset({found.dtype} - {"float64"})
        return replace(Columns.of(f"own{len(self.own) - 1}", found.width), others=others)

    def sum(self, terms: Sequence[str]) -> str:
        """Add up the terms one by one, from the first to the last."""
        total = terms[0]
        for term in terms[1:]:
            total = self.add("Add", total, term)
        return total

    def over_columns(self, op: str, matrix: str) -> str:
        """Apply ``ReduceSum``, ``ReduceMax``, … over the columns: shape [rows, 1]."""
        return self.add(op, matrix, np.array([1]), keepdims=1)

    def columns(self, matrix: str, positions: Iterable[int]) -> str:
        """Select columns, in this order."""
        selection = (matrix, tuple(int(position) for position in positions))
        if selection not in self._selections:
            chosen = np.array(selection[1], dtype=np.int64)
            self._selections[selection] = self.add("Gather", matrix, chosen, axis=1)
        return self._selections[selection]

    def concat(self, parts: Sequence[str]) -> str:
        """Join matrices side by side."""
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=1)

    def limit(self, matrix: str, limit: Limit = FINITE) -> str:
        """Return ``matrix``: if it has a number beyond the limit, the compiled model raises, as the estimator does."""
        limits = self.limits.setdefault(matrix, ())
        if limit not in limits:
            self.limits[matrix] = (*limits, limit)
        return matrix

    def guard(self, matrices: Iterable[str]) -> str:
        """Return one number: the sum of the squares of limited matrices. If it is small, no limit is exceeded."""
        sums = []
        for matrix in matrices:
            if all(limit.missing for limit in self.limits[matrix]):
                # A missing number must not make the sum unusable where it is accepted.
                matrix = self.add("Where", self.add("IsNaN", matrix), 0.0, matrix)
            sums.append(self.add("ReduceSumSquare", matrix, keepdims=0))
        return sums[0] if len(sums) == 1 else self.add("Sum", *sums)

    def reachable(self, outputs: Iterable[str]) -> tuple[list[NodeProto], list[TensorProto]]:
        """Return only the nodes and constants that these outputs need: converters add some that they do not use."""
        needed = set(outputs)
        nodes = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        return nodes[::-1], [constant for name, constant in self.constants.items() if name in needed]


@dataclass(frozen=True)
class Columns:
    """Columns of a table: each is a column of the matrix ``numbers`` or of the matrix ``text``."""

    numbers: str
    text: str
    places: tuple[tuple[bool, int], ...]
    """(is text, position)"""
    width: int
    """Columns of ``numbers``."""
    single: bool = False
    """The library holds these numbers in float32; here all are float64."""
    given: bool = False
    """The columns of the request, which :class:`Domain` covers."""
    dtypes: Mapping[tuple[bool, int], str] = field(default_factory=dict)
    """The dtype of each column of the request, by place, if the model gets a DataFrame."""
    is_frame: bool = False
    """The step gets these columns of the request as a DataFrame: not as an array of another step, nor as a Series."""
    others: frozenset[str] = frozenset()
    """Dtypes of numbers other than float64 that the library may hold these columns in."""

    @classmethod
    def of(cls, numbers: str, width: int) -> Columns:
        """All columns of a matrix of numbers."""
        return cls(numbers, "", tuple((False, position) for position in range(width)), width)

    def pick(self, positions: Iterable[int]) -> Columns:
        """Return some of the columns, without a computation."""
        return replace(self, places=tuple(self.places[position] for position in positions))

    def matrix(self, graph: Graph) -> str:
        """Return them as one matrix of numbers."""
        if any(text for text, _ in self.places):
            raise Unsupported("a text column in a step for numbers is not converted")
        dates = {dtype if is_date(dtype) else "" for dtype in self.given_dtypes()}
        if len(dates) > 1 or CATEGORY in self.given_dtypes():  # a step that gets nothing else takes dates for numbers
            raise Unsupported("a column of dates or categories in a step for numbers is not converted")
        positions = [position for _, position in self.places]
        if positions == list(range(self.width)):
            return self.numbers
        return graph.columns(self.numbers, positions)

    def given_dtypes(self) -> set[str]:
        """Return the dtypes of these columns of the request; empty unless the model gets a DataFrame."""
        return {self.dtypes[place] for place in self.places} if self.given and self.dtypes else set()

    def is_text(self) -> bool:
        """Whether any column is text."""
        return any(text for text, _ in self.places)

    def column(self, graph: Graph, index: int) -> tuple[str, bool]:
        """Return one of them as [rows, 1], and whether it is text."""
        text, position = self.places[index]
        return graph.columns(self.text if text else self.numbers, [position]), text


def others_of(table: Columns) -> frozenset[str]:
    """Return the dtypes other than float64 in which the library may hold the numbers of these columns."""
    numbers = {number_of(dtype) for dtype in table.given_dtypes()}
    return frozenset(numbers - {"", "float64"}) if table.given else table.others


def side_by_side(graph: Graph, parts: Sequence[Columns]) -> Columns:
    """Return the columns of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    if any(text for part in parts for text, _ in part.places):
        raise Unsupported("a text column that is passed through unchanged is not converted")
    parts = [part for part in parts if part.places]
    joined = Columns.of(graph.concat([part.matrix(graph) for part in parts]), sum(len(part.places) for part in parts))
    return replace(joined, single=all(part.single for part in parts))


@dataclass(frozen=True)
class Prediction:
    """The outputs of a predictor, as names of tensors.

    ``predict`` is [rows], [rows, 1] or [rows, targets]. Classifiers also have ``index`` ([rows] or [rows, 1], the class
    as int64), ``proba`` ([rows, classes]), and ``scores``, the ``decision_function`` with two dimensions.
    """

    predict: str
    index: str = ""
    proba: str = ""
    scores: str = ""


def argmax(graph: Graph, classes: Array, values: str, *, proba: str = "", scores: str = "") -> Prediction:
    """Return the class of the greatest value in each row; of equal values the first, as numpy does."""
    index = graph.add("ArgMax", values, axis=1, keepdims=0)
    return Prediction(graph.add("Gather", labels(classes), index), index, proba, scores)


def either(graph: Graph, classes: Array, second: str, *, proba: str = "", scores: str = "") -> Prediction:
    """Return the second of two classes where ``second`` ([rows, 1]) is true, else the first."""
    known = labels(classes)
    predict = graph.add("Where", second, known[1:], known[:1])
    return Prediction(predict, graph.add("Cast", second, to=INT64), proba, scores)


def pair(graph: Graph, second: str) -> str:
    """Return the probabilities of two classes from that of the second, [rows, 1]."""
    return graph.concat([graph.add("Sub", 1.0, second), second])


def sigmoid(graph: Graph, values: str) -> str:
    """Return 1 / (1 + exp(-x)). ONNX's own Sigmoid has no correct digit below -30, and is 0 below -37."""
    return graph.add("Div", 1.0, graph.add("Add", graph.add("Exp", graph.add("Neg", values)), 1.0))


def normalised(graph: Graph, values: str, classes: int) -> str:
    """Return each row divided by its sum; equal shares where the sum is zero."""
    total = graph.over_columns("ReduceSum", values)
    shares = graph.add("Div", values, total)
    return graph.add("Where", graph.add("Equal", total, 0.0), np.full((1, classes), 1 / classes), shares)


def labels(classes: Array) -> Array:
    """Return the classes as a constant: text, or numbers of a type that every operation accepts."""
    classes = np.asarray(classes)
    if classes.dtype.kind in "biu":
        return classes.astype(np.int64)
    return classes.astype(np.float64) if classes.dtype.kind == "f" else classes.astype(str).astype(object)


Converter = TypeVar("Converter", bound=Callable[..., "Columns | Prediction"])
_CONVERTERS: dict[str, Callable[..., Columns | Prediction]] = {}
_UNCHECKED: set[str] = set()


def converts(*kinds: str, checks: bool = True) -> Callable[[Converter], Converter]:
    """Register a function for classes, named ``library.Class``, and for their subclasses in the same library.

    ``checks``: the class itself raises on numbers that it does not accept. False if it leaves that to its parts.
    """

    def register(converter: Converter) -> Converter:
        _CONVERTERS.update(dict.fromkeys(kinds, converter))
        if not checks:
            _UNCHECKED.update(kinds)
        return converter

    return register


def transform(graph: Graph, estimator: Any, table: Columns) -> Columns:
    """Return the columns that a fitted transformer makes from ``table``."""
    if _is_opaque(estimator, table):
        return graph.beside(estimator, table)
    columns = _convert(graph, estimator, table)
    if not isinstance(columns, Columns):
        raise Unsupported(f"{type(estimator).__name__} as a transformer is not converted")
    if type(estimator).__name__ in ("FunctionTransformer", "Pipeline") and not getattr(estimator, "validate", False):
        return columns
    return replace(columns, is_frame=False)


def _is_opaque(step: Any, table: Columns) -> bool:
    """Whether what a step of a model with a DataFrame computes is known only by calling it."""
    if not table.given or not table.dtypes:
        return False
    if type(step).__name__ != "FunctionTransformer":
        return is_own(step) and hasattr(step, "transform")
    function = step.func
    if function is None:
        return False
    in_doubles = all(in_double(function, np.dtype(dtype)) for dtype in others_of(table))
    return bool(step.kw_args) or not isinstance(function, np.ufunc) or not in_doubles


def predict(graph: Graph, estimator: Any, table: Columns) -> Prediction:
    """Return the prediction of a fitted predictor for ``table``."""
    prediction = _convert(graph, estimator, table)
    if not isinstance(prediction, Prediction):
        raise Unsupported(f"{type(estimator).__name__} as a predictor is not converted")
    return prediction


def _convert(graph: Graph, estimator: Any, table: Columns) -> Columns | Prediction:
    library = type(estimator).__module__.partition(".")[0]
    for kind in type(estimator).__mro__:
        # The class itself must be of the library: a user's subclass may override any method.
        name = f"{library}.{kind.__name__}"
        if name in _CONVERTERS:
            result = _CONVERTERS[name](graph, estimator, table)
            if isinstance(result, Columns) and not result.given:
                result = replace(result, others=others_of(table))
            return result if name in _UNCHECKED else _limited(graph, estimator, table, result)
    raise Unsupported(f"{type(estimator).__name__} is not converted")


def _limited(graph: Graph, estimator: Any, table: Columns, result: Columns | Prediction) -> Columns | Prediction:
    """Return ``result`` of a step, after the step's check of ``table`` is added to the graph.

    The domain covers the columns of the request, so their check needs no trial.
    """
    if table.is_text() or (table.given and not (table.single and isinstance(result, Columns))):
        return result
    found = trial(estimator, len(table.places), table.single)
    if found.limit and not table.given:
        graph.limit(table.matrix(graph), found.limit)
    return replace(result, single=table.single and found.single) if isinstance(result, Columns) else result
