"""``mlmodel.json``, the description of a package: :mod:`.package` writes it, :mod:`.loading` reads it."""

from __future__ import annotations

import hashlib
import json
import re
from math import prod
from typing import Any, Literal

import msgspec

from mlmodel_server.errors import RefusedModel
from mlmodel_server.tensors import DTYPES, TensorSpec
from mlmodel_server.texts import reason_of

MANIFEST = "mlmodel.json"
COMPILED = "compiled.onnx"
"""The model compiled to ONNX, a file beside the artefact."""

SCHEMA = 1
GOLDEN_WIDTH = 1000
"""Maximum numbers per row of an output in the golden examples."""

_PART = r"[A-Za-z0-9_][-._A-Za-z0-9]{0,252}"  # of a path; without ".." and hidden names
_NAME = re.compile(rf"(?:{_PART}/){{0,8}}{_PART}")


def sha256(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


class Signature(msgspec.Struct, frozen=True, omit_defaults=True):
    """The inputs and outputs of a model.

    ``layout`` is how tensors become the model's table: ``columns`` is one tensor of shape [rows] or [rows, 1] per
    column, in this order; ``matrix`` is one tensor of shape [rows, columns]; ``tensors`` go to the model unchanged.
    ``default`` are the outputs of a request that names none; empty is ``predict``, or all if there is no ``predict``.
    ``frame`` says that the model gets a DataFrame with the dtypes of the inputs, and not an array; ``ignores_others``
    that a request may have further columns, which the model does not get.
    """

    layout: Literal["columns", "matrix", "tensors"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    classes: tuple[str, ...] = ()
    default: tuple[str, ...] = ()
    frame: bool = False
    ignores_others: bool = False


class File(msgspec.Struct, frozen=True):
    """One file of the package."""

    sha256: str
    bytes: int


class Golden(msgspec.Struct, frozen=True):
    """Example rows, and the saved model's outputs for them, as v2 tensors (name, shape, datatype, data). An output of
    more than a thousand numbers per row is left out."""

    inputs: tuple[dict[str, Any], ...]
    outputs: tuple[dict[str, Any], ...]


class Compiled(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result of compiling the model when it was saved, without times, so that the same model has the same digest.

    ``file`` is the ONNX model, or "" if it was not faster or not the same; ``reason`` says why; ``rows`` is how many
    rows were compared; ``decisive`` is True if it is so much faster that it is faster on any CPU.
    """

    file: str = ""
    reason: str = ""
    rows: int = 0
    decisive: bool = False


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The whole file. ``profile`` (of the features), ``predictions`` (their profile) and ``metrics`` are for readers
    and for drift; the server needs the rest. ``compiled`` is None if compiling was not tried. ``categories`` are the
    inputs with the categories of a DataFrame, if the artefact does not say so itself."""

    schema: int
    artefact: str
    files: dict[str, File]
    signature: Signature
    golden: Golden
    task: Literal["classification", "regression", "other"] = "other"
    version: str = ""
    libraries: dict[str, str] = {}
    metrics: dict[str, Any] = {}
    profile: dict[str, Any] = {}
    predictions: dict[str, Any] = {}
    compiled: Compiled | None = None
    categories: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Return JSON with sorted keys and without spaces: the same content gives the same bytes and digest."""
        return (
            json.dumps(msgspec.to_builtins(self), sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"
        ).encode()


def has_examples(output: TensorSpec) -> bool:
    """Whether a package has golden examples of an output: not if a row of it is too large."""
    return prod(output.shape[1:]) <= GOLDEN_WIDTH


def parse(data: bytes) -> Manifest:
    """Parse ``mlmodel.json``. Raise :class:`RefusedModel` with what is wrong if it is invalid."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RefusedModel(
            f"{MANIFEST} is not a package description ({reason_of(error)}): write it with package.save"
        ) from None
    if manifest.schema != SCHEMA:
        raise RefusedModel(
            f"{MANIFEST} has schema {manifest.schema}, but this server reads {SCHEMA}: save the package again"
        )
    if manifest.artefact not in manifest.files or not all(map(_NAME.fullmatch, manifest.files)):
        raise RefusedModel(f"{MANIFEST} does not list its artefact with a digest: write it with package.save")
    if not _is_sound(manifest.signature):
        raise RefusedModel(f"{MANIFEST} has a signature without valid inputs and outputs: write it with package.save")
    tensors = (*manifest.golden.inputs, *manifest.golden.outputs)
    answered = bool(manifest.golden.outputs) or not any(map(has_examples, manifest.signature.outputs))
    if not (manifest.golden.inputs and answered and all(map(_is_tensor, tensors))):
        raise RefusedModel(f"{MANIFEST} has golden examples that are not valid tensors: write it with package.save")
    return manifest


def _is_sound(signature: Signature) -> bool:
    specs = (*signature.inputs, *signature.outputs)
    if not signature.inputs or not all(spec.datatype in DTYPES and spec.name for spec in specs):
        return False
    shape = signature.inputs[0].shape
    return signature.layout != "matrix" or (len(signature.inputs) == 1 and len(shape) == 2 and shape[1] > 0)


def _is_tensor(tensor: dict[str, Any]) -> bool:
    """Whether it is a tensor as JSON has it: as many values as its shape says, none of them a list or an object."""
    name, shape, data = tensor.get("name"), tensor.get("shape"), tensor.get("data")
    datatype = tensor.get("datatype")
    if not isinstance(name, str) or not isinstance(datatype, str) or datatype not in DTYPES:
        return False
    if not isinstance(data, list) or not shape or any(isinstance(value, (list, dict)) for value in data):
        return False
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        return False
    return shape[0] > 0 and prod(shape) == len(data)


def differs(file: str, digest: str, listed: str) -> RefusedModel:
    """Return the error for a file of a package that does not have the digest (hex) that its description lists."""
    return RefusedModel(f"{file} has sha256 {digest}, but {MANIFEST} lists {listed}: save or copy the package again")
