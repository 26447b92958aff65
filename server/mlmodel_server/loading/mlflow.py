"""Read MLflow's model directories: which flavour to serve, from which file, with which columns.

Only the description is read. Neither MLflow nor code in the directory ever runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.methods import CHOSEN, SERVED, outputs_of_method
from mlmodel_server.formats.opened import DATATYPES, PREDICT, Artefact, Opened
from mlmodel_server.formats.table import library
from mlmodel_server.loading.detect import MLFLOW
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import TensorSpec

MAX_DESCRIPTION = 1 << 20
"""Maximum bytes of ``MLmodel``."""

# Flavour, the key that holds its file or directory, and the files to look for when it is a directory.
_FLAVOURS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("onnx", "data", ("model.onnx",)),
    ("xgboost", "data", ()),
    ("lightgbm", "data", ()),
    ("sklearn", "pickled_model", ()),
    ("pytorch", "model_data", ("model.pt2", "model.pth")),
    ("tensorflow", "saved_model_dir", ("saved_model.pb",)),
    ("tensorflow", "data", ("model.keras", "model/saved_model.pb", "model.h5")),
    ("keras", "data", ("model.keras", "model/saved_model.pb")),
)

_COLUMNS = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}


_TENSORS = {**DATATYPES, "str": "BYTES", "object": "BYTES"}
"""By name: numpy would evaluate any other text."""


@dataclass(frozen=True)
class Flavour:
    """The part of a directory to serve: ``path`` of its entry file, and inputs and outputs of MLflow's signature.
    ``method`` is the method of a scikit-learn model that MLflow calls (``pyfunc_predict_fn``)."""

    name: str
    path: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    method: str = PREDICT


def flavour_of(directory: Artefact) -> Flavour:
    """Return the flavour to serve. Raise :class:`RefusedModel` if there is none, or if it would run its own code."""
    described = _parsed(directory.data)
    flavours = described.get("flavors")
    if not isinstance(flavours, dict):
        raise RefusedModel(f"{MLFLOW} lists no flavors: log the model again with MLflow")
    for name, key, inside in _FLAVOURS:
        details = flavours.get(name)
        if isinstance(details, dict) and isinstance(details.get(key), str):
            path = _find(name, details[key], inside, directory.files)
            signature = described.get("signature") or {}
            _refuse_dates(signature)
            method = _method(flavours) if name == "sklearn" else PREDICT
            return Flavour(name, path, _specs(signature, "inputs"), _specs(signature, "outputs"), method)
    loader = flavours.get("python_function", {})
    loader = loader.get("loader_module") if isinstance(loader, dict) else None
    loader = f"{loader} " if re.fullmatch(r"[\w.]{1,80}", str(loader or ""), re.ASCII) else ""
    runs = f", whose loader {loader}runs its own code" if "python_function" in flavours else ""
    names = sorted(name for name in map(str, flavours) if re.fullmatch(r"\w{1,40}", name, re.ASCII))[:5]
    raise RefusedModel(
        f"refused {MLFLOW} with the flavour {', '.join(names) or 'none'}{runs}: "
        f"log the model with one of {', '.join(dict.fromkeys(name for name, _, _ in _FLAVOURS))}"
    )


def _method(flavours: dict[str, Any]) -> str:
    function = flavours.get("python_function")
    return str(function.get("predict_fn", PREDICT)) if isinstance(function, dict) else PREDICT


def chosen(model: Opened, flavour: Flavour) -> Opened:
    """Return the model with the output that MLflow would return. Raise :class:`RefusedModel` if it has none."""
    name = flavour.method
    if name == PREDICT or model.signature is None:
        return model
    names = outputs_of_method(name, [spec.name for spec in model.signature.outputs])
    found = [spec for spec in model.signature.outputs if spec.name in names]
    if not found and name in CHOSEN and hasattr(model.estimator, name) and model.signature.classes:
        found = [TensorSpec(name, "FP64", (-1, len(model.signature.classes)))]
    if not found:
        raise RefusedModel(
            f"{MLFLOW} says that MLflow calls {name[:40]!r}, which this server cannot: log the model again with "
            f"pyfunc_predict_fn as one of {', '.join((*SERVED, *CHOSEN))}, if the model has it"
        )
    return replace(model, signature=msgspec.structs.replace(model.signature, outputs=tuple(found), default=()))


def joined(own: Signature | None, flavour: Flavour) -> Signature | None:
    """Return the artefact's own signature, with the names and types of MLflow's columns if they fit."""
    columns = flavour.inputs
    if own is None:
        return Signature("tensors", columns, flavour.outputs) if columns and flavour.outputs else None
    if own.layout == "tensors" or not columns or any(len(spec.shape) != 1 for spec in columns):
        return own
    width = own.inputs[0].shape[-1] if own.layout == "matrix" else len(own.inputs)
    names = {spec.name for spec in own.inputs} if own.layout == "columns" else {spec.name for spec in columns}
    if len(columns) != width or names != {spec.name for spec in columns}:
        return own
    if own.layout == "columns":
        types = {spec.name: spec for spec in columns}
        columns = tuple(types[spec.name] for spec in own.inputs)
    return msgspec.structs.replace(own, layout="columns", inputs=columns)


def _parsed(data: bytes) -> dict[str, Any]:
    yaml = library("yaml")
    if len(data) > MAX_DESCRIPTION:
        raise RefusedModel(f"{MLFLOW} is larger than {MAX_DESCRIPTION >> 20} MiB: log the model again with MLflow")
    try:
        described = yaml.safe_load(data)
    except Exception:  # of a value that does not fit its tag, the constructors of yaml raise anything
        described = None
    if not isinstance(described, dict):
        raise RefusedModel(f"{MLFLOW} is not a YAML description of a model: log the model again with MLflow")
    return described


def _find(flavour: str, path: str, inside: Sequence[str], files: Mapping[str, bytes]) -> str:
    for candidate in (path, *(f"{path}/{name}" for name in inside)):
        if candidate in files and candidate.rpartition("/")[2] != MLFLOW:
            return candidate
    raise RefusedModel(
        f"{MLFLOW} names a file for its flavour {flavour} that is not in the directory: copy the whole directory"
    )


def _specs(signature: Any, side: Literal["inputs", "outputs"]) -> tuple[TensorSpec, ...]:
    """Return one side of MLflow's signature, which is JSON text; empty if the protocol has no type for it."""
    text = signature.get(side) if isinstance(signature, dict) else None
    try:
        entries = json.loads(text) if isinstance(text, str) else []
        return tuple(_spec(entry, index, len(entries), side) for index, entry in enumerate(entries))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return ()  # text that is not such JSON


