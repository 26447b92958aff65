"""Common code of PyTorch's formats: how to call a module, and how to name its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlmodel_server.formats.opened import DATATYPES, PREDICT, Table
from mlmodel_server.formats.table import library
from mlmodel_server.tensors import Array

TORCH_DATATYPES = {f"torch.{name}": datatype for name, datatype in DATATYPES.items()} | {"torch.bfloat16": "FP32"}
"""Datatypes of a module's outputs; bfloat16, which the protocol does not have, is returned as FP32."""


class TorchFunctions:
    """Call a module with one tensor for each input. :func:`named` names its outputs."""

    def __init__(self, module: Callable[..., Any]) -> None:
        self._module = module

    def __call__(self, table: Table, outputs: Sequence[str]) -> list[Array]:
        """See :class:`~.opened.Functions`."""
        arrays = self.all_outputs(table)
        return [arrays[name] for name in outputs]

    def all_outputs(self, table: Table) -> dict[str, Array]:
        """Return all outputs by name."""
        torch = library("torch")
        arrays = [table] if isinstance(table, np.ndarray) else list(table.values())
        with torch.inference_mode():
            # Arrays may share the bytes of a request, and torch would write into them.
            result = self._module(*[torch.from_numpy(np.require(array, requirements=("C", "W"))) for array in arrays])
        return {name: _array(tensor) for name, tensor in named(result).items()}


def named(result: Any) -> dict[str, Any]:
    """Name the tensors of a result: by a dictionary's keys, ``predict`` for a single one, else ``output-0``, ..."""
    if isinstance(result, Mapping):
        return {str(name): tensor for name, tensor in result.items()}
    tensors = list(result) if isinstance(result, (list, tuple)) else [result]
    if len(tensors) == 1:
        return {PREDICT: tensors[0]}
    return {f"output-{index}": tensor for index, tensor in enumerate(tensors)}


def restrict(threads: int) -> None:
    """Limit torch to this number of threads within an operator. Operators run one after the other."""
    torch = library("torch")
    torch.set_num_threads(threads)


def _array(tensor: Any) -> Array:
    array: Array = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).detach().cpu().numpy()
    return array
