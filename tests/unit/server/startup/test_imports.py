"""What a process has loaded, and when: libraries that must come after a decision or after the fork."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "later"),
    [
        ("startup.run", "numpy"),  # BLAS and OpenMP read their number of threads when they are loaded
        ("startup.server", "grpc"),  # its threads do not survive a fork
    ],
)
def test_a_module_does_not_load_what_must_come_later(module: str, later: str) -> None:
    program = f"import sys, mlmodel_server.{module}; sys.exit({later!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