def _refuse_dates(signature: Any) -> None:
    """Raise :class:`RefusedModel` for columns of dates: MLflow makes nanoseconds of them, but the unit of the training
    decides what a model computes with them, and only a package has it."""
    text = signature.get("inputs") if isinstance(signature, dict) else None
    try:
        entries = json.loads(text) if isinstance(text, str) else []
        dated = [entry for entry in entries if isinstance(entry, dict) and entry.get("type") == "datetime"]
    except (ValueError, TypeError, RecursionError):
        return  # text that is not such JSON
    if dated:
        names = ", ".join(repr(str(entry.get("name"))[:40]) for entry in dated[:5])
        raise RefusedModel(
            f"{MLFLOW} has columns of dates ({names}), and does not say of which type: write a package with mlmodel "
            "package FILE --data rows.csv --dates COLUMN --out DIR, where FILE is the model file in the directory"
        )


def _spec(entry: dict[str, Any], index: int, count: int, side: Literal["inputs", "outputs"]) -> TensorSpec:
    name = entry.get("name")
    if not isinstance(name, str):
        name = PREDICT if side == "outputs" and count == 1 else f"{side[:-1]}-{index}"
    if entry["type"] == "tensor":
        tensor = entry["tensor-spec"]
        shape = tuple(tensor["shape"])
        if not all(type(size) is int for size in shape):
            raise ValueError("a size is not an integer")
        return TensorSpec(name, _TENSORS[tensor["dtype"]], shape)
    return TensorSpec(name, _COLUMNS[entry["type"]], (-1,))
