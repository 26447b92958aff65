"""Formats whose libraries are too large, or have too many versions, for one environment: each has its own.

PyTorch is the plain package of the index, which brings 5 GB of what only graphics cards need: nothing smaller has
``torch.export``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sklearn

from hack import ROOT, lock
from hack.venvs import venv

CORE = ("pytest>=8.4", "msgspec>=0.20", "joblib>=1.6", "cryptography>=44", "pyyaml>=6")
SERVER = (*CORE, "scikit-learn==1.9.*", "onnxruntime>=1.23")
ESTIMATORS = ("skops>=0.13", "pandas>=2.2", "cloudpickle", "xgboost-cpu>=3.2", "lightgbm>=4.6", "onnx>=1.19")
OLDER = ("1.7", "1.8")


def run(python: Path, *tests: str) -> None:
    """Run tests with another Python, and fail if they fail."""
    result = subprocess.run(
        [python, "-m", "pytest", "-c", os.devnull, "--rootdir", ROOT, "--noconftest", "-p", "no:cacheprovider", "-q",
         "-W", "ignore", *tests],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'server'}{os.pathsep}{ROOT}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )  # fmt: skip
    sys.stdout.write(result.stdout[-8000:])
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]


def locked(name: str, package: str) -> str:
    """Return the version of a package in a lock of the images, as a requirement."""
    (version,) = lock.pins((lock.FOLDER / f"{name}.txt").read_text("utf-8"))[package]
    return f"{package}=={version}"


def test_pytorch() -> None:
    python = venv("pytorch", (*SERVER, locked("server-pytorch", "torch")))
    run(python, *(f"tests/integration/server/formats/torch_{part}.py" for part in ("programs", "attacks")))


def test_tensorflow() -> None:
    python = venv("tensorflow", (*SERVER, locked("server-tensorflow", "tensorflow-cpu")))
    parts = ("tensorflow_models", "tensorflow_attacks", "keras_attacks")
    run(python, *(f"tests/integration/server/formats/{part}.py" for part in parts))


def test_mlflow() -> None:
    requirements = (*SERVER, *ESTIMATORS, "mlflow-skinny==3.17.2")
    run(venv("mlflow", requirements), "tests/integration/server/formats/mlflow_directories.py")


@pytest.mark.parametrize("version", OLDER)
def test_older_scikit_learn(version: str) -> None:
    """The list of globals is that of this version, its estimators load, and every malicious file is rejected."""
    python = venv(f"scikit-learn-{version}", (*CORE, *ESTIMATORS, "onnxruntime>=1.23", f"scikit-learn=={version}.*"))
    run(python, "tests/unit/server/loading/test_trust.py", "tests/integration/server/formats/estimators.py")


def test_every_estimator_of_scikit_learn() -> None:
    run(Path(sys.executable), "tests/integration/server/formats/estimators.py")


def test_the_development_environment_has_the_newest_version() -> None:
    assert not sklearn.__version__.startswith(OLDER), "move OLDER on: the newest three minor versions are supported"
