"""The recording of the demo, and the picture of a recording."""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hack import picture, recording
from hack.recording import Mark, Recording, Sample
from hack.traffic import Totals

SVG = "{http://www.w3.org/2000/svg}"


def invented() -> Recording:
    """Return a run like the demo's: v2 is promoted in four steps, v3 is rolled back after seven failures."""
    random.seed(7)
    plan = [
        (0, "Preparing", 0, "v2"),
        (7, "Canary", 5, "v2"),
        (24, "Canary", 25, "v2"),
        (36, "Canary", 50, "v2"),
        (48, "Promoting", 50, "v2"),
        (51, "Baking", 100, "v2"),
        (111, "Draining", 0, None),
        (121, "Stable", 0, None),
        (123, "Preparing", 0, "v3"),
        (129, "Canary", 5, "v3"),
        (134, "Draining", 0, None),
        (145, "Stable", 0, None),
    ]
    counts = {"v1": 0, "v2": 0, "v3": 0}
    fallbacks, samples = 0, []
    for tick in range(600):
        seconds = tick / 4
        start, phase, weight, candidate = next(entry for entry in reversed(plan) if entry[0] <= seconds)
        stable = "v1" if seconds < 111 else "v2"
        for _ in range(25):
            drawn = candidate if candidate and random.random() < weight / 100 else stable
            if drawn == "v3" and random.random() < 0.4 and fallbacks < 7:
                drawn, fallbacks = "v2", fallbacks + 1
            counts[drawn] += 1
        written = (seconds - 7) // 10 * 10
        known = candidate and phase in ("Canary", "Promoting", "Baking") and seconds - start > 0.5
        samples.append(
            Sample(seconds, phase, weight, stable, candidate, seconds - 0.1, dict(counts), 0, fallbacks,
                   round(0.9**written, 3) if known and candidate == "v2" else (1.0 if known else None),
                   round(max(0.7, 300 / (5 * written)), 2) if known and written >= 10 else None)
        )  # fmt: skip
    marks = (Mark(0, "v2 is applied"), Mark(51, "v2 has all requests"), Mark(123, "v3 is applied"),
             Mark(134, "v3 is rolled back"), Mark(140, "v4 is applied"), Mark(143, "v4 is rejected"))  # fmt: skip
    return Recording(tuple(samples), marks)


def parsed(text: str) -> ElementTree.Element:
    """Return the picture as XML."""
    return ElementTree.fromstring(text)


def of(root: ElementTree.Element, tag: str, kind: str) -> list[ElementTree.Element]:
    """Return the elements of one tag whose class contains this word."""
    return [found for found in root.iter(SVG + tag) if kind in (found.get("class") or "").split()]


def test_a_sample_has_the_fields_of_status_and_totals() -> None:
    status = {
        "phase": "Canary",
        "stable": {"version": "v1"},
        "candidate": {"version": "v2", "weight": 5, "evidence": {"against": 12.5, "certifiedPercent": 3.9}},
    }
    seen = Totals(sent=120, ok=119, failed=1, fallbacks=3, versions={"v1": 110, "v2": 9})
    assert recording.sample(4.0, status, seen, 0.25) == Sample(
        4.0, "Canary", 5, "v1", "v2", 3.75, {"v1": 110, "v2": 9}, 1, 3, 12.5, 3.9
    )


def test_without_a_candidate_there_is_no_weight_and_no_evidence() -> None:
    found = recording.sample(4.0, {"phase": "Stable", "stable": {"version": "v1"}}, Totals())
    assert (found.weight, found.candidate, found.against, found.certified) == (0, None, None, None)
    assert recording.sample(4.0, {}, Totals()).phase == ""


def test_a_recording_can_be_read(tmp_path: Path) -> None:
    with recording.Recorder(tmp_path / "out" / "demo.jsonl") as recorder:
        recorder.mark("v2 is applied")
        recorder.sample({"phase": "Preparing", "stable": {"version": "v1"}}, Totals(sent=5, versions={"v1": 5}))
    found = recording.read((tmp_path / "out" / "demo.jsonl").read_text().splitlines())
    assert [mark.text for mark in found.marks] == ["v2 is applied"]
    assert [(one.phase, one.stable, one.requests) for one in found.samples] == [("Preparing", "v1", {"v1": 5})]


def test_rates_use_the_times_of_the_counts() -> None:
    """Several samples have the same counts, and counts are older than their sample."""
    samples = [
        Sample(seconds, counted=counted, requests={"v1": count})
        for seconds, counted, count in ((0.3, 0, 0), (0.6, 0, 0), (0.9, 0.5, 50), (1.2, 1.0, 100), (1.5, 1.5, 200))
    ]
    assert picture.rates(samples, "v1", 0.5) == [(0.5, 100.0), (1.0, 100.0), (1.5, 200.0)]
    assert picture.rates(samples, "v1", 1.0) == [(1.0, 100.0)]
    assert picture.rates(samples[:1], "v1", 1.0) == []


