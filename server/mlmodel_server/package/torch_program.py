"""Export PyTorch modules as programs: with the given rows as the example, for any number of rows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from mlmodel_server.errors import UsageError
from mlmodel_server.formats.table import library


def export(module: Any, X: Any) -> tuple[Literal["torchscript", "torch-export"], bytes]:
    """Return format and bytes of ``module``: exported with ``X`` (an array, or one for each argument, in a list or by
    name) as the example. TorchScript stays as it is: a server opens it only with a signature.

    Raise :class:`UsageError` if torch cannot export it.
    """
    torch = library("torch")
    buffer = io.BytesIO()
    if isinstance(module, torch.jit.ScriptModule):
        torch.jit.save(module.eval(), buffer)
        return "torchscript", buffer.getvalue()
    arrays = list(X.values()) if isinstance(X, Mapping) else list(X) if isinstance(X, (list, tuple)) else [X]
    floats = next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float32)
    examples = tuple(_tensor(torch, array, floats) for array in arrays)
    if any(tensor.ndim == 0 or len(tensor) < 2 for tensor in examples):
        raise UsageError("X has fewer than two rows: pass more, to export the model for any number of rows")
    try:
        shapes = tuple({0: torch.export.Dim.AUTO} for _ in examples)
        torch.export.save(torch.export.export(module.eval(), examples, dynamic_shapes=shapes), buffer)
    except Exception as error:  # torch.export has no common base for "this cannot be exported"
        reason = str(error).splitlines()[0][:200] if str(error) else ""
        raise UsageError(
            f"torch cannot export the model with X ({type(error).__name__}: {reason}): pass rows that its forward "
            f"accepts, or export it to ONNX (torch.onnx.export) and pass that file"
        ) from error
    return "torch-export", buffer.getvalue()


def _tensor(torch: Any, array: Any, floats: Any) -> Any:
    tensor = torch.from_numpy(np.array(array))
    return tensor.to(floats) if tensor.is_floating_point() else tensor
