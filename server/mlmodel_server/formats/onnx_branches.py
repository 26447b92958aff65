"""Variants of an ONNX model that take each of its branches, to try what they need: a request chooses the branch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

from mlmodel_server.errors import OR_SIGN, RefusedModel
from mlmodel_server.formats.onnx_graph import messages
from mlmodel_server.formats.onnx_sizes import graphs

MAX_VARIANTS = 16
"""Maximum number of models to try: two for each level of branches within each other."""

_IF = b"\x22\x02If"
"""The name of the operator in a file: field 4 of a node."""
_THEN, _ELSE = "then_branch", "else_branch"


def variants(data: bytes, name: str) -> Iterator[bytes]:
    """Yield models that differ from ``data``, a checked model in the file ``name``, only in the branches that they
    take: on each level the first or the second one, in each combination. Raise :class:`RefusedModel` if these are too
    many.
    """
    if _IF not in data:
        return
    model = messages().ModelProto.FromString(data)
    levels = [_depth(model.graph.node), max((_depth(function.node) for function in model.functions), default=0)]
    if 1 << sum(levels) > MAX_VARIANTS:
        raise RefusedModel(
            f"refused branches within branches in {name}: export the model with fewer levels of them, {OR_SIGN}"
        )
    for choices in product((_THEN, _ELSE), repeat=sum(levels)):
        variant = messages().ModelProto.FromString(data)
        _take(variant.graph.node, choices[: levels[0]])
        for function in variant.functions:
            _take(function.node, choices[levels[0] :])
        yield variant.SerializeToString()


def _depth(nodes: Iterable[Any]) -> int:
    """Return how many branches are within each other."""
    return max((_depth_of(node) for node in nodes), default=0)


def _depth_of(node: Any) -> int:
    inside = [_depth(graph.node) for attribute in node.attribute for graph in graphs(attribute)]
    return max(inside, default=0) + int(node.op_type == "If")


def _take(nodes: Iterable[Any], choices: tuple[str, ...]) -> None:
    """Replace the branch that is not chosen by the chosen one, on each level."""
    for node in nodes:
        inner = choices
        if node.op_type == "If" and choices:
            given = {attribute.name: attribute for attribute in node.attribute}
            if _THEN in given and _ELSE in given:
                other = given[_ELSE if choices[0] == _THEN else _THEN]
                other.g.CopyFrom(given[choices[0]].g)
            inner = choices[1:]
        for attribute in node.attribute:
            for graph in graphs(attribute):
                _take(graph.node, inner)
