"""Convert support vector machines, in float64: ONNX's own operations for them round to float32."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from mlmodel_server.compile.graph import DOUBLE, Columns, Graph, Prediction, argmax, converts, either
from mlmodel_server.compile.verdict import Unsupported
from mlmodel_server.tensors import Array


def _decisions(graph: Graph, machine: Any, table: Columns, weights: Array) -> str:
    """Return [rows, decisions]: kernel of each row with each support vector, times ``weights`` [vectors, decisions]."""
    if machine._sparse:
        raise Unsupported(f"{type(machine).__name__} that was fitted on a sparse table is not converted")
    matrix, vectors = table.matrix(graph), machine.support_vectors_
    if machine.kernel == "linear":
        decisions = graph.add("MatMul", matrix, vectors.T @ weights)
    elif machine.kernel == "rbf":
        # -gamma * |x - v|^2 as one product: x gets one more column, its squared length.
        gamma = float(machine._gamma)
        own = graph.over_columns("ReduceSum", graph.add("Mul", matrix, matrix))
        sides = np.vstack([2 * gamma * vectors.T, np.full(len(vectors), -gamma)])
        product = graph.add("MatMul", graph.concat([matrix, own]), sides)
        exponent = graph.add("Add", product, -gamma * (vectors**2).sum(axis=1))
        decisions = graph.add("MatMul", graph.add("Exp", exponent), weights)
    elif machine.kernel in ("poly", "sigmoid"):
        products = graph.add("Mul", graph.add("MatMul", matrix, vectors.T), float(machine._gamma))
        inner = graph.add("Add", products, float(machine.coef0))
        kernel = graph.add("Tanh", inner) if machine.kernel == "sigmoid" else _power(graph, inner, machine.degree)
        decisions = graph.add("MatMul", kernel, weights)
    else:
        raise Unsupported(f"{type(machine).__name__} with a kernel of the user is not converted")
    return graph.add("Add", decisions, machine._intercept_)


def _power(graph: Graph, base: str, degree: float) -> str:
    return graph.add("Pow", base, float(degree))


@converts("sklearn.SVR", "sklearn.NuSVR")
def _regressor(graph: Graph, machine: Any, table: Columns) -> Prediction:
    return Prediction(_decisions(graph, machine, table, machine._dual_coef_.T))


@converts("sklearn.OneClassSVM")
def _one_class(graph: Graph, machine: Any, table: Columns) -> Prediction:
    scores = _decisions(graph, machine, table, machine._dual_coef_.T)
    inside = graph.add("Greater", scores, 0.0)
    return Prediction(graph.add("Where", inside, np.array(1), np.array(-1)), scores=scores)


@converts("sklearn.BaseSVC")
def _classifier(graph: Graph, machine: Any, table: Columns) -> Prediction:
    """Each pair of classes has a decision, which is a vote; the first class with the most votes wins.

    Probabilities are not converted, because libsvm iterates to a fixed point and stops within 0.005.
    """
    name = type(machine).__name__
    if machine.break_ties:
        raise Unsupported(f"{name} with break_ties=True is not converted")
    if len(machine.probA_):
        raise Unsupported(f"{name}(probability=True) is not converted, use CalibratedClassifierCV({name}())")
    classes = machine.classes_
    pairs = list(combinations(range(len(classes)), 2))
    class_of = np.repeat(np.arange(len(classes)), machine.n_support_)  # for each vector
    weights = np.zeros((len(class_of), len(pairs)))
    for column, (first, second) in enumerate(pairs):
        weights[class_of == first, column] = machine._dual_coef_[second - 1, class_of == first]
        weights[class_of == second, column] = machine._dual_coef_[first, class_of == second]
    decisions = _decisions(graph, machine, table, weights)
    if len(classes) == 2:
        negative = graph.add("LessOrEqual", decisions, 0.0)
        return either(graph, classes, negative, scores=graph.add("Neg", decisions))
    to_first, to_second = (np.eye(len(classes))[[pair[side] for pair in pairs]] for side in (0, 1))
    votes = graph.add(
        "Add",
        graph.add("MatMul", graph.add("Cast", graph.add("Greater", decisions, 0.0), to=DOUBLE), to_first - to_second),
        to_second.sum(axis=0),
    )
    scores = decisions if machine.decision_function_shape == "ovo" else _against_rest(graph, decisions, votes, pairs)
    return argmax(graph, classes, votes, scores=scores)


def _against_rest(graph: Graph, decisions: str, votes: str, pairs: list[tuple[int, int]]) -> str:
    """Return the votes plus the sum of the decisions, scaled to less than a third of a vote, which decides ties."""
    count = pairs[-1][1] + 1
    sides = np.zeros((len(pairs), count))
    for row, (first, second) in enumerate(pairs):
        sides[row, first], sides[row, second] = 1.0, -1.0
    confidence = graph.add("MatMul", decisions, sides)
    bound = graph.add("Mul", graph.add("Add", graph.add("Abs", confidence), 1.0), 3.0)
    return graph.add("Add", votes, graph.add("Div", confidence, bound))
