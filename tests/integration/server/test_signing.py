"""Signatures are interoperable with ``model-signing``: each side verifies what the other has signed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hack.venvs import venv
from mlmodel_server.errors import RefusedModel
from mlmodel_server.loading.signing import SIGNATURE, sign, verify
from mlmodel_server.loading.sources import locate

# pyopenssl: model-signing imports it but does not require it; sigstore did until recently
REQUIREMENTS = ("model-signing==1.1.1", "pyopenssl==26.4.0")
CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

Theirs = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    """Run the command line of ``model-signing``."""
    python = venv("model-signing", REQUIREMENTS)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", "model_signing", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)

    return run


@pytest.fixture(params=CURVES, ids=lambda curve: curve.name)
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A private key and its public key."""
    key = ec.generate_private_key(request.param())
    private, public = tmp_path / "key", tmp_path / "key.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory whose names sort differently as text and as paths, with hidden files."""
    folder = tmp_path / "model"
    for name in ("mlmodel.json", "data/weights.bin", "data-2.bin", "data/a b/ü.txt", ".gitignore", ".cache/index"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def files(model: Path) -> dict[str, bytes]:
    source = locate(str(model), None, "")
    return {name: source.read(name) for name in source.names() if name != SIGNATURE}


def test_we_verify_what_they_signed(theirs: Theirs, keys: tuple[Path, Path], model: Path) -> None:
    private, public = keys
    signed = theirs("sign", "key", model, "--private_key", private, "--signature", model / SIGNATURE)
    assert signed.returncode == 0, signed.stderr
    bundle = (model / SIGNATURE).read_bytes()
    assert len(verify(files(model), bundle, [public.read_bytes()], "model")) == 64
    with pytest.raises(RefusedModel, match="signed as 'model', but is served as 'other'"):
        verify(files(model), bundle, [public.read_bytes()], "other")
    (model / "data-2.bin").write_text("tampered")
    with pytest.raises(RefusedModel, match=r"data-2\.bin changed"):
        verify(files(model), bundle, [public.read_bytes()], "model")
    (model / "data-2.bin").write_text("data-2.bin")
    (model / "extra.bin").write_text("")
    with pytest.raises(RefusedModel, match=r"extra\.bin not signed"):
        verify(files(model), bundle, [public.read_bytes()], "model")


def test_they_verify_what_we_signed(theirs: Theirs, keys: tuple[Path, Path], model: Path) -> None:
    private, public = keys
    (model / ".cache" / "index").unlink()  # we sign no hidden file, and they require a signature of every file
    (model / SIGNATURE).write_bytes(sign(files(model), private.read_bytes(), "model"))
    check = ("verify", "key", model, "--signature", model / SIGNATURE, "--public_key", public)
    verified = theirs(*check)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    (model / "data" / "weights.bin").write_text("tampered")
    assert theirs(*check).returncode == 1


def test_we_verify_a_single_file_that_they_signed(theirs: Theirs, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    model, bundle = tmp_path / "model.onnx", tmp_path / "model.onnx.sig"
    model.write_bytes(b"weights")
    signed = theirs("sign", "key", model, "--private_key", private, "--signature", bundle)
    assert signed.returncode == 0, signed.stderr
    assert verify({"model.onnx": b"weights"}, bundle.read_bytes(), [public.read_bytes()], "model.onnx")
