"""The demo writes down what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hack import demo, recording
from hack.demo import Demo, Screen
from hack.recording import Recorder
from hack.traffic import Second


class Model:
    """A model whose status is the next of a list at each look."""

    def __init__(self, *statuses: dict[str, Any]) -> None:
        self.statuses, self.applied = list(statuses), ""

    def apply(self, version: str) -> None:
        self.applied = version

    def status(self) -> dict[str, Any]:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


class Users:
    """Users to whom ten more requests are answered at each look."""

    def __init__(self) -> None:
        self.sent = 0

    @property
    def now(self) -> Second:
        self.sent += 10
        return Second(sent=self.sent, versions={"v1": self.sent})

    def more(self, _requests: int) -> Second:
        return self.now


def status(phase: str, weight: int) -> dict[str, Any]:
    """The status of a rollout of v2."""
    return {"phase": phase, "stable": {"version": "v1"}, "candidate": {"version": "v2", "weight": weight}}


@pytest.fixture
def chapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Play a chapter that ends with the phase Stable; return its row and its recording."""
    monkeypatch.setattr(demo.time, "sleep", lambda _: None)  # type: ignore[attr-defined]

    def play(*statuses: dict[str, Any], seconds: float = 60.0) -> tuple[demo.Row, recording.Recording]:
        path = tmp_path / "demo.jsonl"
        with Recorder(path) as recorder:
            played = Demo(Model(*statuses), Users(), Screen(), recorder)  # type: ignore[arg-type]
            played.chapter(
                "v2", "v2 is better", "promoted", lambda now: "promoted" * (now["phase"] == "Stable"), seconds
            )
        return played.rows[0], recording.read(path.read_text().splitlines())

    return play


def test_each_look_is_a_sample_and_each_end_of_a_chapter_a_mark(chapter: Any) -> None:
    row, found = chapter(
        {}, status("Canary", 5), status("Canary", 25), {"phase": "Stable", "stable": {"version": "v2"}}
    )
    assert (row.version, row.outcome) == ("v2", "promoted")
    assert [mark.text for mark in found.marks] == ["v2 applied", "v2 promoted"]
    assert [(one.phase, one.weight, one.candidate) for one in found.samples] == [
        ("", 0, None),
        ("Canary", 5, "v2"),
        ("Canary", 25, "v2"),
        ("Stable", 0, None),
    ]
    sent = [one.requests["v1"] for one in found.samples]
    assert sent == sorted(set(sent))


def test_a_chapter_that_does_not_end_is_a_timeout(chapter: Any) -> None:
    row, found = chapter(status("Canary", 5), seconds=0.0)
    assert row.outcome == "timeout"
    assert not row.as_expected
    assert found.marks[-1].text == "v2 timeout"
