"""Estimator to bytes, the same bytes every time: a digest that changes without a reason would start a rollout."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any, Literal

import joblib

from ..errors import RefusedModel, UsageError
from ..loading.detect import Format
from ..loading.trust import open_artefact

FormatChoice = Literal["auto", "skops", "joblib"]


def dump(estimator: Any, format: FormatChoice, compress: int) -> tuple[Format, bytes]:
    """Serialise as asked; ``auto`` is skops where skops can represent the model with trusted types, else joblib.

    ``compress`` is zlib's 0 to 9 in both. What was written is opened again through the server's own choke point;
    :class:`UsageError` says what in the model no server would accept.
    """
    if format != "joblib":
        try:
            data = _skops(estimator, compress)
            open_artefact(data, "model.skops")
            return "skops", data
        except Exception as error:  # skops raises its own types and those of whatever it could not take apart
            if format == "skops":
                raise UsageError(f"the model cannot be saved as skops ({error}): try format='joblib'") from error
    buffer = io.BytesIO()
    try:
        joblib.dump(estimator, buffer, compress=compress)
    except Exception as error:  # pickle has no common base for "this object cannot be pickled"
        raise UsageError(f"the model cannot be pickled ({error}): remove lambdas and open files from it") from error
    try:
        open_artefact(buffer.getvalue(), "model.joblib")
    except RefusedModel as error:
        raise UsageError(str(error)) from error
    return "joblib", buffer.getvalue()


def _skops(estimator: Any, compress: int) -> bytes:
    """skops names its entries by memory address and stamps them with the time; here by order of appearance."""
    from skops import io as skops  # 20 MB that a server of joblib files does without

    numbers: dict[str, str] = {}
    with zipfile.ZipFile(io.BytesIO(skops.dumps(estimator))) as source:
        schema = json.loads(source.read("schema.json"))
        _renumber(schema, numbers)
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


def _renumber(node: Any, numbers: dict[str, str]) -> None:
    if isinstance(node, list):
        for inner in node:
            _renumber(inner, numbers)
    elif isinstance(node, dict):
        if isinstance(node.get("__id__"), int):
            node["__id__"] = int(_number(str(node["__id__"]), numbers))
        if isinstance(node.get("file"), str) and "__loader__" in node:
            node["file"] = _renamed(node["file"], numbers)
        for key, inner in node.items():
            if key not in ("__id__", "file"):
                _renumber(inner, numbers)


def _renamed(name: str, numbers: dict[str, str]) -> str:
    stem, dot, suffix = name.partition(".")
    return f"{_number(stem, numbers)}{dot}{suffix}" if stem.isdigit() else name


def _number(identity: str, numbers: dict[str, str]) -> str:
    return numbers.setdefault(identity, str(len(numbers) + 1))
