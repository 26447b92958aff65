"""What a fresh process imports, refuses and takes: libraries that must be imported late, memory of hostile files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlmodel_server import package
from tests.unit.server.models import iris


@pytest.mark.parametrize(
    ("module", "later"),
    [
        ("startup.run", "numpy"),  # BLAS and OpenMP read their number of threads at import
        ("startup.server", "grpc"),  # its threads do not survive a fork
    ],
)
def test_a_module_does_not_import_a_late_library(module: str, later: str) -> None:
    program = f"import sys, mlmodel_server.{module}; sys.exit({later!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


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
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "[]\n"


def test_a_path_that_does_not_exist_is_reported_as_such_by_serve(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlmodel_server.cli", "serve", "missing.joblib"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert finished.returncode in (2, 3)
    assert "does not exist: give" in finished.stderr
    for word in ("pod", "ConfigMap", "spec.", "--data"):
        assert word not in finished.stderr


@pytest.mark.attack(held=True)
def test_no_malicious_file_takes_much_memory() -> None:
    code = """
import resource
import tempfile
from pathlib import Path
from mlmodel_server.errors import RefusedModel
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from tests.unit.server.loading import malicious
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with tempfile.TemporaryDirectory() as folder:
    for artefact in malicious.ALL:
        files = artefact.make(Path(folder) / "ran")
        try:
            load(Memory(files, next(iter(files)))).opened
        except RefusedModel:
            continue
        raise SystemExit(artefact.name)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120,
                            cwd=Path(__file__).parents[3])  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 200, "MiB"
