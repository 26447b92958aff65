"""The formats and what each needs: its module, its library, the extra with the library."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from mlmodel_server.errors import RefusedModel, not_installed


@dataclass(frozen=True)
class Format:
    """What a format needs. ``module`` is in this package and imports ``library``; one of ``distributions`` contains the
    library and has its version; ``extra`` installs it; ``save`` completes "save it again"."""

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
"""Names for all formats of one library."""

_OTHERS = {"yaml": "mlflow", "h5py": "tensorflow", "joblib": "sklearn", "skops": "sklearn"}
"""The extras of libraries that no format lists."""

_NOT_USED = {"sklearn": ("pandas",), "xgboost": ("sklearn", "pandas"), "lightgbm": ("sklearn", "pandas")}
"""What a library imports if it is installed, and a model from a file does not use. scikit-learn's ``utils.fixes`` only
has a name for pandas, which takes a fifth of its import and 45 MB. XGBoost and LightGBM import these for their
wrappers, and for DataFrames, which a booster never gets: four fifths of their import, and 100 MB."""


def module_of(format: str) -> ModuleType:
    """Return the module that opens ``format``."""
    module: ModuleType = _imported(f"{__package__}.{FORMATS[format].module}", FORMATS[format].extra)
    return module


def library(name: str) -> Any:
    """Import and return a format's library, or a module of it. Raise :class:`RefusedModel` if it is not installed."""
    top = name.partition(".")[0]
    extras = {format.library: format.extra for format in FORMATS.values()} | _OTHERS
    if top not in sys.modules and importlib.util.find_spec(top) is None:
        raise RefusedModel(
            f"{not_installed('the model', top, extras.get(top, top))}; in the cluster, use a server image with it"
        )
    return _imported(name, extras.get(top, top))


def import_alone(format: str) -> None:
    """Import the library of ``format`` without what only other models use, if it imports such. Call this in a process
    that opens no other model: there, the wrappers of XGBoost and LightGBM do not work afterwards."""
    name = FORMATS[format].library
    if hidden := _NOT_USED.get(name):
        with _absent(hidden):
            library(name)


class _Hiding(threading.local):
    """A finder of modules that raises for some names in the thread that hides them, also when a library only looks
    whether one is installed. Other threads import as always."""

    names: Sequence[str] = ()

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname in self.names:
            raise ModuleNotFoundError(f"{fullname} is not imported for this model", name=fullname)


_hiding = _Hiding()


@contextmanager
def _absent(names: Sequence[str]) -> Iterator[None]:
    """Let libraries seem not to be installed for this thread, except those that are imported already."""
    if _hiding not in sys.meta_path:
        sys.meta_path.insert(0, _hiding)  # and never removed: an import of another thread would skip a finder
    _hiding.names = names
    try:
        yield
    finally:
        _hiding.names = ()


def _imported(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        if (reason := of_protobuf(error, extra)) is None:
            raise
        raise RefusedModel(f"the model requires another protobuf: {reason}") from None


def of_protobuf(error: BaseException, extra: str) -> str | None:
    """Return what to do if generated messages do not fit the installed protobuf; None if that is not the error."""
    if type(error).__name__ != "VersionError" or not type(error).__module__.startswith("google.protobuf"):
        return None
    return (
        f"protobuf {installed_version('protobuf')} is installed, and its messages were generated for a newer one: in a "
        f"clone of the project, run pip install '.[{extra}]', or pip install --upgrade protobuf"
    )


def how_to_save(format: str) -> str:
    """Return how to save a model in this format, to complete a sentence."""
    return FORMATS[format].save


def versions(format: str) -> str:
    """Return the library that opens ``format``, with its installed version."""
    for distribution in FORMATS[format].distributions:
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return FORMATS[format].library


def installed_version(library: str) -> str:
    """Return the installed version of a library by the name of its distribution; "" if it is not installed."""
    names = next((f.distributions for f in FORMATS.values() if library in f.distributions), (library,))
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""
