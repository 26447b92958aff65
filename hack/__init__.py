"""Tools for developers: the throwaway Kubernetes, the demo, checks, and what demo, benchmarks and tests share."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""


def tracked(*patterns: str) -> list[Path]:
    """Return the files of the checkout that match git's patterns (all without one), ignored files aside."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # A file that was deleted but not yet committed is still listed.
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
