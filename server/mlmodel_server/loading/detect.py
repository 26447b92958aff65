"""Detect the format of a file from its content: its name may be wrong, or lost in a ConfigMap or behind a URL."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from typing import Literal

from mlmodel_server.errors import RefusedModel

Format = Literal[
    "skops",
    "joblib",
    "onnx",
    "xgboost",
    "lightgbm",
    "torchscript",
    "torch-export",
    "torch-pickle",
    "savedmodel",
    "keras",
    "mlflow",
]

MLFLOW = "MLmodel"
"""The description of an MLflow directory, which is YAML: only its name identifies it."""

COMPRESSED = (b"\x78", b"\x1f\x8b", b"BZ", b"\xfd7zXZ", b"\x5d\x00")
"""First bytes of what ``joblib.dump(compress=...)`` writes: zlib, gzip, bz2, xz, lzma."""

_HEAD, _OPCODES = 4096, 16
"""How many bytes and opcodes decide whether a file is a pickle of an old protocol."""

_TORCH_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_XGBOOST = re.compile(rb'\s*\{\s*"(?:learner|version|Config|Model)"')
_XGBOOST_UBJ = re.compile(rb"\{(?:L\0{7}|l\0{3}|[iU])[\x05-\x07](?:learner|version|Config|Model)", re.DOTALL)

_CATBOOST = (
    "is a model of CatBoost, whose own format is not served: export it to ONNX "
    "(model.save_model('model.onnx', format='onnx'))"
)
_CATBOOST_JSON = re.compile(
    rb'\s*\{\s*"(?:class_params|ctr_data|features_info|model_info|oblivious_trees|scale_and_bias)"'
)

# Known formats that are not served, and what to do instead.
_ADVICE: tuple[tuple[bytes, str], ...] = (
    (b"binf", "is in XGBoost's deprecated binary format: load it with the XGBoost that wrote it and "
     "save it as .ubj or .json (booster.save_model('model.ubj'))"),
    (b"bs64", "is in XGBoost's deprecated binary format: load it with the XGBoost that wrote it and "
     "save it as .ubj or .json (booster.save_model('model.ubj'))"),
    (b"CBM1", _CATBOOST),
    (b"\x89HDF\r\n\x1a\n", "is HDF5, Keras' old format: save it as .keras (model.save('model.keras'))"),
    (b"\x93NUMPY", "is an array, not a model: save the fitted model"),
    (b"ZF", "was written by joblib before 0.10: load it with that version and save it with a current one"),
    (b"GGUF", "is a GGUF language model, which this server does not serve: export it to ONNX"),
    (b"version https://git-lfs", "is a pointer of Git LFS and not the file itself: run git lfs pull, then copy it"),
    (b"PAR1", "is a Parquet table, not a model: save the fitted model"),
)  # fmt: skip
_MODEL_FILES = (
    "give a file that joblib.dump, skops.io.dump, onnx.save, torch.export.save, Keras' model.save, or save_model of "
    "XGBoost or LightGBM has written, or the directory of a package"
)


def detect(name: str, data: bytes) -> Format:
    """Return the format of the file called ``name``, from its content, and for MLflow from its name.

    Raise :class:`RefusedModel` with what to do instead for known formats that are not served, and for a file that is no
    model. A pickle of protocol 0 has no fixed first bytes, so content counts as one if it begins with valid opcodes.
    """
    if name.rpartition("/")[2] == MLFLOW:
        return "mlflow"
    if data.startswith(b"PK\x03\x04"):
        return _archive(name, data)
    if not data:
        raise RefusedModel(f"{name} is empty: copy or save the model file again")
    for magic, advice in _ADVICE:
        if data.startswith(magic):
            raise RefusedModel(f"{name} {advice}")
    if data.startswith(_TORCH_LEGACY):
        return "torch-pickle"
    if data.startswith((b"\x80", *COMPRESSED)):
        return "joblib"
    if data.startswith((b"tree\r\n", b"\xef\xbb\xbf")):
        raise RefusedModel(
            f"{name} was changed by an editor or a transfer of text (line ends or a byte order mark): copy the file "
            "as it was saved"
        )
    if data.startswith(b"tree\n"):
        return "lightgbm"
    if _XGBOOST.match(data) or _XGBOOST_UBJ.match(data):
        return "xgboost"
    if re.match(rb'\s*\{\s*"(?:name|tree_info)"', data):
        raise RefusedModel(
            f"{name} is a human-readable dump, not a model: save it with booster.save_model('model.txt')"
        )
    if _CATBOOST_JSON.match(data):
        raise RefusedModel(f"{name} {_CATBOOST}")
    known = _protobuf(data) or ("joblib" if _is_old_pickle(data) else None)
    if known is None:
        raise RefusedModel(f"{name} is not a model file: {_MODEL_FILES}")
    return known


def _is_old_pickle(data: bytes) -> bool:
    """Whether the data begin as a pickle of protocol 0 or 1 does. Text seldom has even two valid opcodes."""
    number = -1
    try:
        for number, (opcode, _, _) in enumerate(pickletools.genops(data[:_HEAD])):
            if number == 0 and opcode.stack_before:
                return False
            if number == _OPCODES or opcode.name == "STOP":
                return True
    except Exception:  # also where the head ends within an opcode: enough of them were valid
        return len(data) > _HEAD and number >= _OPCODES // 4
    return False


def _archive(name: str, data: bytes) -> Format:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError):
        raise RefusedModel(f"{name} is a damaged zip file: copy or save it again") from None
    inner = {member.partition("/")[2] for member in members}  # torch puts everything into one folder
    if "schema.json" in members:
        return "skops"
    if {"config.json", "metadata.json"} <= {*members}:
        return "keras"
    if "archive_format" in inner | {*members} or "serialized_exported_program.json" in members:
        return "torch-export"
    if "constants.pkl" in inner and any(member.startswith("code/") for member in inner):
        return "torchscript"
    if "data.pkl" in inner:
        return "torch-pickle"
    if any(member.endswith(".npy") for member in members):
        raise RefusedModel(f"{name} is an archive of arrays (.npz), not a model: save the fitted model")
    raise RefusedModel(
        f"{name} is a zip file of an unknown format: give a skops, Keras, TorchScript or torch.export file as it was "
        f"saved, or a directory as an archive whose name ends with .zip"
    )


def _protobuf(data: bytes) -> Format | None:
    """Detect protobuf formats: a SavedModel begins with schema version 1, an ONNX model with IR version 3 or later."""
    if len(data) < 4 or data[0] != 0x08:
        return None
    if data[1] == 1 and data[2] == 0x12:
        return "savedmodel"
    return "onnx" if 3 <= data[1] <= 64 and data[2] in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42) else None
