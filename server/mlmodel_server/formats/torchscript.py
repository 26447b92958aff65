"""PyTorch programs in TorchScript, as ``torch.jit.save`` writes them: opened only for a trusted author.

The archive is a program, and loading it runs parts of it. No list of the calls in its text would say what it does.
"""

from __future__ import annotations

import io

from mlmodel_server.errors import OR_SIGN, RefusedModel
from mlmodel_server.formats.opened import Artefact, Opened
from mlmodel_server.formats.table import library
from mlmodel_server.formats.torch_common import TorchFunctions, restrict


def check(artefact: Artefact) -> None:
    """Raise :class:`RefusedModel` with what to save instead."""
    raise RefusedModel(
        f"refused the program in {artefact.name} (TorchScript): export the model with "
        f"torch.export.save(torch.export.export(model, (example,)), 'model.pt2') or to ONNX (torch.onnx.export), "
        f"{OR_SIGN}"
    )


def opened(artefact: Artefact, threads: int) -> Opened:
    """Return the program of a trusted author. Only a package or MLflow's signature can declare its inputs."""
    torch = library("torch")
    restrict(threads)
    module = torch.jit.load(io.BytesIO(artefact.data), map_location="cpu").eval()
    return Opened(
        "torchscript",
        "pytorch_torchscript",
        TorchFunctions(module),
    )
