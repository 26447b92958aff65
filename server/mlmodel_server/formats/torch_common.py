"""What the formats of PyTorch have in common: how a module is asked, and what its answers are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlmodel_server.formats.opened import DATATYPES, PREDICT, Table
from mlmodel_server.formats.table import library
from mlmodel_server.tensors import Array

TORCH_DATATYPES = {f"torch.{name}": datatype for name, datatype in DATATYPES.items()} | {"torch.bfloat16": "FP32"}
"""Of what a module answers; brain floats, which the protocol has not, are answered as FP32."""


class TorchFunctions:
    """A module, called with one tensor for each input. Its outputs are those of :func:`named`."""

    def __init__(self, module: Callable[..., Any]) -> None:
        self._module = module

    def __call__(self, table: Table, wanted: Sequence[str]) -> list[Array]:
        """See :class:`~.opened.Functions`."""
        found = self.answers(table)
        return [found[name] for name in wanted]

    def answers(self, table: Table) -> dict[str, Array]:
        """All outputs by name."""
        torch = library("torch")
        arrays = [table] if isinstance(table, np.ndarray) else list(table.values())
        with torch.inference_mode():
            # Arrays of a request may show its bytes: torch would write into them without asking.
            found = self._module(*[torch.from_numpy(np.require(array, requirements=("C", "W"))) for array in arrays])
        return {name: _array(tensor) for name, tensor in named(found).items()}


def named(found: Any) -> dict[str, Any]:
    """The tensors of an answer by name: a dictionary's keys, ``predict`` for a single one, else ``output-0``, ..."""
    if isinstance(found, Mapping):
        return {str(name): tensor for name, tensor in found.items()}
    tensors = list(found) if isinstance(found, (list, tuple)) else [found]
    if len(tensors) == 1:
        return {PREDICT: tensors[0]}
    return {f"output-{index}": tensor for index, tensor in enumerate(tensors)}


def restrict(threads: int) -> None:
    """Keep torch to as many threads. Between operators it has none of its own, as one request is one after another."""
    torch = library("torch")
    torch.set_num_threads(threads)


def _array(tensor: Any) -> Array:
    array: Array = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).detach().cpu().numpy()
    return array
