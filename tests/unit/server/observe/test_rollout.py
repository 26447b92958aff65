"""Labels of a rollout: what counts, by which weight, and what the operator reads of it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest

from mlmodel_server.observe.cells import Identity
from mlmodel_server.observe.feedback import Feedback
from mlmodel_server.observe.figures import Figures
from mlmodel_server.observe.ids import MAX_ROWS, PredictionIds, key_of
from mlmodel_server.observe.rollout import BINS, RolloutLabels, bin_of, hash_of, mark_of, tag_of
from mlmodel_server.rehearsal.process import Pages
from tests.unit.server.observe.test_metrics import in_child

STABLE, CANDIDATE = "5f1c2e9a", "77b0d1c4"
NOW = 1_800_000_000.0


def drawn(weight: int = 25, side: str = "candidate", candidate: str = CANDIDATE) -> bytes:
    return f"{weight} {candidate} {side}".encode()


@dataclass
class Pods:
    """A pod of each revision, which creates ids; the labels go to the pod of ``to``."""

    monkeypatch: pytest.MonkeyPatch
    classes: tuple[str, ...] = ("no", "yes")
    to: str = STABLE
    slots: int = 1
    now: float = NOW
    ids: dict[str, PredictionIds] = field(default_factory=dict)

    def __post_init__(self) -> None:
        task = "classification" if self.classes else "regression"
        for revision in (STABLE, CANDIDATE, "00000000"):
            identity = Identity("fraud", "v", revision)
            self.ids[revision] = PredictionIds(key_of("fraud"), identity, task, self.classes)
            self.ids[revision].start()
        self.labels = RolloutLabels(self.to, self.slots)
        identity = Identity("fraud", "v", self.to)
        self.feedback = Feedback(
            self.ids[self.to], identity, self.slots, self.classes, lambda: self.now, rollout=self.labels
        )
        self.feedback.start()

    def make(self, revision: str, header: bytes, *predictions: Any, made: float | None = None) -> str:
        self.monkeypatch.setattr("time.time_ns", lambda: int((self.now if made is None else made) * 1e9))
        ids = self.ids[revision]
        found = ids.make(np.array(predictions), ids.mark(header))
        assert found is not None
        return found

    def post(self, prediction_id: str, *labels: Any) -> None:
        self.feedback.post(json.dumps({"prediction_id": prediction_id, "labels": labels}).encode())

    def label(self, revision: str, header: bytes, predicted: Any, label: Any, made: float | None = None) -> None:
        self.post(self.make(revision, header, predicted, made=made), label)

    def weights(self, most: int = 0) -> dict[str, Any]:
        return dict(self.labels.page(most)["weights"])


def test_both_sides_are_counted_by_the_weight_of_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods(monkeypatch)
    for weight, right in ((5, True), (5, False), (25, True)):
        pods.label(CANDIDATE, drawn(weight), "yes", "yes" if right else "no")
    pods.label(STABLE, drawn(5, "stable"), "yes", "yes")
    assert pods.weights() == {"5": ((1, 1), (2, 1)), "25": ((0, 0), (1, 1))}
    page = pods.labels.page()
    assert (page["revision"], page["tag"], page["other"]) == (STABLE, tag_of(CANDIDATE), hash_of(CANDIDATE))
    assert page["kind"] == "classes"
    pods = Pods(monkeypatch, to=CANDIDATE)
    pods.label(CANDIDATE, drawn(5), "yes", "yes")
    pods.label(STABLE, drawn(5, "stable"), "yes", "no")
    assert pods.weights() == {"5": ((1, 1), (1, 0))}
    assert pods.labels.page()["other"] == hash_of(STABLE)


@pytest.mark.parametrize(
    ("revision", "header"),
    [
        (STABLE, b""),
        (CANDIDATE, b""),
        (STABLE, drawn(25, "candidate")),
        (CANDIDATE, drawn(25, "stable")),
        (CANDIDATE, drawn(100)),
        (CANDIDATE, b"0 77b0d1c4 candidate"),
        (CANDIDATE, b"25 77b0d1c4 candidate "),
        (CANDIDATE, b"25, 77b0d1c4 candidate"),
        (CANDIDATE, "٥ 77b0d1c4 candidate".encode()),
        ("00000000", drawn(25, "stable")),
        ("00000000", drawn(25, "candidate", "00000000")),
    ],
    ids=[
        "not drawn", "chosen", "retried on stable", "wrong side", "all requests", "weight 0", "space", "list", "digits",
        "a third revision", "another rollout",
    ],
)  # fmt: skip
@pytest.mark.attack
def test_what_was_not_drawn_for_this_side_does_not_count(
    revision: str, header: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = Pods(monkeypatch)
    pods.label(CANDIDATE, drawn(5), "yes", "yes")
    pods.label(revision, header, "yes", "yes", made=NOW - 1.0)
    assert pods.weights() == {"5": ((0, 0), (1, 1))}
    pods = Pods(monkeypatch, to=CANDIDATE)
    pods.label(STABLE, drawn(5, "stable"), "yes", "yes")
    pods.label(revision, header, "yes", "yes", made=NOW - 1.0)
    assert pods.weights() == {"5": ((0, 0), (1, 1))}


def test_the_rollout_of_the_newest_prediction_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods(monkeypatch)
    late = pods.make(CANDIDATE, drawn(25), "yes", made=NOW - 300)
    former = [pods.make(STABLE, drawn(25, "stable", "0badc0de"), "yes", made=NOW - when) for when in (100, 20)]
    present = pods.make(STABLE, drawn(25, "stable"), "yes", made=NOW - 10)
    pods.post(former[0], "yes")
    first = pods.labels.page()["boot"]
    pods.post(present, "yes")
    pods.post(former[1], "no")
    assert pods.weights() == {"25": ((1, 1), (0, 0))}, "a label of an earlier rollout that came late"
    assert pods.labels.page()["boot"] != first
    assert len(first) == 16
    pods.post(late, "no")
    assert pods.weights() == {"25": ((1, 1), (1, 0))}, "a late label of this one"


def test_one_row_of_a_request_counts_which_nobody_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods(monkeypatch)
    for number in range(300):
        pods.now = NOW + number
        made = pods.make(CANDIDATE, drawn(), *["yes"] * MAX_ROWS)
        pods.post(made, *["yes"] * (MAX_ROWS // 2), *["no"] * (MAX_ROWS // 2))
    (_, (labels, right)) = pods.weights()["25"]
    assert labels == 300
    assert 100 < right < 200


def test_an_id_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods(monkeypatch)
    made = pods.make(CANDIDATE, drawn(), "yes")
    pods.post(made, "yes")
    pods.post(made, "no")
    assert pods.weights() == {"25": ((0, 0), (1, 1))}


def test_numbers_are_right_within_a_tolerance_of_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods(monkeypatch, classes=())
    for error in (0.0, 0.3, 0.5, 0.7, 100.0):
        pods.label(CANDIDATE, drawn(), 1.0 + error, 1.0)
        pods.label(STABLE, drawn(25, "stable"), 1.0 - error, 1.0)
    assert pods.labels.page()["kind"] == "numbers"
    assert pods.weights(bin_of(0.5)) == {"25": ((5, 3), (5, 3))}
    assert pods.weights(bin_of(1.0)) == {"25": ((5, 4), (5, 4))}
    assert pods.weights(BINS - 2) == {"25": ((5, 5), (5, 5))}


@pytest.mark.parametrize("value", [1e-9, 0.01, 0.5, 1.0, 3.7, 1e9])
def test_a_bin_has_what_is_at_most_its_bound(value: float) -> None:
    assert bin_of(value) == bin_of(-value)
    bound = 10 ** (bin_of(value) / 40 - 9)
    assert value <= bound * (1 + 1e-12) <= value * 10 ** (1 / 40) * (1 + 1e-9)


def test_extreme_numbers_are_wrong() -> None:
    assert bin_of(0.0) == bin_of(1e-30) == 0
    assert bin_of(math.inf) == bin_of(math.nan) == bin_of(1e300) == BINS - 1


def test_workers_share_the_rollout_and_their_counts_outlive_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods(monkeypatch, slots=2)

    def work(slot: int, candidate: str, made: float) -> None:
        pods.feedback.start(slot)
        for _ in range(10):
            pods.label(STABLE, drawn(25, "stable", candidate), "yes", "yes", made=made)
            made += 0.01

    boot = pods.labels.page()["boot"]
    in_child(lambda: work(0, "0badc0de", NOW - 10))
    in_child(lambda: work(1, "0badc0de", NOW - 5))
    assert pods.weights() == {"25": ((20, 20), (0, 0))}
    in_child(lambda: work(1, CANDIDATE, NOW))
    assert pods.weights() == {"25": ((10, 10), (0, 0))}, "what the other worker has is of an earlier rollout"
    in_child(lambda: work(0, CANDIDATE, NOW + 1))
    page = pods.labels.page()
    assert page["weights"] == {"25": ((20, 20), (0, 0))}
    assert page["boot"][:12] == boot[:12]


def test_marks_are_read_from_few_values_and_bounded() -> None:
    ids = PredictionIds(key_of("fraud"), Identity("fraud", "v", STABLE), "regression")
    marks = {ids.mark(drawn(weight, "stable")) for weight in range(1, 100)}
    assert marks == {mark_of(drawn(weight, "stable"), STABLE) for weight in range(1, 100)}
    assert len(marks) == 99
    assert all(0 < mark < 1 << 16 for mark in marks)
    assert len(ids._marks) <= 64


def test_two_predictions_in_one_moment_have_different_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods(monkeypatch)
    assert len({pods.make(STABLE, b"", "yes") for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "path", [b"/labels", b"/labels/", b"/labels/-1", b"/labels/720", b"/labels/1000", b"/labels/1/", b"/labels/a", b"/"]
)
def test_other_paths_are_not_found(path: bytes) -> None:
    assert Pages(RolloutLabels(STABLE), Figures(STABLE), None)(path) is None


def test_a_page_of_all_weights_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods(monkeypatch)
    for weight in range(1, 100):
        pods.label(CANDIDATE, drawn(weight), "yes", "yes")
    content = Pages(pods.labels, Figures(STABLE), None)(b"/labels/0")
    assert content is not None
    assert len(content) < 4096
    assert set(msgspec.json.decode(content)) == {"boot", "revision", "tag", "other", "kind", "weights"}
    assert b"yes" not in content
