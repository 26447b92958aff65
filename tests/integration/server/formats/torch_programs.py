"""PyTorch: programs are served, and files that do more than compute are rejected."""

from __future__ import annotations

import io
import json
import os
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlmodel_server import package
from mlmodel_server.engine import selftest
from mlmodel_server.engine.model import model_of
from mlmodel_server.errors import RefusedModel, UsageError
from mlmodel_server.formats.opened import Opened
from mlmodel_server.formats.table import library
from mlmodel_server.loading.load import load
from mlmodel_server.loading.signing import SIGNATURE, sign
from mlmodel_server.loading.sources import Local, Memory
from mlmodel_server.tensors import TensorSpec

torch = library("torch")
Module: Any = torch.nn.Module
torch.manual_seed(7)
ROWS = np.random.default_rng(7).random((20, 4)).astype(np.float32)


class Small(Module):  # type: ignore[misc]
    """A classifier of four numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, rows: Any) -> Any:
        return torch.softmax(self.layer(rows), 1)


class Two(Module):  # type: ignore[misc]
    """Two inputs, and a dictionary of outputs."""

    def forward(self, left: Any, right: Any) -> Any:
        return {"total": left + right.sum(1, keepdim=True), "whole": right.to(torch.int64)}


class Pair(Module):  # type: ignore[misc]
    """Two outputs without names."""

    def forward(self, rows: Any) -> Any:
        return rows * 2, rows.sum(1)


MODEL = Small().eval()
EXPECTED = MODEL(torch.from_numpy(ROWS)).detach().numpy()


def traced() -> Any:
    return torch.jit.trace(MODEL, torch.ones(2, 4))


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(traced(), buffer)
    return buffer.getvalue()


def exported(module: Any = MODEL, *examples: Any) -> bytes:
    buffer, auto = io.BytesIO(), torch.export.Dim.AUTO
    given = examples or (torch.ones(2, 4),)
    program = torch.export.export(module.eval(), given, dynamic_shapes=tuple({0: auto} for _ in given))
    torch.export.save(program, buffer)
    return buffer.getvalue()


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def opened(data: bytes, name: str = "model", **options: Any) -> Opened:
    return load(Memory({name: data}, name), **options).opened


def changed(data: bytes, change: Callable[[str, bytes], bytes], **more: bytes) -> bytes:
    """Return the archive with changed members and ``more``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
        for name, content in more.items():
            target.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def test_an_exported_program_declares_its_inputs() -> None:
    model = opened(exported())
    assert (model.format, model.platform) == ("torch-export", "pytorch_export")
    assert model.signature is not None
    assert model.signature.layout == "matrix"
    assert model.signature.inputs == (TensorSpec("rows", "FP32", (-1, 4)),)
    assert model.signature.outputs == (TensorSpec("predict", "FP32", (-1, 3)),)
    for rows in (1, 2, 20):
        np.testing.assert_allclose(model.functions(ROWS[:rows], ["predict"])[0], EXPECTED[:rows], rtol=1e-5)


def test_several_tensors_keep_their_names() -> None:
    model = opened(exported(Two(), torch.ones(2, 3), torch.ones(2, 4)))
    assert model.signature is not None
    assert [spec.name for spec in model.signature.inputs] == ["left", "right"]
    assert [(spec.name, spec.datatype) for spec in model.signature.outputs] == [("total", "FP32"), ("whole", "INT64")]
    table = {"left": np.ones((5, 3), np.float32), "right": np.ones((5, 4), np.float32)}
    whole, total = model.functions(table, ["whole", "total"])
    assert whole.tolist() == [[1] * 4] * 5
    assert total.tolist() == [[5.0] * 3] * 5
    pair = opened(exported(Pair())).signature
    assert pair is not None
    assert [spec.name for spec in pair.outputs] == ["output-0", "output-1"]


def test_read_only_bytes_of_a_request_are_not_written_to() -> None:
    rows = np.frombuffer(ROWS.tobytes(), np.float32).reshape(ROWS.shape)
    np.testing.assert_allclose(opened(exported()).functions(rows, ["predict"])[0], EXPECTED, rtol=1e-5)


