"""Libraries that must be imported late: after the CPU limit is shared, or after the fork."""

from __future__ import annotations

import subprocess
import sys

import pytest


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
