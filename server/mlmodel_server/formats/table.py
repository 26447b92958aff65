"""The formats and what each needs: its module, its library, the extra that brings it."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from mlmodel_server.errors import RefusedModel, not_installed


@dataclass(frozen=True)
class Format:
    """``module`` is of this package; ``library`` what it imports; ``distributions`` what may bring that, for its
    version; ``extra`` of this project that brings it; ``save`` completes "save it again"."""

    module: str
    library: str
    distributions: tuple[str, ...]
    extra: str
    save: str


_TORCH = ("torch", ("torch",), "pytorch")
_TENSORFLOW = ("tensorflow", ("tensorflow", "tensorflow-cpu"), "tensorflow")
_SKLEARN = ("sklearn", "sklearn", ("scikit-learn",), "sklearn")

FORMATS: dict[str, Format] = {
    "skops": Format(*_SKLEARN, "with skops.io.dump"),
    "joblib": Format(*_SKLEARN, "with joblib.dump"),
    "onnx": Format("onnx", "onnxruntime", ("onnxruntime",), "core", "with onnx.save"),
    "xgboost": Format("xgboost", "xgboost", ("xgboost", "xgboost-cpu"), "xgboost", "with booster.save_model"),
    "lightgbm": Format("lightgbm", "lightgbm", ("lightgbm",), "lightgbm", "with booster.save_model"),
    "torchscript": Format("torchscript", *_TORCH, "with torch.jit.save"),
    "torch-export": Format("torch_export", *_TORCH, "with torch.export.save"),
    "torch-pickle": Format("torch_pickle", *_TORCH, "with torch.export.save"),
    "savedmodel": Format("savedmodel", *_TENSORFLOW, "with model.export"),
    "keras": Format("keras", *_TENSORFLOW, "with model.save('model.keras')"),
}

FAMILIES: dict[str, tuple[str, ...]] = {
    "sklearn": ("skops", "joblib"),
    "pytorch": ("torchscript", "torch-export", "torch-pickle"),
    "tensorflow": ("savedmodel", "keras"),
}
"""What users call several formats of one library."""

_OTHERS = {"yaml": "mlflow", "h5py": "tensorflow", "joblib": "sklearn", "skops": "sklearn"}
"""The extras of libraries that no format is named after."""

_PATH = re.compile(r"(?:/[\w.+@~-]+){2,}")


def module_of(format: str) -> ModuleType:
    """The module that opens ``format``."""
    return importlib.import_module(f".{FORMATS[format].module}", __package__)


def library(name: str) -> Any:
    """A format's library, or a module of it, imported now; :class:`RefusedModel` when it is not installed."""
    top = name.partition(".")[0]
    if top not in sys.modules and importlib.util.find_spec(top) is None:
        extras = {format.library: format.extra for format in FORMATS.values()} | _OTHERS
        raise RefusedModel(
            f"{not_installed('the model', top, extras.get(top, top))}; in the cluster, use a server image with it"
        )
    return importlib.import_module(name)


def how_to_save(format: str) -> str:
    """How a model of this format is saved, to complete a sentence."""
    return FORMATS[format].save


def versions(format: str) -> str:
    """The library that opens ``format``, with its version here."""
    for distribution in FORMATS[format].distributions:
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return FORMATS[format].library


def without_paths(text: str) -> str:
    """``text`` of a library's error, without the places of files: they tell a stranger about the machine."""
    return _PATH.sub("…", text)
