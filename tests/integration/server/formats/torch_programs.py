"""PyTorch: programs are served, and files that do more than compute are rejected."""

from __future__ import annotations

import io
import os
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
from mlmodel_server.loading.sources import Memory
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


class Recurrent(Module):  # type: ignore[misc]
    """Looks at sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.layer = torch.nn.LSTM(3, 5, batch_first=True), torch.nn.Linear(5, 1)

    def forward(self, rows: Any) -> Any:
        return self.layer(self.cells(rows)[0][:, -1])


class Table(Module):  # type: ignore[misc]
    """Numbers and categories."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(10, 4)
        self.layer = torch.nn.Linear(8, 2)
        self.register_buffer("positions", torch.arange(4).expand(1, -1))

    def forward(self, numbers: Any, categories: Any) -> Any:
        parts = [numbers + self.positions, self.embedding(categories).mean(1)]
        return torch.sigmoid(self.layer(torch.cat(parts, 1)))


class Branches(Module):  # type: ignore[misc]
    """Chooses by its input, and turns gradients off."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, rows: Any) -> Any:
        with torch.no_grad():
            rows = self.layer(rows)
        return torch.cond(rows.sum() > 0, lambda given: given + 1, lambda given: given * 2, (rows,))


class Attention(Module):  # type: ignore[misc]
    """Attention with two heads, and recurrent layers of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            [torch.nn.GRU(8, 8, 2, batch_first=True), torch.nn.RNN(8, 4, batch_first=True, bidirectional=True)]
        )
        self.narrow = torch.nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True, proj_size=4)

    def forward(self, rows: Any) -> Any:
        for layer in (*self.layers, self.narrow):
            rows = layer(rows)[0]
        heads = rows.view(rows.shape[0], 6, 2, 4).transpose(1, 2)
        return torch.nn.functional.scaled_dot_product_attention(heads, heads, heads).mean(2)


def everyday() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    nn = torch.nn
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    images = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same"),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Hardswish(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    return {
        "layers": (
            nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)),
            (torch.rand(4, 4),),
        ),
        "images": (images, (torch.rand(4, 3, 16, 16),)),
        "sequences": (Recurrent(), (torch.rand(4, 6, 3),)),
        "transformer": (nn.TransformerEncoder(encoder, 1), (torch.rand(4, 6, 8),)),
        "table": (Table(), (torch.rand(4, 4), torch.randint(0, 10, (4, 3)))),
        "attention": (Attention(), (torch.rand(4, 6, 8),)),
        "branches": (Branches(), (torch.rand(4, 4),)),
        "half": (nn.Linear(4, 2).half(), (torch.rand(4, 4).half(),)),
    }


@pytest.mark.parametrize("name", list(everyday()))
def test_everyday_models_are_served_exactly_as_torch_computes_them(name: str) -> None:
    module, examples = everyday()[name]
    shapes = None if name == "branches" else tuple({0: torch.export.Dim.AUTO} for _ in examples)
    program = torch.export.export(module.eval(), examples, dynamic_shapes=shapes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    strict = opened(buffer.getvalue())
    trusted = opened(buffer.getvalue(), trust="unsafe", allow_unsafe=True)
    assert strict.signature == trusted.signature
    assert strict.signature is not None
    arrays = [example.numpy() for example in examples]
    names = [spec.name for spec in strict.signature.inputs]
    table = arrays[0] if strict.signature.layout == "matrix" else dict(zip(names, arrays, strict=True))
    (got,), (expected,) = (model.functions(table, ["predict"]) for model in (strict, trusted))
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(got, module(*examples).detach().numpy(), rtol=1e-3, atol=1e-5)


def test_read_only_bytes_of_a_request_are_not_written_to() -> None:
    rows = np.frombuffer(ROWS.tobytes(), np.float32).reshape(ROWS.shape)
    np.testing.assert_allclose(opened(exported()).functions(rows, ["predict"])[0], EXPECTED, rtol=1e-5)


def signed(files: dict[str, bytes], entry: str = "") -> Any:
    """Return the files, signed, as a server that trusts the key loads them."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    source = Memory({**files, SIGNATURE: sign(files, private, "small")}, *([entry] if entry else []))
    return load(source, trust="signed", keys=[public], name="small")


def test_a_torchscript_program_is_a_program_and_needs_a_signature_and_a_package(tmp_path: Path) -> None:
    with pytest.raises(
        RefusedModel,
        match=r"refused the program in model\.pt \(TorchScript\): .*torch\.export\.save.*ONNX.* or put the model alone",
    ):
        load(Memory({"model.pt": script()}, "model.pt")).opened  # noqa: B018
    bare = signed({"model.pt": script()}, "model.pt")
    with pytest.raises(RefusedModel, match="does not say what its inputs are: write a package"):
        model_of(bare.opened, None)
    path = tmp_path / "small.pt"
    path.write_bytes(script())
    with pytest.raises(UsageError, match=r"refused the program in model\.pt"):
        package.save(path, ROWS, None, tmp_path / "package")
    files = package.build(torch.jit.load(path), ROWS, None)
    with pytest.raises(RefusedModel, match=r"refused the program in model\.pt"):
        load(Memory(files)).opened  # noqa: B018
    loaded = signed(files)
    assert loaded.manifest is not None
    assert loaded.opened.platform == "pytorch_torchscript"
    served = model_of(loaded.opened, loaded.manifest)
    assert served.signature.layout == "matrix"
    selftest.run(served, loaded.manifest.golden)


@pytest.mark.parametrize("module", [MODEL, traced()], ids=["module", "script"])
def test_a_module_is_packaged_as_a_program(module: Any) -> None:
    files = package.build(module, ROWS.astype(float), None)
    loaded = load(Memory(files)) if module is MODEL else signed(files)
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
    model = opened(data, trust="unsafe", allow_unsafe=True)
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
    for value in (MODEL, MODEL.state_dict()):
        with pytest.raises(RefusedModel, match=r"refused the pickle in model\.pt .*torch\.export\.save"):
            opened(saved(value), "model.pt")
    model = signed({"model.pt": saved(MODEL)}, "model.pt").opened
    np.testing.assert_allclose(model.functions(ROWS, ["predict"])[0], EXPECTED, rtol=1e-5)
    with pytest.raises(RefusedModel, match="contains only weights: save the model as a program"):
        signed({"model.pt": saved(MODEL.state_dict())}, "model.pt").opened  # noqa: B018


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
    programs = {"MLmodel": described, "data/model.pth": script()}
    with pytest.raises(RefusedModel, match=r"refused the program in model\.pth \(TorchScript\)"):
        load(Memory(programs, "MLmodel")).opened  # noqa: B018
    script_of = signed(programs, "MLmodel").opened
    assert script_of.signature is not None
    (answer,) = script_of.functions({"input-0": ROWS}, ["predict"])
    np.testing.assert_allclose(answer, EXPECTED, rtol=1e-5)
