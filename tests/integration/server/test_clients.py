"""Clients of other projects, unmodified and with their defaults, against our server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack import ROOT
from hack.venvs import venv
from mlmodel_server import package
from tests.conformance.own import running
from tests.conformance.target import Target, flat, nested
from tests.unit.server.models import mixed

SCRIPTS = Path(__file__).parent / "clients"
TRITON = ("tritonclient[http,grpc]==2.73.0",)
KSERVE = ("kserve==0.21.0",)
MLSERVER = ("mlserver==1.7.1", "pandas<3")  # its codec of tables does not support the text columns of pandas 3


@pytest.fixture(scope="module", params=["iris", "mixed"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server of a model of one matrix, and of a model with columns of numbers, texts and booleans."""
    arguments = ["--uri", "builtin://iris"]
    if request.param == "mixed":
        path = package.save(*mixed(), tmp_path_factory.mktemp("clients") / "mixed")
        arguments = ["--uri", "pvc://claim", "--path", str(path)]
    with running(request.param, *arguments) as server:
        made = Target(server.url, request.param, server.grpc, own=True)
        made.discover()
        yield made


def run_client(python: Path, script: str, target: Target) -> dict[str, Any]:
    """Run a script with the Python that has its client, and return what it prints."""
    columns = [nested(flat(tensor["data"]), tensor["shape"]) for tensor in target.sample["inputs"]]
    rows = [
        dict(zip([t["name"] for t in target.sample["inputs"]], row, strict=True)) for row in zip(*columns, strict=True)
    ]
    description = {
        "url": target.url,
        "grpc": target.grpc,
        "model": target.model,
        "version": target.version,
        "inputs": target.sample["inputs"],
        "outputs": [tensor["name"] for tensor in target.metadata["outputs"]],
        "rows": rows,
    }
    command = [str(python), str(SCRIPTS / script), json.dumps(description)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    printed: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return printed


def check_equal(target: Target, cases: dict[str, Any]) -> None:
    """Check that each client got the outputs that curl would get."""
    names = [{"name": tensor["name"]} for tensor in target.metadata["outputs"]]
    plain = target.outputs(target.infer(target.request(outputs=names)))
    for case, answer in cases.items():
        for name, found in answer.items():
            assert found["shape"] == plain[name]["shape"], (case, name)
            expected = plain[name]["data"]
            assert found["data"] == (
                pytest.approx(expected, rel=1e-6) if isinstance(expected[0], float) else expected
            ), case


def test_tritonclient(target: Target) -> None:
    printed = run_client(venv("tritonclient", TRITON), "triton.py", target)
    for kind, cases in printed.items():
        if "metadata" in cases and kind.startswith("http"):
            assert cases.pop("metadata") == target.metadata
        if "server" in cases:
            assert cases.pop("server") == target.server
        assert cases.pop("id", "größe") == "größe"
    assert printed["http"].pop("error")["status"] == "400"
    error = printed["grpc"].pop("error")
    assert error["status"] == "StatusCode.NOT_FOUND"
    metadata = printed["grpc"].pop("metadata")
    assert [tensor["name"] for tensor in metadata["inputs"]] == [tensor["name"] for tensor in target.metadata["inputs"]]
    for cases in printed.values():
        check_equal(target, cases)
    counts = {kind: len(cases) for kind, cases in printed.items()}
    assert counts == {"http": 8, "http_aio": 2, "grpc": 5, "grpc_aio": 1}


def test_the_client_of_the_documentation(target: Target) -> None:
    """It is shown for a model of four numbers."""
    if target.model != "iris":
        pytest.skip("its model has other inputs")
    page = (ROOT / "docs" / "how-to" / "laptop.md").read_text()
    (script,) = re.findall(
        r"^```python\n(import numpy as np\nimport tritonclient.*?)^```$", page, re.MULTILINE | re.DOTALL
    )
    script = script.replace("127.0.0.1:9000", target.grpc).replace('"model"', f'"{target.model}"')
    command = [str(venv("tritonclient", TRITON)), "-c", script]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert re.fullmatch(r"\[.*\] \[\[.*\]\]\n", finished.stdout), "one prediction, and its probabilities"


def test_kserve_sdk(target: Target) -> None:
    printed = run_client(venv("kserve-client", KSERVE), "kserve_sdk.py", target)
    error = printed["rest"].pop("error")
    assert error["status"] == "400"
    assert "inputs is empty" in error["message"]
    plain = target.outputs(target.infer(target.sample))["predict"]["data"]
    assert printed.pop("v1") == {"predictions": plain}
    for cases in printed.values():
        check_equal(target, cases)


def test_mlserver_codecs(target: Target) -> None:
    printed = run_client(venv("mlserver-codecs", MLSERVER), "mlserver_codecs.py", target)
    assert printed["codecs"]
    check_equal(target, printed["codecs"])


@pytest.mark.parametrize("options", [["-d"], ["--json"], ["-H", "Content-Type: application/json", "--data-binary"]])
def test_curl(target: Target, options: list[str]) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    command = [
        "curl",
        "-sS",
        "--fail-with-body",
        f"{target.url}{target.base}/infer",
        *options,
        json.dumps(target.sample),
    ]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    plain = target.outputs(target.infer(target.sample))
    assert json.loads(finished.stdout)["outputs"] == list(plain.values())


def test_curl_compressed_and_chunked(target: Target, tmp_path: Path) -> None:
    """A chunked body without Content-Length, with Expect: 100-continue."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    body = tmp_path / "body.json"
    body.write_text(json.dumps(target.sample))
    command = ["curl", "-sS", "--fail-with-body", "--compressed", f"{target.url}{target.base}/infer"]
    command += ["-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue", "-d", f"@{body}"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert json.loads(finished.stdout)["outputs"] == list(target.outputs(target.infer(target.sample)).values())
