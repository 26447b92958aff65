"""A branch of an ONNX model that the rows of the trial do not take is tried too: a request could take it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.opened import Opened
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory

FLOAT = TensorProto.FLOAT
NUMBERS = {"zero": np.float32(0), "one": np.float32(1), "limit": np.float32(1e6)}


def scalar(name: str) -> Any:
    return helper.make_tensor_value_info(name, FLOAT, [])


def branch(name: str, nodes: list[Any], weights: list[Any] | None = None) -> Any:
    return helper.make_graph(nodes, name, [], [scalar(nodes[-1].output[0])], weights or [])


def light(constant: str) -> Any:
    return branch(constant, [helper.make_node("Identity", [constant], [f"{constant}_out"])])


def heavy(name: str = "h") -> Any:
    """Fill 160 GB, of a constant size."""
    size = numpy_helper.from_array(np.array([200_000, 200_000], np.int64), f"{name}_size")
    filled = helper.make_node("ConstantOfShape", [f"{name}_size"], [f"{name}_all"])
    return branch(name, [filled, helper.make_node("ReduceSum", [f"{name}_all"], [f"{name}_out"], keepdims=0)], [size])


def chosen(then: Any, other: Any, name: str = "r") -> Any:
    return helper.make_node("If", ["great"], [name], then_branch=then, else_branch=other)


def opened(node: Any) -> Opened:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "limit"], ["great"]),
        node,
        helper.make_node("Add", ["x", node.output[0]], ["y"]),
    ]
    table = [helper.make_tensor_value_info(name, FLOAT, [None, 2]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(np.array(value), name) for name, value in NUMBERS.items()]
    graph = helper.make_graph(nodes, "g", table[:1], table[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return load(Memory({"model.onnx": made.SerializeToString()}, "model.onnx")).opened


def test_both_branches_answer_as_the_model_says() -> None:
    nested = chosen(light("one"), light("zero"), "inner")
    model = opened(chosen(branch("outer", [nested]), light("zero")))
    for value, added in ((0, 0), (1e7, 1)):
        rows = np.full((1, 2), value, np.float32)
        np.testing.assert_array_equal(model.functions(rows, ["y"])[0], rows + np.float32(added))


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("where", ["then", "then of else", "else of then"])
def test_a_branch_that_takes_too_much_memory_is_refused_wherever_it_is(where: str) -> None:
    node = {
        "then": chosen(heavy(), light("zero")),
        "then of else": chosen(light("zero"), branch("o", [chosen(heavy(), light("one"), "i")])),
        "else of then": chosen(branch("o", [chosen(light("one"), heavy(), "i")]), light("zero")),
    }[where]
    with pytest.raises(RefusedModel, match="takes more than 512 MiB of memory"):
        opened(node)


@pytest.mark.attack(held=True)
def test_too_many_levels_of_branches_are_refused() -> None:
    node = chosen(light("one"), light("zero"), "level0")
    for level in range(1, 6):
        node = chosen(branch(f"b{level}", [node]), light("zero"), f"level{level}")
    with pytest.raises(RefusedModel, match=r"refused branches within branches in model\.onnx: .*fewer levels"):
        opened(node)
