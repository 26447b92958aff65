"""Turn a model into files. The same model gives the same bytes, because a changed digest starts a rollout."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import joblib

from mlmodel_server.errors import MLModelError, RefusedModel, UsageError
from mlmodel_server.formats import methods, unserved
from mlmodel_server.formats.lightgbm import boosted
from mlmodel_server.formats.opened import PREDICT, Artefact
from mlmodel_server.formats.prepare import has_own_code, parts
from mlmodel_server.formats.xgboost import WRAPPER, WRAPPER_KIND
from mlmodel_server.loading.detect import Format, detect
from mlmodel_server.loading.trust import open_artefact

FormatChoice = Literal["auto", "skops", "joblib"]

NAMES: dict[Format, str] = {
    "skops": "model.skops",
    "joblib": "model.joblib",
    "onnx": "model.onnx",
    "xgboost": "model.ubj",
    "lightgbm": "model.txt",
    "torchscript": "model.pt",
    "torch-export": "model.pt2",
    "torch-pickle": "model.pth",
    "keras": "model.keras",
}
"""Names of the artefact in a package; a SavedModel is a directory ``model``."""

DIRECTORY = "model"


@dataclass(frozen=True)
class Dumped:
    """A model as files of a package; ``estimator`` is the scikit-learn estimator that it was made from, else None.
    ``trusted`` is a program of this process, which could have run anything already: only a signed package of it is
    served."""

    format: Format
    artefact: Artefact
    estimator: Any = None
    trusted: bool = False

    @property
    def files(self) -> dict[str, bytes]:
        """The files by name in the package."""
        if self.format == "savedmodel":
            return {f"{DIRECTORY}/{name}": data for name, data in self.artefact.files.items()}
        return dict(self.artefact.files)

    @property
    def name(self) -> str:
        """The entry file, by its name in the package."""
        return f"{DIRECTORY}/{self.artefact.name}" if self.format == "savedmodel" else self.artefact.name


def dump(
    model: Any, X: Any, format: FormatChoice, compress: int, code: Mapping[str, bytes] = MappingProxyType({})
) -> Dumped:
    """Serialise a model of any supported library: scikit-learn's with ``format`` and ``compress`` (0 to 9), others in
    their own format. ``model`` may also be the path of a saved file or directory, or the bytes of a file. ``X`` are
    rows for models that are exported by running them. ``code`` are the files of the modules that a scikit-learn model
    needs.

    Raise :class:`UsageError`, which names the part, if a server would reject the model.
    """
    if code:
        return _with_code(model, format, compress, code)
    if isinstance(model, bytes):
        return _saved("model", {"model": model}, format, compress)
    if isinstance(model, (str, os.PathLike)):
        return _read(Path(model), format, compress)
    libraries = {cls.__module__.partition(".")[0] for cls in type(model).__mro__}
    savers: tuple[tuple[Format, Callable[[Any], bytes | None]], ...] = (("xgboost", _xgboost), ("lightgbm", _lightgbm))
    for library, saved in savers:
        data = saved(model) if library in libraries and format == "auto" else None
        if data is not None:
            return _one(library, data)
    if "torch" in libraries:
        from mlmodel_server.package.torch_program import export

        dumped = _one(*export(model, X))
        return replace(dumped, trusted=dumped.format == "torchscript")
    if "keras" in libraries:
        return _one("keras", _keras(model))
    if "onnx" in libraries:
        return _one("onnx", model.SerializeToString(deterministic=True))
    return _estimator(model, format, compress)


def _with_code(model: Any, format: FormatChoice, compress: int, code: Mapping[str, bytes]) -> Dumped:
    """Serialise an estimator with classes or functions of modules that the package contains."""
    if isinstance(model, (bytes, str, os.PathLike)) or not hasattr(model, PREDICT):
        raise UsageError(
            "code=[…] is for an estimator of scikit-learn's kind: give the fitted model itself, which has a method "
            "predict, or leave code out"
        )
    if format == "skops":
        raise UsageError("a model with code=[…] is saved with joblib: leave format out, or use format='joblib'")
    dumped = _joblib(model, compress)
    files = {**dumped.artefact.files, **code}
    return replace(dumped, artefact=Artefact(dumped.artefact.name, files), trusted=True)


def _one(format: Format, data: bytes) -> Dumped:
    return Dumped(format, Artefact(NAMES[format], {NAMES[format]: data}))


def _read(path: Path, format: FormatChoice, compress: int) -> Dumped:
    from mlmodel_server.loading.sources import Local

    if not path.exists():
        raise UsageError(f"{str(path)!r} does not exist: give the path of a model file, or the fitted model itself")
    try:
        source = Local(path)
        names = source.names() if path.is_dir() else (source.entry,)
        return _saved(source.entry, {name: source.read(name) for name in names}, format, compress)
    except MLModelError as error:
        raise UsageError(f"{path}: {error}") from None


def _saved(name: str, files: dict[str, bytes], format: FormatChoice, compress: int) -> Dumped:
    try:
        detected = detect(name, files[name])
        if detected in ("skops", "joblib"):
            return _estimator(open_artefact(files[name], name), format, compress)
    except RefusedModel as error:
        raise UsageError(str(error)) from None
    if detected == "mlflow" or name == "mlmodel.json":
        raise UsageError(f"{name} describes a directory that a server accepts as it is: serve the directory")
    if detected == "savedmodel":
        return Dumped(detected, Artefact(name, files))
    dumped = _one(detected, files[name])
    if detected == "xgboost" and not files[name].startswith(b"{L"):
        return Dumped(detected, Artefact("model.json", {"model.json": files[name]}))
    return dumped


def _xgboost(model: Any) -> bytes | None:
    """Return a file as ``save_model`` writes it; None if it would lose a parameter that changes predictions."""
    if not hasattr(model, "get_booster"):
        return bytes(model.save_raw("ubj"))
    try:
        booster = model.get_booster().copy()
    except Exception as error:  # xgboost's own NotFittedError is scikit-learn's
        raise UsageError("model is not fitted: call fit first") from error
    if model.missing == model.missing or callable(model.objective):  # NaN, the default, differs from itself
        return None
    kind = "classifier" if hasattr(model, "n_classes_") else "regressor"  # which predict as rankers and others do
    booster.set_attr(**{WRAPPER: json.dumps({WRAPPER_KIND: kind})})
    return bytes(booster.save_raw("ubj"))


def _lightgbm(model: Any) -> bytes | None:
    """Return a file as ``save_model`` writes it; None if it would lose what a wrapper predicts beyond its booster:
    classes, or parameters of predictions."""
    if not hasattr(model, "model_to_string") and not hasattr(model, "booster_"):
        raise UsageError("model is not fitted: call fit first")
    if hasattr(model, "booster_"):
        known = boosted(model)
        if known.kind != "number" or known.options:
            return None
    text: str = getattr(model, "booster_", model).model_to_string()
    return text.encode()


def _keras(model: Any) -> bytes:
    """Return a ``.keras`` file without the time and the memory addresses that Keras writes: shared parts are numbered
    in order of appearance."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="mlmodel-") as directory:
        path = Path(directory) / "model.keras"
        model.save(path)
        data = path.read_bytes()
    numbers: dict[str, str] = {}
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in sorted(source.namelist()):
            content = source.read(name)
            if name == "metadata.json":
                content = json.dumps({**json.loads(content), "date_saved": "1980-01-01@00:00:00"}).encode()
            elif name == "config.json":
                config = json.loads(content)
                _renumber(config, numbers, "shared_object_id")
                content = json.dumps(config).encode()
            target.writestr(zipfile.ZipInfo(name), content)  # dated 1980
    return buffer.getvalue()


