"""Tools for developers: the throwaway Kubernetes, the demo, the checks, and code that demo, bench and tests share."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The root directory of the checkout."""


def tracked(*patterns: str) -> list[Path]:
    """Return the files of the checkout that match these Git patterns (default: all), without ignored files."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # A file that was deleted but not yet committed is still listed.
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