def test_a_torchscript_program_needs_a_package_and_serves_from_it(tmp_path: Path) -> None:
    bare = load(Memory({"model.pt": script()}, "model.pt"))
    with pytest.raises(RefusedModel, match="does not say what its inputs are: write a package"):
        model_of(bare.opened, None)
    path = tmp_path / "small.pt"
    path.write_bytes(script())
    directory = package.save(path, ROWS, None, tmp_path / "package")
    loaded = load(Local(directory))
    assert loaded.manifest is not None
    assert loaded.opened.platform == "pytorch_torchscript"
    served = model_of(loaded.opened, loaded.manifest)
    assert served.signature.layout == "matrix"
    selftest.run(served, loaded.manifest.golden)


@pytest.mark.parametrize("module", [MODEL, traced()], ids=["module", "script"])
def test_a_module_is_packaged_as_a_program(module: Any) -> None:
    files = package.build(module, ROWS.astype(float), None)
    loaded = load(Memory(files))
    assert loaded.manifest is not None
    selftest.run(model_of(loaded.opened, loaded.manifest), loaded.manifest.golden)
    assert files == package.build(module, ROWS.astype(float), None), "the same model gives the same bytes"
    assert loaded.manifest.libraries["torch"]


def test_a_module_of_two_inputs_is_packaged() -> None:
    rows = {"left": np.ones((4, 3)), "right": np.ones((4, 4))}
    loaded = load(Memory(package.build(Two(), rows, None)))
    assert loaded.manifest is not None
    assert [spec.name for spec in loaded.manifest.signature.outputs] == ["total", "whole"]
    selftest.run(model_of(loaded.opened, loaded.manifest), loaded.manifest.golden)


def test_a_module_that_cannot_be_exported_is_reported() -> None:
    for rows, words in ((ROWS[:1], "fewer than two rows"), (ROWS[:, :2], "torch cannot export the model with X")):
        with pytest.raises(UsageError, match=words) as caught:
            package.build(MODEL, rows, None)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [script(), exported()], ids=["script", "exported"])
def test_a_program_predicts_in_a_fork(data: bytes) -> None:
    model = opened(data)
    model.functions(ROWS, ["predict"])
    child = os.fork()
    if not child:
        os._exit(0 if np.allclose(model.functions(ROWS, ["predict"])[0], EXPECTED) else 1)
    deadline = time.monotonic() + 30
    while not (exited := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.005)
    assert exited[1] == 0


def test_a_pickle_is_rejected_unless_it_is_signed() -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    for value in (MODEL, MODEL.state_dict()):
        with pytest.raises(RefusedModel, match=r"refused the pickle in model\.pt .*torch\.export\.save"):
            opened(saved(value), "model.pt")
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)

    def signed(value: Any) -> Opened:
        files = {"model.pt": saved(value)}
        files[SIGNATURE] = sign(files, private, "small")
        return load(Memory(files, "model.pt"), trust="signed", keys=[public], name="small").opened

    np.testing.assert_allclose(signed(MODEL).functions(ROWS, ["predict"])[0], EXPECTED, rtol=1e-5)
    with pytest.raises(RefusedModel, match="contains only weights: save the model as a program"):
        signed(MODEL.state_dict())


def test_a_torchscript_program_that_opens_files_is_rejected() -> None:
    def reading(name: str, content: bytes) -> bytes:
        old, new = b"torch.softmax(", b"torch.add(torch.from_file('secret', False, 1), torch.softmax("
        return content.replace(old, new).replace(b", 1)\n", b", 1))\n") if name.endswith(".py") else content

    def foreign(name: str, content: bytes) -> bytes:
        return content.replace(b"torch.softmax(", b"ops.inductor.softmax(") if name.endswith(".py") else content

    for change, what in ((reading, "from_file"), (foreign, "operators of inductor")):
        with pytest.raises(RefusedModel, match=rf"refused {what} in model: a TorchScript program may only compute"):
            opened(changed(script(), change))


