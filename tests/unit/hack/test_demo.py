"""The demo records what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hack import demo, recording
from hack.demo import Demo, Screen
from hack.recording import Recorder
from hack.traffic import Totals


class Model:
    """A model that returns the next status of a list on each call."""

    def __init__(self, *statuses: dict[str, Any]) -> None:
        self.statuses, self.applied = list(statuses), ""

    def apply(self, version: str, *, rollout: object = None) -> None:
        self.applied = version

    def status(self) -> dict[str, Any]:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


class Clients:
    """Clients that send ten more requests between two looks at their totals."""

    def __init__(self) -> None:
        self.sent = 0

    @property
    def now(self) -> Totals:
        self.sent += 10
        return Totals(sent=self.sent, versions={"v1": self.sent})

    def wait_for_requests(self, _requests: int) -> Totals:
        return self.now


def status(phase: str, weight: int) -> dict[str, Any]:
    """Return the status of a rollout of v2."""
    return {"phase": phase, "stable": {"version": "v1"}, "candidate": {"version": "v2", "weight": weight}}


@pytest.fixture
def roll_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Roll out v2 until the phase is Stable; return its row and its recording."""
    monkeypatch.setattr(demo.time, "sleep", lambda _: None)  # type: ignore[attr-defined]

    def run(*statuses: dict[str, Any], seconds: float = 60.0) -> tuple[demo.Row, recording.Recording]:
        path = tmp_path / "demo.jsonl"
        with Recorder(path) as recorder:
            tested = Demo(Model(*statuses), Clients(), Screen(), recorder)  # type: ignore[arg-type]
            tested.roll_out(
                "v2", "v2 is better", "promoted", lambda now: "promoted" * (now["phase"] == "Stable"), seconds
            )
        return tested.rows[0], recording.read(path.read_text().splitlines())

    return run


def test_each_status_is_recorded_as_a_sample_and_each_outcome_as_a_mark(roll_out: Any) -> None:
    row, found = roll_out(
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


def test_a_rollout_without_an_outcome_is_a_timeout(roll_out: Any) -> None:
    row, found = roll_out(status("Canary", 5), seconds=0.0)
    assert row.outcome == "timeout"
    assert not row.is_expected
    assert found.marks[-1].text == "v2 timeout"
