"""Check the shapes of arguments that operators of torch trust.

torch's kernels for recurrent layers and attention read beyond tensors whose shapes do not belong together: a crafted
program could return memory of the process, or end it. So a program calls them through a check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mlmodel_server.errors import Unreadable
from mlmodel_server.formats.table import library

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def guard(module: Any) -> Any:
    """Return ``module``, a program of torch, after replacing those operators in it by checked ones."""
    aten = library("torch").ops.aten
    checked = {aten.scaled_dot_product_attention.default: _attention(aten.scaled_dot_product_attention.default)}
    checked |= {getattr(aten, name).input: _recurrent(getattr(aten, name).input, name) for name in _GATES}
    for part in module.modules():
        if hasattr(part, "graph"):
            for node in part.graph.nodes:
                node.target = checked.get(node.target, node.target) if node.op == "call_function" else node.target
            part.recompile()
    return module


def _attention(operator: Any) -> Callable[..., Any]:
    def attention(query: Any, key: Any, value: Any, *more: Any, **options: Any) -> Any:
        same = key.shape[:-1] == value.shape[:-1] and query.shape[-1] == key.shape[-1]
        lead = 3 if options.get("enable_gqa") else 2  # groups of heads share keys and values
        if min(query.dim(), key.dim()) < lead or not same or query.shape[:-lead] != key.shape[:-lead]:
            raise Unreadable("its query, key and value of attention have shapes that do not belong together")
        return operator(query, key, value, *more, **options)

    return attention


def _recurrent(operator: Any, name: str) -> Callable[..., Any]:
    def recurrent(rows: Any, states: Any, weights: Sequence[Any], biases: bool, layers: int, *more: Any) -> Any:
        _, _, bidirectional, batch_first = more
        hidden = list(states) if name == "lstm" else [states]
        batch = rows.shape[0 if batch_first else 1] if rows.dim() == 3 else -1
        directions = 2 if bidirectional else 1
        size, width = hidden[-1].shape[-1], hidden[0].shape[-1]  # a projection makes the output narrower
        count = 2 + 2 * biases + (size != width)
        expected, entering = [], rows.shape[-1]
        for _ in range(layers):
            for _ in range(directions):
                gates = _GATES[name] * size
                expected += [(gates, entering), (gates, width), *([(gates,)] * 2 if biases else ())][: 2 + 2 * biases]
                expected += [(width, size)] if size != width else []
            entering = width * directions
        fits = [tuple(weight.shape) for weight in weights] == expected and len(weights) == count * layers * directions
        shapes = [(layers * directions, batch, state.shape[-1]) for state in hidden]
        if not fits or [tuple(state.shape) for state in hidden] != shapes:
            raise Unreadable(
                "its input, state and weights of a recurrent layer have shapes that do not belong together"
            )
        return operator(rows, states, weights, biases, layers, *more)

    return recurrent
