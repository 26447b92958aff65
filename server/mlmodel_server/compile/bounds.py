"""Bounds of the numbers in a graph: where they show that a limit holds, no request needs to check it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from mlmodel_server.compile.domain import SAFE, SINGLE, Limit
from mlmodel_server.compile.functions import NUMBERS
from mlmodel_server.compile.graph import ML, Graph
from mlmodel_server.tensors import Array

_UNKNOWN = np.inf
"""Such numbers may also be missing."""

_TRUTH = {"IsNaN", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not"}
_NO_GREATER = {"Gather", "Concat", "Cast", "Identity", "Abs", "Neg", "Relu", "Reshape", "Unsqueeze", "ReduceMax"}


def unbounded(graph: Graph) -> list[str]:
    """Return the limited matrices that may exceed their limit although the request is safe: complete, and the squares
    of its numbers add up to less than ``SAFE``."""
    constants = {name: numpy_helper.to_array(constant) for name, constant in graph.constants.items()}
    bounds = {name: _greatest(array) for name, array in constants.items()}
    bounds[NUMBERS] = SAFE**0.5
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            bounds[node.output[0]] = _bound(node, bounds, constants)
    return [
        name
        for name, limits in graph.limits.items()
        if not all(bounds.get(name, _UNKNOWN) < _most(limit) / 2 for limit in limits)
    ]


def _most(limit: Limit) -> float:
    return SINGLE if limit.single else float(np.finfo(np.float64).max)


def _greatest(array: Array) -> float:
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        return _UNKNOWN
    return float(np.abs(array.astype(np.float64)).max(initial=0.0))


def _bound(node: NodeProto, bounds: dict[str, float], constants: dict[str, Array]) -> float:
    """Return the greatest size of the numbers that a node makes, infinite if they may be infinite or missing."""
    sizes = [bounds.get(name, _UNKNOWN) for name in node.input]
    if node.op_type in _TRUTH:
        return 1.0
    if node.domain == ML and node.op_type == "TreeEnsemble":
        (weights,) = (attribute for attribute in node.attribute if attribute.name == "leaf_weights")
        return float(np.abs(numpy_helper.to_array(helper.get_attribute_value(weights))).sum(dtype=np.float64))
    if node.op_type in _NO_GREATER:
        # The other inputs of all but Concat are positions and shapes.
        return max(sizes) if node.op_type == "Concat" else sizes[0]
    second = constants.get(node.input[1]) if len(node.input) > 1 else None
    rules: dict[str, Callable[[], float]] = {
        "Add": lambda: sizes[0] + sizes[1],
        "Sub": lambda: sizes[0] + sizes[1],
        "Mul": lambda: _product(sizes[0], sizes[1]),
        "Div": lambda: _UNKNOWN if second is None else _product(sizes[0], _greatest(1.0 / second.astype(np.float64))),
        "MatMul": lambda: _UNKNOWN if second is None else _product(sizes[0], _sums(second)),
        "Where": lambda: max(sizes[1:]),
        "Clip": lambda: sizes[0],
        "Exp": lambda: float(np.exp(sizes[0])),
    }
    return rules[node.op_type]() if node.op_type in rules else _UNKNOWN


def _product(first: float, second: float) -> float:
    return _UNKNOWN if np.inf in (first, second) else first * second


def _sums(weights: Array) -> float:
    return _greatest(np.abs(weights.astype(np.float64)).sum(axis=0))
