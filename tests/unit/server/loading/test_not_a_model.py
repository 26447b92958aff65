"""A file without a model, or one that lost something on its way, is refused with what to do about that file."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import joblib
import lightgbm
import pytest

from mlmodel_server.cli import main
from mlmodel_server.errors import RefusedModel, UsageError
from mlmodel_server.formats import table
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory, locate
from tests.unit.server.models import iris, joblib_bytes

GIVE = r"is not a model file: give a file that joblib\.dump, skops\.io\.dump, onnx\.save, torch\.export\.save"

FILES: dict[str, tuple[bytes, str]] = {
    "notes.txt": (b"my notes\n", GIVE),
    "model.joblib": (b"hello world, this is text\nand more\n", GIVE),
    "data.csv": (b"a,b,label\n1,2,0\n", GIVE),
    "numbers.csv": (b"1,2,0\n3,4,1\n", GIVE),
    "logo.png": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), GIVE),
    "page.html": (b"<!DOCTYPE html><html></html>", GIVE),
    "settings.json": (b'{"a": 1}', GIVE),
    "notebook.ipynb": (b'{"cells": [], "metadata": {}}', GIVE),
    "script.py": (b"import os\nprint(1)\n", GIVE),
    "report.pdf": (b"%PDF-1.4\n", GIVE),
    "zeros.bin": (bytes(1000), GIVE),
    "model.onnx": (b"", r"model\.onnx is empty: copy or save the model file again"),
    "model.cbm": (b"CBM1\x60\0\0\0", r"CatBoost.*ONNX \(model\.save_model\('model\.onnx', format='onnx'\)\)"),
    "lfs.joblib": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "run git lfs pull"),
    "table.parquet": (b"PAR1\0\0", "a Parquet table, not a model"),
    "cut.joblib": (joblib_bytes(iris()[0])[:300], r"cannot be read \(.*Error\): copy it again, or save it again"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_model_is_refused_as_such(name: str) -> None:
    data, words = FILES[name]
    with pytest.raises(RefusedModel, match=f"^{name}.*{words}|^{name} {words}|^{words}"):
        _ = load(Memory({name: data}, name)).opened


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_any_protocol_counts_as_a_model_file(protocol: int) -> None:
    model, X, _ = iris()
    buffer = io.BytesIO()
    joblib.dump(model, buffer, protocol=protocol)
    if protocol < 2:
        with pytest.raises(
            RefusedModel, match=r"is a pickle of protocol 0 or 1, .*: save the model again with joblib\.d"
        ):
            _ = load(Memory({"model": buffer.getvalue()}, "model")).opened
        return
    opened = load(Memory({"model": buffer.getvalue()}, "model")).opened
    assert opened.functions(X, ["predict"])[0].tolist() == model.predict(X).tolist()


@pytest.mark.parametrize("change", [lambda text: text.replace(b"\n", b"\r\n"), lambda text: b"\xef\xbb\xbf" + text])
def test_a_text_that_was_changed_on_its_way_is_to_be_copied_again(change: object) -> None:
    _, X, y = iris()
    text = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(X, y).booster_.model_to_string().encode()
    with pytest.raises(RefusedModel, match=r"changed by an editor or a transfer of text .*: copy the file as it"):
        load(Memory({"model.txt": change(text)}, "model.txt"))  # type: ignore[operator]
    assert load(Memory({"model.txt": text}, "model.txt")).opened, "as it was saved"


@pytest.mark.parametrize("command", ["inspect", "package"])
def test_a_path_that_does_not_exist_is_reported_as_such(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed = main([command, "missing.joblib"]), capsys.readouterr().err
    assert code in (2, 3)
    assert "does not exist: give" in printed
    for word in ("pod", "ConfigMap", "spec.", "--data"):
        assert word not in printed


def test_a_file_that_is_no_model_is_reported_before_what_else_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.joblib").write_text("my notes\n")
    assert main(["package", str(tmp_path / "notes.joblib")]) == 2
    assert "notes.joblib is not a model file" in capsys.readouterr().err


def test_an_empty_directory_has_no_model(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"no mlmodel\.json, MLmodel, saved_model\.pb or model file such as"):
        locate(str(tmp_path), None, "")


class VersionError(Exception):
    """As protobuf raises it when generated messages are newer than its runtime."""


VersionError.__module__ = "google.protobuf.runtime_version"


def test_another_protobuf_is_reported_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(name: str, package: str | None = None) -> None:
        raise VersionError("Detected incompatible Protobuf Gencode/Runtime versions")

    monkeypatch.setattr("importlib.import_module", failing)
    words = r"requires another protobuf: protobuf [\d.]+ is installed, .*pip install '\.\[core\]'"
    with pytest.raises(RefusedModel, match=words):
        table.module_of("onnx")


def test_grpc_with_another_protobuf_is_reported_before_the_server_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse
    import builtins

    from mlmodel_server.startup import assemble

    real = builtins.__import__

    def failing(name: str, *arguments: object, **named: object) -> object:
        if name == "mlmodel_server.rpc.proto":
            raise VersionError("Detected incompatible Protobuf Gencode/Runtime versions")
        return real(name, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", failing)
    with pytest.raises(UsageError, match=r"gRPC cannot be served: protobuf .*'\.\[grpc\]'.*; or remove --grpc-port"):
        assemble._grpc(argparse.Namespace(grpc_port=9000, host="127.0.0.1"))
