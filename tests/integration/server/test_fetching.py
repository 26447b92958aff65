"""Processes: one fetches a model with credentials and exits, another opens it and serves without them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from mlmodel_server.loading.signing import SIGNATURE, sign
from mlmodel_server.loading.sources.fetched import DESCRIPTION, FILES
from mlmodel_server.manifest import MANIFEST, sha256
from tests.integration.server.processes import command, environment, failing, running
from tests.integration.server.storage import PASSWORD, Service, s3
from tests.integration.server.test_storage import bucket, s3_variables
from tests.unit.server.loading.test_signing import key, pem, public

__all__ = ["bucket", "s3"]


@pytest.mark.attack(held=True)
def test_the_process_that_serves_never_had_the_credentials(s3: Service, bucket: Any, tmp_path: Path) -> None:
    digest = sha256(bucket[f"iris/v1/{MANIFEST}"])
    variables = s3_variables(s3) | {"GITHUB_TOKEN": "also-secret", "TMPDIR": str(tmp_path)}
    with running("--uri", "s3://models/iris/v1", "--sha256", digest, "--workers", "2", **variables) as server:
        assert any('msg="fetched"' in line for line in server.log)
        found = [server.process.pid, *server.children()]
        assert len(found) == 3
        for pid in found:
            environ = Path(f"/proc/{pid}/environ").read_text()
            assert PASSWORD not in environ
            assert "AWS_" not in environ
            assert "also-secret" not in environ
            cwd = os.readlink(f"/proc/{pid}/cwd")
            assert os.listdir(cwd) == []
        assert list(tmp_path.glob("mlmodel-*")) == [Path(cwd)], "what was fetched is only in memory"
        server.stop()
    assert list(tmp_path.glob("mlmodel-*")) == []


def fetch(directory: Path, digest: str, variables: Mapping[str, str], uri: str = "s3://models/iris/v1") -> Any:
    """Fetch as the init container does."""
    arguments = ("--uri", uri, "--sha256", digest, "--fetch-to", str(directory))
    return subprocess.run(
        command(*arguments), env=environment(**variables), capture_output=True, text=True, timeout=600, check=False
    )


def test_a_fetched_model_is_served_and_restarted_without_the_store(s3: Service, bucket: Any, tmp_path: Path) -> None:
    digest = sha256(bucket[f"iris/v1/{MANIFEST}"])
    done = fetch(tmp_path, digest, s3_variables(s3))
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == [DESCRIPTION, FILES]
    given = ("--uri", "s3://models/iris/v1", "--sha256", digest, "--fetched", tmp_path)
    for _ in range(2):
        with running(*given) as server:
            assert server.send("GET", "/v2/health/ready").status == 200
    (tmp_path / FILES / "model.skops").chmod(0o600)
    (tmp_path / FILES / "model.skops").write_bytes(b"other")
    code, reason = failing(tmp_path.parent, *given)
    assert (code, "model.skops has sha256" in reason) == (3, True)


@pytest.mark.parametrize(
    ("change", "digest", "code", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-and-secret"}, None, 4, "rejected the credentials: check AWS_ACCESS_KEY_ID"),
        ({}, "0" * 64, 3, "mlmodel.json has sha256"),
    ],
)
def test_a_failure_of_the_fetch_is_the_reason_in_the_termination_message(
    s3: Service, bucket: Any, tmp_path: Path, change: dict[str, str], digest: str | None, code: int, words: str
) -> None:
    given = ("--uri", "s3://models/iris/v1", "--sha256", digest or sha256(bucket[f"iris/v1/{MANIFEST}"]))
    variables = s3_variables(s3) | change
    for more in (("--fetch-to", tmp_path), ()):
        found, reason = failing(tmp_path.parent, *given, *more, **variables)
        assert found == code
        assert words in reason
        assert "wrong-and-secret" not in reason


@pytest.mark.attack(held=True)
def test_a_token_in_the_address_is_not_in_the_arguments_of_the_server(tmp_path: Path) -> None:
    """The child gets it, and fails here: nothing listens on port 1."""
    given = ("--uri", "https://127.0.0.1:1/m.skops?token=hush", "--sha256", "0" * 64)
    code, reason = failing(tmp_path, *given)
    assert code == 4
    assert "hush" not in reason


def test_only_a_model_of_a_store_can_be_fetched(tmp_path: Path) -> None:
    code, reason = failing(tmp_path, "--uri", "builtin://iris", "--fetch-to", tmp_path)
    assert (code, "--fetch-to requires a --uri with https://" in reason) == (2, True)


def test_a_fetch_ends_at_sigterm(tmp_path: Path) -> None:
    """As the first process of a container, which would ignore it."""
    given = ("--uri", "https://127.0.0.1:1/m.skops", "--sha256", "0" * 64, "--fetch-to", tmp_path)
    slow = "import sys, time\nfrom mlmodel_server.loading.sources import transfer\ntransfer.PAUSE = 60\n"
    program = f"{slow}print('started', flush=True)\nfrom mlmodel_server.startup.run import main\nsys.exit(main())"
    argv = [sys.executable, "-c", program, *command(*given)[3:]]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    end = time.monotonic() + 30
    while "SigCgt" in (status := Path(f"/proc/{process.pid}/status").read_text()):
        caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
        if caught >> 14 & 1:
            break
        assert time.monotonic() < end
    process.terminate()
    assert process.wait(180) == 128 + 15


# Files beside a model -------------------------------------------------------------------------------------------------


def signed(folder: Path, name: str, data: bytes) -> list[str]:
    """Sign one file, and return the arguments of a server for it."""
    (folder / name).write_bytes(data)
    (folder / SIGNATURE).write_bytes(sign({name: data}, pem(key()), "tumour"))
    (folder / "key.pub").write_bytes(public(key()))
    return ["--uri", name, "--trust", "signed", "--signing-keys", "key.pub"]


def from_directory(folder: Path, arguments: list[str]) -> tuple[int, str]:
    """Return exit code and log of a server that is started in the directory of its model, and must not start."""
    env = environment(MLMODEL_TERMINATION_LOG=str(folder.parent / "log"))
    done = subprocess.run(
        command(*arguments), cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.attack(held=True)
def test_a_module_beside_a_signed_model_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    module, marker = folder / "beside_the_model.py", tmp_path / "ran"
    module.write_text("def double(X):\n    return X * 2\n")
    monkeypatch.syspath_prepend(str(folder))
    import beside_the_model  # type: ignore[import-not-found]

    fitted = make_pipeline(FunctionTransformer(beside_the_model.double), LogisticRegression())
    fitted.fit(np.eye(4), [0, 1, 0, 1])
    joblib.dump(fitted, tmp_path / "dumped")
    module.write_text(f"open({str(marker)!r}, 'w')\ndef double(X):\n    return X * 2\n")
    arguments = signed(folder, "model.joblib", (tmp_path / "dumped").read_bytes())
    code, log = from_directory(folder, arguments)
    assert (code, "code=[beside_the_model]" in log) == (3, True)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    code, log = from_directory(folder, arguments)
    assert (code, "code=[beside_the_model]" in log) == (3, True)
    assert not marker.exists()


@pytest.mark.attack(held=True)
def test_weights_beside_a_signed_model_are_not_read(tmp_path: Path) -> None:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 2], np.ones((4, 2), np.float32).tobytes(), raw=True)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (folder / "weights.bin").exists()
    code, log = from_directory(folder, signed(folder, "model.onnx", (folder / "model.onnx").read_bytes()))
    assert code == 3, log
