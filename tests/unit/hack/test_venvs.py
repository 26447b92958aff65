"""Environments are made once, and anew when an installation was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from hack import venvs


def test_made_once_per_requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Sequence[str | Path]] = []

    def run(argv: Sequence[str | Path], *, what: str) -> str:
        said.append(argv)
        if "venv" in argv:
            Path(argv[-1]).mkdir(parents=True)
        elif "broken" in argv:
            raise RuntimeError("pip failed")
        return ""

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(venvs, "run", run)
    first = venvs.venv("peer", ["one==1"])
    assert venvs.venv("peer", ["one==1"]) == first
    assert len(said) == 2  # the environment, then pip
    assert venvs.venv("peer", ["one==2"]) != first
    for _ in range(2):
        with pytest.raises(RuntimeError):
            venvs.venv("peer", ["broken"])
    assert len(said) == 8  # what failed is tried again
