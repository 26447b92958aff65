"""Libraries that must be imported late (after the CPU limit is shared, or after the fork), or only for models that use
them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pytest
import xgboost
from skl2onnx import to_onnx  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression

from mlmodel_server import package
from tests.unit.server.models import iris

SEED = 7


@pytest.mark.parametrize(
    ("module", "later"),
    [
        ("startup.run", "numpy"),  # BLAS and OpenMP read their number of threads at import
        ("startup.server", "grpc"),  # its threads do not survive a fork
        ("startup.assemble", "sklearn"),  # takes ten times as long as the rest of a start
        ("startup.assemble", "pandas"),
    ],
)
def test_a_module_does_not_import_a_late_library(module: str, later: str) -> None:
    program = f"import sys, mlmodel_server.{module}; sys.exit({later!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


SCRIPT = """
import sys
from mlmodel_server.compile import compile_model
from mlmodel_server.startup import choose
from mlmodel_server.startup.assemble import read
from mlmodel_server.startup.options import parse

# In this process, so that we see what it imports.
choose.compile_in_child = lambda *given, functions, limit: compile_model(*given, functions=functions)
arguments = parse(["--name", "m", "--uri", sys.argv[1]])
arguments.threads = 1
choice = choose.choose(read(arguments))
assert "does not convert" not in choice.verdict, choice.verdict
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"sklearn", "pandas", "skops"}))
import pandas, sklearn  # they are absent only during the import of another library
"""


@pytest.mark.parametrize(
    ("file", "imported"),
    [
        ("model.onnx", ""),
        ("model.ubj", ""),
        ("model.txt", ""),
        ("model.joblib", "sklearn"),
        ("builtin://iris", "sklearn"),
    ],
)
def test_a_server_imports_only_what_its_model_uses(models: Path, file: str, imported: str) -> None:
    """scikit-learn takes one to two seconds of CPU time and 100 MB, pandas 0.4 s and 45 MB."""
    uri = file if "://" in file else str(models / file)
    done = subprocess.run([sys.executable, "-c", SCRIPT, uri], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip() == imported


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same classes in a file of each library."""
    folder = tmp_path_factory.mktemp("models")
    X = np.random.default_rng(SEED).random((200, 3))
    y: Any = (X.sum(axis=1) > 1.5).astype(int)
    regression = LogisticRegression().fit(X, y)
    joblib.dump(regression, folder / "model.joblib")
    onnx = to_onnx(regression, X[:1].astype(np.float32), options={"zipmap": False})
    (folder / "model.onnx").write_bytes(onnx.SerializeToString())
    xgboost.train({"objective": "binary:logistic", "seed": SEED}, xgboost.DMatrix(X, y), 30).save_model(
        folder / "model.ubj"
    )
    lightgbm.train({"objective": "binary", "verbose": -1, "seed": SEED}, lightgbm.Dataset(X, y), 30).save_model(
        folder / "model.txt"
    )
    return folder


def test_a_process_that_may_open_other_models_imports_all_of_a_library() -> None:
    script = (
        "import sys, mlmodel_server.formats.table as table; table.library('sklearn'); print('pandas' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "True\n"


def test_serving_a_compiled_model_needs_no_scikit_learn(tmp_path: Path) -> None:
    for name, data in package.build(*iris()).items():
        (tmp_path / name).write_bytes(data)
    script = (
        "import sys\n"
        "from mlmodel_server.loading.load import load\n"
        "from mlmodel_server.loading.sources import locate\n"
        "from mlmodel_server.startup.choose import choose\n"
        f"choose(load(locate({str(tmp_path)!r}, None, '')))\n"
        "tops = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(tops & {'sklearn', 'scipy', 'onnx', 'skops', 'pandas'}))\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=True)
    assert found.stdout == "[]\n"
