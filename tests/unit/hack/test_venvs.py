"""A virtual environment is created once, and again after a failed installation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from hack import venvs


def test_an_environment_is_created_once_for_each_set_of_requirements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[Sequence[str | Path]] = []

    def run(argv: Sequence[str | Path], *, what: str) -> str:
        commands.append(argv)
        if "venv" in argv:
            Path(argv[-1]).mkdir(parents=True)
        elif "broken" in argv:
            raise RuntimeError("pip failed")
        return ""

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(venvs, "run", run)
    first = venvs.venv("peer", ["one==1"])
    assert venvs.venv("peer", ["one==1"]) == first
    assert len(commands) == 2  # venv, then pip
    assert venvs.venv("peer", ["one==2"]) != first
    for _ in range(2):
        with pytest.raises(RuntimeError):
            venvs.venv("peer", ["broken"])
    assert len(commands) == 8  # a failed installation is tried again
