"""Support vector machines, in float64: ONNX's own operations for them round everything to float32."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from mlmodel_server.compile.graph import DOUBLE, Answer, Columns, Graph, argmax, converts, either
from mlmodel_server.compile.verdict import Unsupported
from mlmodel_server.tensors import Array


def _decisions(graph: Graph, machine: Any, table: Columns, weights: Array) -> str:
    """[rows, decisions]: kernel of each row with each support vector, times ``weights`` [vectors, decisions]."""
    if machine._sparse:
        raise Unsupported(f"{type(machine).__name__} was fitted on a sparse table")
    matrix, vectors = table.matrix(graph), machine.support_vectors_
    if machine.kernel == "linear":
        decisions = graph.add("MatMul", matrix, vectors.T @ weights)
    elif machine.kernel == "rbf":
        # -gamma * |x - v|^2, all in one product: x has one column more, its own length.
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
        raise Unsupported(f"{type(machine).__name__} has a kernel of the user's own")
    return graph.add("Add", decisions, machine._intercept_)


def _power(graph: Graph, base: str, degree: float) -> str:
    return graph.add("Pow", base, float(degree))


@converts("sklearn.SVR", "sklearn.NuSVR")
def _regressor(graph: Graph, machine: Any, table: Columns) -> Answer:
    return Answer(_decisions(graph, machine, table, machine._dual_coef_.T))


@converts("sklearn.OneClassSVM")
def _one_class(graph: Graph, machine: Any, table: Columns) -> Answer:
    scores = _decisions(graph, machine, table, machine._dual_coef_.T)
    inside = graph.add("Greater", scores, 0.0)
    return Answer(graph.add("Where", inside, np.array(1), np.array(-1)), scores=scores)


@converts("sklearn.BaseSVC")
def _classifier(graph: Graph, machine: Any, table: Columns) -> Answer:
    """One decision for each pair of classes; each is a vote, and the first class with the most votes wins.

    Its probabilities have no formula: libsvm iterates to a fixed point and stops within 0.005.
    """
    name = type(machine).__name__
    if machine.break_ties:
        raise Unsupported(f"{name} breaks ties")
    if len(machine.probA_):
        raise Unsupported(f"{name}(probability=True) is not converted, CalibratedClassifierCV({name}()) would be")
    classes = machine.classes_
    pairs = list(combinations(range(len(classes)), 2))
    of = np.repeat(np.arange(len(classes)), machine.n_support_)  # the class of each vector
    weights = np.zeros((len(of), len(pairs)))
    for column, (first, second) in enumerate(pairs):
        weights[of == first, column] = machine._dual_coef_[second - 1, of == first]
        weights[of == second, column] = machine._dual_coef_[first, of == second]
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
    """The votes, and between equal votes the sum of the decisions, squeezed into a third of a vote."""
    count = pairs[-1][1] + 1
    sides = np.zeros((len(pairs), count))
    for row, (first, second) in enumerate(pairs):
        sides[row, first], sides[row, second] = 1.0, -1.0
    confidence = graph.add("MatMul", decisions, sides)
    bound = graph.add("Mul", graph.add("Add", graph.add("Abs", confidence), 1.0), 3.0)
    return graph.add("Add", votes, graph.add("Div", confidence, bound))
