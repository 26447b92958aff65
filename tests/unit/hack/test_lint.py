"""The linters of other languages than Python: which files they check, and which file their findings name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hack import lint


@pytest.mark.parametrize(
    ("first", "is_shell"),
    [
        ("#!/bin/sh", True),
        ("#!/usr/bin/env bash", True),
        ("#!/usr/bin/env python3", False),
        ("# Run it with sh", False),
    ],
)
def test_a_shell_script_names_a_shell_in_its_first_line(tmp_path: Path, first: str, is_shell: bool) -> None:
    script = tmp_path / "run"
    script.write_text(f"{first}\necho '#!/bin/sh'\n")
    assert lint.is_shell(script) is is_shell


def test_the_scripts_of_the_page_are_linted_together_and_a_finding_names_its_script(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "index.html").write_text('<script src="b.js"></script>\n<script src="a.js"></script>')
    (tmp_path / "b.js").write_text("const shared = 1;\nconst unused = 2;\n")
    (tmp_path / "a.js").write_text("console.log(shared);\nconsole.log(absent);\n")
    assert lint.javascript(tmp_path) != 0
    out = capfd.readouterr().out
    assert "b.js:2:7: Variable 'unused'" in out
    assert "a.js:2:13: 'absent' is not defined" in out
    assert "shared" not in out


def test_without_luacheck_a_line_reports_what_is_skipped_and_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert lint.lua(install=False) == 0
    assert "Lua is not linted, luacheck is missing: apt-get install lua-check" in capsys.readouterr().out
