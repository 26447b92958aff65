"""Operator and server compute the same digest of the files of a ConfigMap."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from pathlib import Path

import pytest

from mlmodel_operator.observe import files_digest
from mlmodel_server.loading.sources import Local
from mlmodel_server.loading.sources.pin import directory_digest

TEXT = {"mlmodel.json": '{"schema": 1}', "README": "für Leute\n", "a.b": ""}
BINARY = {"model.onnx": bytes(range(256)), "Z": b"\x00"}


def mounted(where: Path, files: dict[str, bytes]) -> Path:
    """Write files as a node mounts a ConfigMap: through two links."""
    (where / "..2026").mkdir(parents=True)
    (where / "..data").symlink_to("..2026")
    for name, content in files.items():
        (where / "..2026" / name).write_bytes(content)
        (where / name).symlink_to(f"..data/{name}")
    return where


@pytest.mark.parametrize("hidden", [{}, {".hidden": b"ignored by both"}])
def test_operator_and_server_compute_the_same_digest(tmp_path: Path, hidden: dict[str, bytes]) -> None:
    binary = {**BINARY, **hidden}
    body = {"data": TEXT, "binaryData": {name: b64encode(content).decode() for name, content in binary.items()}}
    files = {**{name: text.encode() for name, text in TEXT.items()}, **binary}
    digest = files_digest(body)
    source = Local(mounted(tmp_path / "model", files))
    assert digest == directory_digest({name: source.read(name) for name in source.names()})
    visible = sorted(name for name in files if not name.startswith("."))
    lines = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in visible)
    assert digest == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"data": {"a": "2", "b": "1"}},
        {"data": {"a": "1"}},
        {"data": {"a": "1", "c": "2"}},
        {"data": {"a": "1", "b": "2", "c": ""}},
        {"data": {"a": "1", "b": "2\n"}},
        {},
    ],
)
def test_every_name_and_every_byte_counts(other: dict[str, dict[str, str]]) -> None:
    body = {"data": {"a": "1", "b": "2"}}
    assert files_digest(other) != files_digest(body)
    assert files_digest({"data": {"b": "2"}, "binaryData": {"a": b64encode(b"1").decode()}}) == files_digest(body)
