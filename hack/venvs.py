"""Virtual environments of third-party programs, cached between runs: peers of the benchmarks, clients of the tests."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from hack.cluster import paths
from hack.cluster.report import progress
from hack.cluster.shell import locked, run


def venv(name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of a virtual environment with exactly these requirements; create it if it does not exist.

    The cache has one environment for each name, set of requirements and version of Python. Installed scripts (such as
    ``mlserver``) are in the folder of the returned path.

    Raises:
        ClusterError: pip failed; with the end of its output.
    """
    folder = paths.cache() / "venvs" / f"{name}-{key(requirements, sys.version)}"
    python, done = folder / "bin" / "python", folder / "requirements.txt"
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not done.exists():
            progress(f"Installing {' '.join(requirements)} ({name})")
            shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted installation
            run([sys.executable, "-m", "venv", folder], what=f"Creating the virtual environment of {name}")
            run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements],
                what=f"Installing {name}")  # fmt: skip
            done.write_text("".join(f"{line}\n" for line in requirements))
    return python


def key(requirements: Sequence[str], version: str) -> str:
    """Return the part of the folder's name that depends on the requirements and the version of Python."""
    return hashlib.sha256("\0".join([version, *requirements]).encode()).hexdigest()[:12]