def test_a_run_of_equal_values_ends_where_the_next_begins() -> None:
    samples = [Sample(at, phase) for at, phase in ((0.0, "Canary"), (1.0, "Canary"), (2.0, "Baking"), (3.0, "Baking"))]
    assert list(picture.runs(samples, lambda one: one.phase)) == [(0.0, 2.0, "Canary"), (2.0, 3.0, "Baking")]


@pytest.mark.parametrize(("highest", "count", "step"), [(100, 5, 20), (7, 4, 2), (151, 10, 20), (0.9, 3, 0.5)])
def test_steps_of_an_axis_are_round(highest: float, count: int, step: float) -> None:
    assert picture.round_step(highest, count) == pytest.approx(step)


def test_labels_of_a_row_do_not_overlap() -> None:
    x = picture.linear(0, 150, picture.LEFT, picture.WIDTH - picture.RIGHT)
    marks = [Mark(at, "something happened") for at in (0, 3, 6, 60, 149, 150)]
    rows = picture.rows_of(marks, x)
    assert rows[0] != rows[1] != rows[2] != rows[0]
    assert rows[3] == 0
    for row in set(rows):
        places = [picture.placed(mark, x) for mark, found in zip(marks, rows, strict=True) if found == row]
        assert all(left + width < after for (left, width), (after, _) in pairwise(places))
        assert all(left + width <= picture.WIDTH for left, width in places)


def test_the_weight_of_the_candidate_is_drawn_to_scale() -> None:
    root = parsed(picture.draw(invented()))
    boxes = {round(float(found.get("height", 0)), 1) for kind in ("c1", "c2") for found in of(root, "rect", kind)}
    assert {4.5, 22.5, 45.0, 90.0} <= boxes  # 5, 25, 50 and 100 % of 90 pixels


def test_totals_axes_and_events_have_labels() -> None:
    text = picture.draw(invented())
    assert "failed by the candidate, retried on stable: 7<" in text
    assert "failed for the client: 0<" in text
    for words in ("Requests answered per second", "share of the requests, %", "at 1,000 it is rolled back", ">seconds<",
                  "v3 is rolled back", ">Baking<", "prefers-color-scheme: dark"):  # fmt: skip
        assert words in text, words


def test_no_line_is_drawn_where_evidence_is_missing() -> None:
    samples = [Sample(float(at), candidate="v2", against=5.0 if at in (2, 3) else None) for at in range(6)]
    root = parsed(picture.draw(Recording(tuple(samples), ())))
    (found,) = of(root, "path", "evidence")
    x = picture.linear(0, 5, picture.LEFT, picture.WIDTH - picture.RIGHT)
    assert re.findall(r"[ML]([\d.]+) ", found.get("d", "")) == [f"{x(2):.1f}", f"{x(4):.1f}"]


def test_values_that_are_off_the_scale_stay_in_the_picture() -> None:
    samples = [Sample(float(at), candidate="v2", against=value) for at, value in enumerate((0.0, 1e9, 1e9))]
    root = parsed(picture.draw(Recording(tuple(samples), ())))
    height = float(root.get("height", 0))
    assert all(0 < float(dot.get("cy", 0)) < height for dot in of(root, "circle", "dot"))


def test_names_of_versions_are_escaped() -> None:
    samples = [Sample(float(at), "Canary", 50, "v<1>", "v&2", requests={"v<1>": at}) for at in range(3)]
    root = parsed(picture.draw(Recording(tuple(samples), (Mark(1, "<v2>"),))))
    assert "v<1>" in [found.text for found in root.iter(SVG + "text")]


def test_the_command_draws_a_file_and_rejects_one_that_is_not_a_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = invented()
    lines = [json.dumps(asdict(mark)) for mark in run.marks] + [json.dumps(asdict(one)) for one in run.samples]
    (tmp_path / "run.jsonl").write_text("\n".join(lines))
    assert picture.main([str(tmp_path / "run.jsonl"), str(tmp_path / "run.svg")]) == 0
    assert parsed((tmp_path / "run.svg").read_text()).tag == SVG + "svg"
    (tmp_path / "empty.jsonl").write_text("")
    assert picture.main([str(tmp_path / "empty.jsonl"), str(tmp_path / "no.svg")]) == 1
    assert "make demo" in capsys.readouterr().err
