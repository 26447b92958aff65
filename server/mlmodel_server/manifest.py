"""``mlmodel.json``: what a package says about its artefact. Written by :mod:`.package`, read by :mod:`.loading`."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal

import msgspec

from mlmodel_server.errors import RefusedModel
from mlmodel_server.tensors import TensorSpec

MANIFEST = "mlmodel.json"
COMPILED = "compiled.onnx"
"""The file beside the artefact that holds the model compiled to ONNX."""

SCHEMA = 1
_PART = r"[A-Za-z0-9_][-._A-Za-z0-9]{0,252}"  # of a path: no "..", nothing hidden
_NAME = re.compile(rf"(?:{_PART}/){{0,8}}{_PART}")


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


class Signature(msgspec.Struct, frozen=True):
    """What the model takes and gives.

    ``layout`` says how the tensors become the model's table: ``columns`` is one tensor of shape [rows] or [rows, 1] per
    column, in this order; ``matrix`` is one tensor of shape [rows, columns]; ``tensors`` is handed on as it is sent.
    """

    layout: Literal["columns", "matrix", "tensors"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    classes: tuple[str, ...] = ()


class File(msgspec.Struct, frozen=True):
    """One file of the package."""

    sha256: str
    bytes: int


class Golden(msgspec.Struct, frozen=True):
    """Example rows and the answers of the model that was saved, as v2 tensors (name, shape, datatype, data)."""

    inputs: tuple[dict[str, Any], ...]
    outputs: tuple[dict[str, Any], ...]


class Compiled(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of compiling the model when it was saved. No times: the same model shall have the same digest.

    ``file`` is the ONNX model that answers alike and faster, "" when the artefact itself serves, for this ``reason``;
    ``rows`` were compared; ``decisive`` when it is so much faster that no other CPU can change that.
    """

    file: str = ""
    reason: str = ""
    rows: int = 0
    decisive: bool = False


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The whole file. ``profile`` (of the features), ``predictions`` (their profile) and ``metrics`` are for
    people and for drift; the server needs the rest. ``compiled`` is None when nobody has tried."""

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

    def to_bytes(self) -> bytes:
        """Sorted keys, no spaces: the same content is the same bytes, hence the same digest."""
        return (
            json.dumps(msgspec.to_builtins(self), sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"
        ).encode()


def parse(data: bytes) -> Manifest:
    """Read ``mlmodel.json``; :class:`RefusedModel` says what is wrong with it."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RefusedModel(f"{MANIFEST} is not a package description ({error}): write it with package.save") from None
    if manifest.schema != SCHEMA:
        raise RefusedModel(
            f"{MANIFEST} has schema {manifest.schema}, this server reads {SCHEMA}: save the package again"
        )
    if manifest.artefact not in manifest.files or not all(map(_NAME.fullmatch, manifest.files)):
        raise RefusedModel(f"{MANIFEST} does not list its artefact with a digest: write it with package.save")
    return manifest
