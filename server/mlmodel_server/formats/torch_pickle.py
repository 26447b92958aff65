"""Files of ``torch.save``, which are pickles: opened only for a trusted author."""

from __future__ import annotations

import io

from mlmodel_server.errors import OR_SIGN, RefusedModel
from mlmodel_server.formats.opened import Artefact, Opened
from mlmodel_server.formats.table import library
from mlmodel_server.formats.torch_common import TorchFunctions, restrict


def check(artefact: Artefact) -> None:
    """Raise :class:`RefusedModel` with what to save instead."""
    raise RefusedModel(
        f"refused the pickle in {artefact.name} (torch.save): save the model as a program, "
        f"torch.export.save(torch.export.export(model, (example,)), 'model.pt2'), "
        f"{OR_SIGN}"
    )


def opened(artefact: Artefact, threads: int) -> Opened:
    """Return the module of a trusted author. Raise :class:`RefusedModel` if the file has only weights."""
    torch = library("torch")
    restrict(threads)
    module = torch.load(io.BytesIO(artefact.data), map_location="cpu", weights_only=False)
    if not isinstance(module, torch.nn.Module):
        raise RefusedModel(
            f"{artefact.name} contains only weights: save the model as a program, "
            f"torch.export.save(torch.export.export(model, (example,)), 'model.pt2')"
        )
    return Opened("torch-pickle", "pytorch_pickle", TorchFunctions(module.eval()))
