"""Virtual environments of other people's programs, kept between runs: peers of the benchmarks, clients of the tests."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from hack.cluster import paths
from hack.cluster.report import say
from hack.cluster.shell import locked, run


def venv(name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of a virtual environment that holds exactly these requirements, made now if it isn't there.

    Environments lie beside the cluster's caches, one per name, requirements and Python; the scripts of what was
    installed (such as ``mlserver``) are in the folder of the returned path.

    Raises:
        ClusterError: pip couldn't install them; with the end of what it said.
    """
    folder = paths.cache() / "venvs" / f"{name}-{key(requirements, sys.version)}"
    python, done = folder / "bin" / "python", folder / "requirements.txt"
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not done.exists():
            say(f"Installing {' '.join(requirements)} ({name})")
            shutil.rmtree(folder, ignore_errors=True)  # of one that was interrupted
            run([sys.executable, "-m", "venv", folder], what=f"Making the environment of {name}")
            run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements],
                what=f"Installing {name}")  # fmt: skip
            done.write_text("".join(f"{line}\n" for line in requirements))
    return python


def key(requirements: Sequence[str], version: str) -> str:
    """Return the part of the folder's name that changes when the requirements or the Python do."""
    return hashlib.sha256("\0".join([version, *requirements]).encode()).hexdigest()[:12]
