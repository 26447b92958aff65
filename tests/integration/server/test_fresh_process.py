"""What a fresh process refuses and takes: a path that does not exist, the memory of hostile files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


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