def in_program(old: str, new: str) -> Callable[[str, bytes], bytes]:
    """Return a change of the program's description, which contains ``old``."""

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return change


def in_file(end: str, new: bytes) -> Callable[[str, bytes], bytes]:
    return lambda name, content: new if name.endswith(end) else content


class Touch:
    """Pickles as a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def symbol() -> str:
    with zipfile.ZipFile(io.BytesIO(exported())) as archive:
        text = archive.read("archive/models/model.json").decode()
    start = text.index('"expr_str": "') + len('"expr_str": "')
    return text[start : text.index('"', start)]


def hostile(mark: Path) -> dict[str, tuple[bytes, str]]:
    """Exported programs that would create ``mark``, or could, each with the part that the error names."""
    runs = f"__import__('pathlib').Path('{mark}').touch()"
    pickled = pickle.dumps(Touch(mark))
    nested = json.dumps(json.dumps({"default_factory_module": "os", "default_factory_name": "system"}))[1:-1]
    config = "data/weights/model_weights_config.json"

    def with_pickle(name: str, content: bytes) -> bytes:
        return content.replace(b'"use_pickle": false', b'"use_pickle": true') if name.endswith(config) else content

    linear = "torch.ops.aten.linear.default"
    library_of = {"data/aotinductor/a.so": b"\x7fELF"}
    return {
        "target": (changed(exported(), in_program(linear, "torch.hub.load")), r"torch\.hub\.load"),
        "operator": (changed(exported(), in_program(linear, "_operator.methodcaller")), r"_operator\.methodcaller"),
        "file": (
            changed(exported(), in_program(linear, "torch.ops.aten.from_file.default")),
            r"torch\.ops\.aten\.from",
        ),
        "shape": (changed(exported(), in_program(symbol(), runs)), "a text that is not a formula"),
        "guard": (
            changed(exported(), in_program('"guards_code": []', f'"guards_code": ["{runs}"]')),
            "a text that is not a formula",
        ),
        "structure": (changed(exported(), in_program('"verifiers": [', f'"verifiers": ["{nested}", ')), r"os\.system"),
        "weights": (changed(exported(), with_pickle), "a pickle"),
        "sample": (changed(exported(), in_file("sample_inputs/model.pt", pickled)), "a pickle"),
        "library": (changed(exported(), lambda _, content: content, **library_of), "a compiled library"),
    }


HOSTILE = ["target", "operator", "file", "shape", "guard", "structure", "weights", "sample", "library"]


@pytest.mark.parametrize("name", HOSTILE)
def test_an_exported_program_that_does_more_than_compute_is_rejected(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    data, what = hostile(mark)[name]
    with pytest.raises(RefusedModel, match=rf"refused {what}.* in model: an exported program may only compute"):
        opened(data)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["shape", "sample"])
def test_the_payload_runs_with_torch(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    try:
        torch.export.load(io.BytesIO(hostile(mark)[name][0])).module()(torch.from_numpy(ROWS))
    except Exception as error:
        print(f"torch raised {type(error).__name__} after that")
    assert mark.exists()


def test_an_mlflow_directory_of_a_program_is_served() -> None:
    description = b"""
flavors:
  pytorch: {model_data: data, pytorch_version: 2.15.0}
  python_function: {loader_module: mlflow.pytorch}
signature: null
"""
    files = {"MLmodel": description, "data/model.pt2": exported()}
    model = load(Memory(files, "MLmodel")).opened
    np.testing.assert_allclose(model.functions(ROWS, ["predict"])[0], EXPECTED, rtol=1e-5)
    inputs = '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}]'
    described = description.replace(
        b"signature: null", f"signature: {{inputs: '{inputs}', outputs: '{inputs}'}}".encode()
    )
    script_of = load(Memory({"MLmodel": described, "data/model.pth": script()}, "MLmodel")).opened
    assert script_of.signature is not None
    (answer,) = script_of.functions({"input-0": ROWS}, ["predict"])
    np.testing.assert_allclose(answer, EXPECTED, rtol=1e-5)
