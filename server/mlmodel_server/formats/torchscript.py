"""PyTorch programs in TorchScript, as ``torch.jit.save`` writes them."""

from __future__ import annotations

import io
import re
import zipfile

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.opened import Artefact, Opened
from mlmodel_server.formats.table import library
from mlmodel_server.formats.torch_common import TorchFunctions, restrict

MAX_CODE = 64 << 20
"""Maximum bytes of source text in one program."""

# The operators that access files, and the namespaces of operators that only compute.
_FILES = re.compile(rb"\b(from_file|save|_print|PythonOp|IgnoredPythonOp)\s*\(")
_OPERATORS = re.compile(rb"\bops\s*\.\s*(\w+)")
_COMPUTING = (b"aten", b"prim", b"prims", b"quantized")


def check(artefact: Artefact) -> None:
    """Raise :class:`RefusedModel` for a program that reads or writes files, or uses operators of another library.

    The archive contains the program as text, and loading it may run parts of it, so the text is searched before.
    """
    with zipfile.ZipFile(io.BytesIO(artefact.data)) as archive:
        sources = [entry for entry in archive.infolist() if entry.filename.endswith(".py")]
        if sum(entry.file_size for entry in sources) > MAX_CODE:
            raise ValueError("it unpacks to more than the limit")
        for entry in sources:
            text = archive.read(entry)
            files = _FILES.search(text)
            others = [name for name in _OPERATORS.findall(text) if name not in _COMPUTING]
            if files or others:
                what = files[1].decode() if files else f"operators of {others[0].decode()[:40]}"
                raise RefusedModel(
                    f"refused {what} in {artefact.name}: a TorchScript program may only compute; "
                    f"remove that part of the model and save it again"
                )


def opened(artefact: Artefact, threads: int) -> Opened:
    """Return the program. Only a package or MLflow's signature can declare its inputs."""
    torch = library("torch")
    restrict(threads)
    module = torch.jit.load(io.BytesIO(artefact.data), map_location="cpu").eval()
    return Opened(
        "torchscript",
        "pytorch_torchscript",
        TorchFunctions(module),
    )
