"""The operator without its libraries says what to install, instead of a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("missing", ["kopf", "aiohttp", "kubernetes"])
def test_a_missing_library_is_named_with_the_command_that_installs_it(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; import mlmodel_operator.__main__"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert finished.stderr == (
        f"mlmodel-operator: the Python package {missing} is not installed: in a clone of the project, run "
        "pip install '.[operator]'\n"
    )