def _estimator(estimator: Any, format: FormatChoice, compress: int) -> Dumped:
    """Save as skops if skops can save the model and the server's loader opens the result, else as joblib, which is also
    smaller and faster for boosters."""
    # Of a class of the author's own the loader says what to do.
    own = methods.methods_of(estimator) and has_own_code(estimator)
    if not own and (reason := unserved.reason(estimator)):
        raise UsageError(f"model is not served: {reason}")
    if format == "skops" or (format == "auto" and not _has_booster(estimator)):
        try:
            data = _skops(estimator, compress)
            open_artefact(data, NAMES["skops"])
            return Dumped("skops", Artefact(NAMES["skops"], {NAMES["skops"]: data}), estimator)
        except Exception as error:  # skops raises its own types, and those of objects that it cannot serialise
            if format == "skops":
                raise UsageError(f"the model cannot be saved as skops ({error}): use format='joblib'") from error
    return _joblib(estimator, compress)


def _joblib(estimator: Any, compress: int) -> Dumped:
    buffer = io.BytesIO()
    try:
        joblib.dump(estimator, buffer, compress=compress)
    except Exception as error:  # pickle has no common base for "this object cannot be pickled"
        raise UsageError(
            f"the model cannot be pickled ({type(error).__name__}): replace each lambda, and each function or class "
            "that is defined inside a function, by one of a module, give that module as code=[module], and remove "
            "open files and locks from the model"
        ) from error
    return Dumped("joblib", Artefact(NAMES["joblib"], {NAMES["joblib"]: buffer.getvalue()}), estimator)


def _has_booster(estimator: Any) -> bool:
    return any(type(part).__module__.partition(".")[0] in ("lightgbm", "xgboost") for part in parts(estimator))


def _skops(estimator: Any, compress: int) -> bytes:
    """Return a skops file without the times and memory addresses that skops writes: entries are numbered in order of
    appearance."""
    from skops import io as skops  # takes 20 MB, which a server of joblib files saves

    numbers: dict[str, str] = {}
    with zipfile.ZipFile(io.BytesIO(skops.dumps(estimator))) as source:
        schema = json.loads(source.read("schema.json"))
        _renumber(schema, numbers, "__id__")
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as target:
            entries = {"schema.json": json.dumps(schema, separators=(",", ":")).encode()}
            for name in source.namelist():
                if name != "schema.json":
                    entries[_renamed(name, numbers)] = source.read(name)
            for name in sorted(entries):
                entry = zipfile.ZipInfo(name)  # dated 1980
                entry.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
                target.writestr(entry, entries[name], compresslevel=compress or None)
    return buffer.getvalue()


def _renumber(node: Any, numbers: dict[str, str], identity: str) -> None:
    if isinstance(node, list):
        for inner in node:
            _renumber(inner, numbers, identity)
    elif isinstance(node, dict):
        if isinstance(node.get(identity), int):
            node[identity] = int(_number(str(node[identity]), numbers))
        if isinstance(node.get("file"), str) and "__loader__" in node:
            node["file"] = _renamed(node["file"], numbers)
        for key, inner in node.items():
            if key not in (identity, "file"):
                _renumber(inner, numbers, identity)


def _renamed(name: str, numbers: dict[str, str]) -> str:
    stem, dot, suffix = name.partition(".")
    return f"{_number(stem, numbers)}{dot}{suffix}" if stem.isdigit() else name


def _number(identity: str, numbers: dict[str, str]) -> str:
    return numbers.setdefault(identity, str(len(numbers) + 1))
