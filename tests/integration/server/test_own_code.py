"""A package with its author's own Python code on a real server, whose process never imported that code before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mlmodel_server.loading.signing import SIGNATURE, sign
from tests.integration.server.processes import failing, running, until
from tests.unit.server.loading.test_signing import pem, public
from tests.unit.server.models import iris
from tests.unit.server.own_modules import SOURCE

TRAIN = """
import sys
import json
import clipping
from mlmodel_server import package
from tests.unit.server.own_modules import fitted

model, X, y = fitted(clipping)
package.save(model, X, y, sys.argv[1], code=[clipping])
print(json.dumps([model.predict(X).tolist(), model.predict_proba(X).tolist()]))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A package that a script has saved in another process, and its predictions there."""
    source = tmp_path_factory.mktemp("training")
    (source / "clipping.py").write_text(SOURCE)
    (source / "train.py").write_text(TRAIN)
    out = source / "model"
    finished = subprocess.run(
        [sys.executable, "train.py", out], cwd=source, capture_output=True, text=True, timeout=600, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*filter(os.path.isdir, sys.path), str(source)])},
    )  # fmt: skip
    return out, *json.loads(finished.stdout)


@pytest.fixture
def signed(trained: tuple[Path, Any, Any], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the package, signed as ``tumour``, and the public key."""
    model, key = tmp_path / "model", ec.generate_private_key(ec.SECP256R1())
    shutil.copytree(trained[0], model)
    (model / SIGNATURE).write_bytes(
        sign({path.name: path.read_bytes() for path in model.iterdir()}, pem(key), "tumour")
    )
    (tmp_path / "key.pub").write_bytes(public(key))
    return model, tmp_path / "key.pub"


def infer(X: Any) -> dict[str, Any]:
    return {
        "inputs": [{"name": "input-0", "shape": list(X.shape), "datatype": "FP64", "data": X.tolist()}],
        "outputs": [{"name": "predict"}, {"name": "predict_proba"}],
    }


@pytest.mark.parametrize("options", [("--workers", "1"), ("--workers", "2")])
def test_a_signed_package_is_served_as_its_author_predicts(
    options: tuple[str, ...], trained: tuple[Path, Any, Any], signed: tuple[Path, Path], tmp_path: Path
) -> None:
    model, key = signed
    _, labels, probabilities = trained
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "clipping.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{SOURCE.replace('argmin', 'argmax')}")
    search = os.pathsep.join([str(foreign), *filter(os.path.isdir, sys.path)])
    given = ("--uri", model, "--trust", "signed", "--signing-keys", key)
    with running(*given, *options, PYTHONPATH=search) as server:
        _, X, _ = iris()
        for _ in range(4):  # some of them at each worker
            outputs = server.send("POST", "/v2/models/tumour/infer", json.dumps(infer(X))).json()["outputs"]
            assert outputs[0]["data"] == labels
            np.testing.assert_allclose(outputs[1]["data"], np.ravel(probabilities), rtol=1e-12)
        described = server.send("GET", "/v2/models/tumour").json()
        assert [spec["shape"] for spec in described["inputs"]] == [[-1, 4]]

        def watched() -> list[tuple[str, int]]:
            drift = server.send("GET", "/v2/models/tumour/stats").json()["drift"]
            return [(feature["name"], feature["rows"]) for feature in drift[:2]]

        until(lambda: watched() == [("input-0[0]", 600), ("input-0[1]", 600)], "each worker has reported its rows")
    assert not (tmp_path / "ran").exists(), "no module of that name elsewhere is imported"


@pytest.mark.attack(held=True)
def test_an_unsigned_or_changed_package_is_refused_and_nothing_of_it_runs(
    signed: tuple[Path, Path], tmp_path: Path
) -> None:
    model, key = signed
    marker = tmp_path / "ran"
    code, reason = failing(tmp_path, "--uri", model, MARKER=str(marker))
    assert code == 3
    assert "the package has Python code (clipping), which strict never runs: sign it with mlmodel package" in reason
    given = ("--uri", model, "--trust", "signed", "--signing-keys", key)
    (model / "code.clipping.py").write_text(SOURCE + "\n")
    code, reason = failing(tmp_path, *given, MARKER=str(marker))
    assert code == 3
    assert "the signature does not match the files: code.clipping.py changed" in reason
    (model / SIGNATURE).unlink()
    code, reason = failing(tmp_path, *given, MARKER=str(marker))
    assert code == 3
    assert "the model is not signed" in reason
    assert not marker.exists()
