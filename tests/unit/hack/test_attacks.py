"""The attack cases: found without an import, and a case that did not run does not hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack import attacks
from hack.attacks import SECURITY, Case, cases, page, problems, table, verdict

FILE = '''"""Doors: they are closed."""
import pytest

OTHER = pytest.mark.simulation


@pytest.mark.attack
@pytest.mark.parametrize("door", ["front", "back"])
def test_a_stranger_opens_no_door(door: str) -> None: ...


@pytest.mark.attack(held=True)
async def test_a_window_is_closed() -> None: ...


@pytest.mark.simulation
def test_a_guest_is_let_in() -> None: ...
'''
WHOLE = '''"""Walls"""
import pytest

pytestmark = [pytest.mark.simulation, pytest.mark.attack(held=True)]


def test_a_wall_stands() -> None: ...
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "unit").mkdir()
    (tmp_path / "unit" / "test_doors.py").write_text(FILE)
    (tmp_path / "test_walls.py").write_text(WHOLE)
    (tmp_path / "test_other.py").write_text("def test_it() -> None: ...\n")
    return tmp_path


def test_the_cases_are_the_tests_with_the_mark(folder: Path) -> None:
    assert cases(folder) == [
        Case("test_walls.py", "test_a_wall_stands", True, "Walls"),
        Case("unit/test_doors.py", "test_a_stranger_opens_no_door", False, "Doors"),
        Case("unit/test_doors.py", "test_a_window_is_closed", True, "Doors"),
    ]
    text = page(cases(folder))
    assert "## Doors\n\n`tests/unit/test_doors.py`\n\n| case | held before |" in text
    assert "| a stranger opens no door | no |\n| a window is closed | yes |" in text


def test_a_case_holds_if_every_variant_passed() -> None:
    assert verdict(["passed", "passed"]) == "yes"
    assert verdict(["passed", "skipped"]) == "yes"
    assert verdict(["passed", "failed"]) == "no"
    assert verdict(["skipped"]) == verdict([]) == verdict(["xfailed"]) == "not run"
    case = Case("unit/test_doors.py", "test_a_window_is_closed", True, "Doors")
    assert table({case.key: ["passed"]}, [case]) == ["yes         1  yes  a window is closed  [unit/test_doors.py]"]


def test_each_promise_names_a_test_that_exists(folder: Path) -> None:
    head = "## Attackers, promises and limits\n\n| promised | by | test |\n|---|---|---|\n"
    good = (
        head
        + "| doors stay closed | locks | `unit/test_doors.py::test_a_stranger_opens_no_door` |\n"
        + "## Known gaps\n| a | b |\n"
    )
    assert problems(good, cases(folder)) == []
    gone = good.replace("stranger_opens", "stranger_breaks")
    assert problems(gone, cases(folder)) == [
        "SECURITY.md names unit/test_doors.py::test_a_stranger_breaks_no_door, which is not a test with the mark attack"
    ]
    none = good.replace("`", "")
    assert problems(none, cases(folder)) == ["SECURITY.md names no test of: doors stay closed"]


def test_security_names_a_test_of_each_promise() -> None:
    known = cases()
    assert problems(SECURITY.read_text("utf-8"), known) == []
    assert len(attacks.named(SECURITY.read_text("utf-8"))) > 40
