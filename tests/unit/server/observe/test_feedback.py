"""Feedback: an id is sufficient to score a prediction, and changes of an id are detected."""

from __future__ import annotations

import base64
import json
import struct
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmodel_server.errors import RequestError
from mlmodel_server.observe.cells import Identity
from mlmodel_server.observe.feedback import MAX_IDS, MAX_LABELS, REVISIONS, Cell, Feedback
from mlmodel_server.observe.ids import MAX_ROWS, PredictionIds, key_of
from mlmodel_server.observe.reports import Scored
from mlmodel_server.package.scores import scores
from tests.unit.server.models import SEED
from tests.unit.server.observe.test_metrics import in_child, samples

IDENTITY = Identity("tumour", "v2", "3f9c2a1b")
BINARY = ("benign", "malignant")
SECRET = b"0123456789abcdef" * 2


class Pod:
    """One pod of the model: it predicts and receives feedback."""

    def __init__(
        self, classes: tuple[str, ...] = BINARY, version: str = "v2", revision: str = "3f9c2a1b", *, slots: int = 1,
        model: str = "tumour", secret: bytes = b"", clock: Any = time.time,
    ) -> None:  # fmt: skip
        identity = Identity(model, version, revision)
        task = "classification" if classes else "regression"
        self.ids = PredictionIds(key_of(model, secret), identity, task, classes)
        self.ids.start()
        self.feedback = Feedback(self.ids, identity, slots, classes, clock)
        self.feedback.start()

    def predict(self, *predictions: Any) -> str:
        made = self.ids.make(np.array(predictions))
        assert made is not None
        return made

    def post(self, prediction_id: str, *labels: Any) -> Scored:
        return self.feedback.post(json.dumps({"prediction_id": prediction_id, "labels": labels}).encode())

    def exported(self, **labels: str) -> dict[str, float]:
        return samples(list(self.feedback.collect()), **labels)


def test_a_label_scores_its_prediction() -> None:
    pod = Pod()
    body = {"prediction_id": pod.predict("malignant"), "label": "benign"}
    assert pod.feedback.post(json.dumps(body).encode()) == {"scored": 1, "duplicates": 0, "unknown": 0}
    seen = pod.exported(version="v2", revision="3f9c2a1b")
    assert seen["mlmodel_feedback_total benign malignant"] == 1
    assert seen["mlmodel_feedback_total malignant malignant"] == 0
    assert (seen["mlmodel_feedback_labels_total"], seen["mlmodel_feedback_correct_total"]) == (1, 0)
    assert seen["mlmodel_accuracy"] == 0


def test_an_id_is_short_fits_into_a_header_and_has_no_input() -> None:
    pod = Pod()
    made = pod.predict("malignant")
    assert len(made) == 50
    assert set(made) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert made != pod.predict("malignant"), "two requests with the same prediction have different ids"
    assert len(pod.predict(*["benign"] * MAX_ROWS)) < 400
    assert len(Pod(()).predict(*[0.5] * MAX_ROWS)) < 800


@pytest.mark.parametrize("count", [1, 2, 3, 17, MAX_ROWS])
def test_several_rows_are_scored_in_their_order(count: int) -> None:
    pod = Pod(("a", "b", "c"))
    predicted = np.resize(["a", "b", "c", "c"], count)
    actual = np.resize(["c", "b", "b", "a", "c"], count)
    assert pod.post(pod.predict(*predicted), *actual)["scored"] == count
    assert pod.exported()["mlmodel_feedback_correct_total"] == (predicted == actual).sum()


@pytest.mark.parametrize("classes", [("no", "yes"), ("a", "b", "c", "d")])
def test_scores_are_those_of_the_package(classes: tuple[str, ...]) -> None:
    random = np.random.default_rng(SEED)
    predicted, actual = random.choice(classes, (2, 60), p=[0.7, 0.3, *[0.0] * (len(classes) - 2)])
    pod = Pod(classes)
    pod.post(pod.predict(*predicted), *actual)
    expected = scores("classification", actual, predicted) if len(classes) == 2 else None  # d never occurs
    if expected is None:  # the package counts the classes that occur; with a third one the score is the mean
        predicted[0] = actual[0] = "c"
        pod = Pod(classes)
        pod.post(pod.predict(*predicted), *actual)
        expected = scores("classification", actual, predicted)
    seen = pod.exported()
    for name in ("accuracy", "precision", "recall", "f1"):
        assert seen[f"mlmodel_{name}"] == pytest.approx(expected[name]), name


def test_a_regressor_is_scored_by_its_errors() -> None:
    random = np.random.default_rng(SEED)
    predicted, actual = random.normal(size=(2, 50))
    pod = Pod(())
    pod.post(pod.predict(*predicted), *actual)
    expected = scores("regression", actual, predicted)
    seen = pod.exported()
    assert seen["mlmodel_mae"] == pytest.approx(expected["mae"], rel=1e-12)
    assert seen["mlmodel_rmse"] == pytest.approx(expected["rmse"], rel=1e-12)
    assert seen["mlmodel_feedback_absolute_error_total"] == pytest.approx(np.abs(predicted - actual).sum())
    assert seen["mlmodel_feedback_squared_error_total"] == pytest.approx(((predicted - actual) ** 2).sum())
    assert "mlmodel_accuracy" not in seen


def test_a_regressor_of_single_precision_is_scored() -> None:
    pod = Pod(())
    made = pod.ids.make(np.array([0.1], np.float32))
    assert made is not None
    pod.post(made, 1)
    assert pod.exported()["mlmodel_mae"] == pytest.approx(1 - float(np.float32(0.1)), rel=1e-12)


@pytest.mark.parametrize(
    ("classes", "predicted", "label"),
    [
        (("0", "1"), np.array([1]), 1),
        (("0", "1"), np.array([1]), "1"),
        (("0", "1"), np.array([1]), 1.0),
        (("0.0", "1.0"), np.array([1.0]), 1),
        (("False", "True"), np.array([True]), True),
        (("False", "True"), np.array([True]), "True"),
        (("no", "yes"), np.array(["yes"], object), "yes"),
    ],
)
def test_a_label_may_have_any_spelling_of_json(classes: tuple[str, ...], predicted: Any, label: Any) -> None:
    pod = Pod(classes)
    made = pod.ids.make(predicted)
    assert made is not None
    pod.post(made, label)
    assert pod.exported()["mlmodel_feedback_correct_total"] == 1


def test_two_workers_never_create_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 1)
    drawn = iter([b"\x00\x01", b"\x00\x02"])
    monkeypatch.setattr("os.urandom", lambda size: next(drawn) if size == 2 else bytes(size))
    assert Pod().predict("benign") != Pod().predict("benign")


def test_predictions_without_labels_get_no_id() -> None:
    identity, key = IDENTITY, key_of("tumour")
    assert PredictionIds(key, identity, "other").make(np.array([1])) is None
    assert PredictionIds(key, identity, "classification").make(np.array([1])) is None
    classes = PredictionIds(key, identity, "classification", ("0", "1"))
    assert classes.make(None) is None
    assert classes.make(np.zeros((1, 2))) is None
    assert classes.make(np.array([], int)) is None
    assert classes.make(np.array([2])) is None, "2 is not a class of the model"
    assert classes.make(np.zeros(MAX_ROWS + 1, int)) is None


def error_of(pod: Pod, body: Any) -> str:
    with pytest.raises(RequestError) as caught:
        pod.feedback.post(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert caught.value.status == 400
    assert not any(value for key, value in pod.exported().items() if "total" in key), "nothing is counted"
    return str(caught.value)


def test_errors_of_feedback() -> None:
    pod, other = Pod(), Pod(model="flowers")
    made, two = pod.predict("benign"), pod.predict("benign", "malignant")
    unknown = (
        "prediction_id was changed, or is not of model tumour with its present feedback key: send it exactly as in the "
        "response"
    )
    malformed = "prediction_id is malformed: send it exactly as in the response"
    for body, text in (
        (b"{", 'the body is not JSON: send {"prediction_id": "...", "label": ...}'),
        (b"\xff", 'the body is not JSON: send {"prediction_id": "...", "label": ...}'),
        ({"label": 1}, "not feedback: prediction_id is missing"),
        ({"prediction_id": made}, "send label for one row, or labels for several"),
        ({"prediction_id": made, "label": "benign", "labels": ["benign"]}, "send label or labels, not both"),
        ({"prediction_id": made, "label": None},
         "not feedback: label must be a boolean, a number or text, not null"),
        ({"prediction_id": made, "actual": 1}, "not feedback: the body has the unknown field 'actual': remove it"),
        ({"prediction_id": two, "label": "benign"}, "1 labels for 2 rows: send one label for each row, in their order"),
        ({"prediction_id": "", "label": "benign"}, unknown),
        ({"prediction_id": "ü", "label": "benign"}, malformed),
        ({"prediction_id": made[:-1], "label": "benign"}, malformed),
        ({"prediction_id": made[:-2], "label": "benign"}, unknown),
        ({"prediction_id": other.predict("benign"), "label": "benign"}, unknown),
        ([], "send 1 to 1000 objects at a time, not 0"),
        ([{"prediction_id": made, "label": "benign"}] * (MAX_IDS + 1), "send 1 to 1000 objects at a time, not 1001"),
        ([{"prediction_id": made, "label": "benign"}, {"prediction_id": "x", "label": 1}], f"[1]: {malformed}"),
    ):  # fmt: skip
        assert error_of(pod, body) == text


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ('"1"', "the label of row 0 must be a number: the model predicts numbers"),
        ("true", "the label of row 0 must be a number: the model predicts numbers"),
        ("[1]", "not feedback: label must be a boolean, a number or text, not an array"),
    ],
)
def test_a_regressor_requires_numbers(label: str, text: str) -> None:
    pod = Pod(())
    assert error_of(pod, f'{{"prediction_id": "{pod.predict(1.0)}", "label": {label}}}'.encode()) == text


BEYOND = "the label of row 0 must be a number from -1e+100 to 1e+100"
NOT_JSON = 'the body is not JSON: send {"prediction_id": "...", "label": ...}'


@pytest.mark.attack
@pytest.mark.parametrize("classes", [(), BINARY], ids=["regressor", "classifier"])
@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("NaN", NOT_JSON),
        ("-Infinity", NOT_JSON),
        ("1e999", "not feedback: label holds a number that is out of range"),
        ("1e101", BEYOND),
        ("-1e308", BEYOND),
        ("9" * 400, BEYOND),
        ("9" * 5000, "not feedback: label holds a number that is out of range"),
        ("[" * 100_000, "not feedback: label must be a boolean, a number or text, not an array"),
        ('{"a":' * 100_000, "not feedback: label must be a boolean, a number or text, not an object"),
    ],
    ids=lambda value: value[:12],
)
def test_labels_are_finite_and_bounded(classes: tuple[str, ...], label: str, text: str) -> None:
    """The square of one label of 1e200 is infinite, and so was every score from then on."""
    pod = Pod(classes)
    made = pod.predict(classes[0] if classes else 1.0)
    assert error_of(pod, f'{{"prediction_id": "{made}", "label": {label}}}'.encode()) == text


@pytest.mark.attack
def test_the_greatest_label_keeps_every_score_finite() -> None:
    pod = Pod(())
    for _ in range(3):
        pod.post(pod.predict(-1e100), 1e100)
    assert pod.exported()["mlmodel_rmse"] == pytest.approx(2e100)


@pytest.mark.attack
@pytest.mark.parametrize("value", [np.nan, np.inf, -1e101])
def test_a_prediction_that_is_not_a_finite_number_has_no_score(value: float) -> None:
    pod = Pod(())
    text = "the prediction of row 0 is not a finite number up to 1e+100: it has no score"
    assert error_of(pod, {"prediction_id": pod.predict(value), "label": 1}) == text


@pytest.mark.attack
def test_the_text_of_a_label_is_bounded() -> None:
    pod, long = Pod(), Pod(("short", "x" * 2000))
    text = "the label of row 0 has 1001 characters: send at most 1000"
    assert error_of(pod, {"prediction_id": pod.predict("benign"), "label": "x" * 1001}) == text
    assert long.post(long.predict("x" * 2000), "x" * 2000)["scored"] == 1, "a class of the model is a label"
    assert pod.post(pod.predict("benign"), "x" * 1000)["unknown"] == 1


@pytest.mark.attack
def test_one_request_has_a_bounded_number_of_labels() -> None:
    """64,000 labels in one request took 0.2 s, in which the worker answered no other request."""
    pod = Pod()
    made = pod.predict(*["benign"] * MAX_ROWS)
    body = [{"prediction_id": made, "labels": ["benign"] * MAX_ROWS}] * (MAX_LABELS // MAX_ROWS + 1)
    assert error_of(pod, body) == "the feedback has 4032 labels: send at most 4000 at a time"
    assert pod.feedback.post(json.dumps(body[1:]).encode())["scored"] == MAX_ROWS


def forged(pod: Pod, content: bytes) -> str:
    """Return an id with any content, as anyone can make who knows the name of a model without a feedback key."""
    raw = content + pod.ids._mac(content)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def content(version: bytes = b"v2", revision: bytes = b"aa", rows: bytes = b"abcd", made: float = 0.0) -> bytes:
    made_at = int((made or time.time()) * 1e9)
    head = struct.pack(">BHH", 1, len(version), len(revision))
    return head + version + revision + struct.pack(">QH", made_at, 0) + rows


@pytest.mark.attack
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x01",
        struct.pack(">BHH", 1, 60_000, 60_000),
        content(version=b"\xff\xfe"),
        content(version=b"v\n2"),
        content(revision=b"\x1b[2J"),
        content(rows=b""),
        content(rows=b"abc"),
        content(rows=b"abcd" * (MAX_ROWS + 1)),
        content(version=b"v" * 9000),
    ],
    ids=lambda raw: raw[:12].hex() or "empty",
)
def test_a_forged_id_with_any_content_is_rejected_with_a_sentence(raw: bytes) -> None:
    """Some were answered with 500."""
    pod = Pod()
    text = "prediction_id is malformed: send it exactly as in the response"
    assert error_of(pod, {"prediction_id": forged(pod, raw), "label": "benign"}) == text
    assert pod.post(forged(pod, content()), "benign")["scored"] == 1, "only the content of the others is wrong"


@pytest.mark.attack
def test_an_id_expires() -> None:
    pod = Pod()
    expired, future = content(made=time.time() - 367 * 86400), content(made=time.time() + 700)
    text = error_of(pod, {"prediction_id": forged(pod, expired), "label": "benign"})
    assert text == "prediction_id has expired: send labels within 366 days of the prediction"
    text = error_of(pod, {"prediction_id": forged(pod, future), "label": "benign"})
    assert text == "prediction_id is of the future: set the clocks of the nodes"
    assert pod.post(forged(pod, content(made=time.time() - 365 * 86400)), "benign")["scored"] == 1


@pytest.mark.attack
def test_rejected_feedback_is_logged_once_a_minute_by_all_workers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pod = Pod(slots=2)

    def rejected() -> None:
        for _ in range(100):
            error_of(pod, {"prediction_id": "x", "label": "benign"})

    rejected()
    in_child(rejected)
    now[0] += 59
    rejected()
    assert len(caplog.records) == 1
    now[0] += 2
    rejected()
    first, second = (vars(record) for record in caplog.records)
    assert (first["msg"], first["more_since_last_line"]) == ("feedback rejected", 0)
    assert second["more_since_last_line"] == 299


def test_an_unknown_label_counts_as_wrong_and_is_reported() -> None:
    pod = Pod(("benign", "malignant"))
    body = {"prediction_id": pod.predict("benign", "benign"), "labels": ["benign", "unclear"]}
    assert pod.feedback.post(json.dumps(body).encode()) == {"scored": 2, "duplicates": 0, "unknown": 1}
    assert pod.exported()["mlmodel_feedback_total other benign"] == 1
    assert pod.exported()["mlmodel_accuracy"] == 0.5


@pytest.mark.attack(held=True)
@given(st.integers(0, 40 * 8 - 1))
@settings(max_examples=50)
def test_every_changed_bit_is_detected(bit: int) -> None:
    pod = Pod()
    raw = bytearray(base64.urlsafe_b64decode(pod.predict("malignant") + "=="))
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    forged = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    with pytest.raises(RequestError, match="was changed"):
        pod.feedback.score(forged, ["benign"])


ONE = Pod()


@pytest.mark.attack(held=True)
@given(st.text(max_size=80))
@settings(max_examples=100)
def test_any_text_is_rejected_with_a_sentence(text: str) -> None:
    with pytest.raises(RequestError, match="prediction_id"):
        ONE.ids.read(text)


@pytest.mark.attack(held=True)
def test_with_a_secret_an_id_without_it_is_rejected() -> None:
    stable, candidate, stranger = Pod(secret=SECRET), Pod(version="v3", secret=SECRET), Pod()
    with pytest.raises(RequestError, match="was changed"):
        stable.ids.read(stranger.predict("benign"))
    with pytest.raises(RequestError, match="with its present feedback key"):
        stable.ids.read(Pod(secret=SECRET[::-1]).predict("benign"))
    assert stable.ids.read(candidate.predict("benign")).version == "v3"


def test_a_retry_of_a_client_is_not_counted_again_on_any_worker() -> None:
    pod = Pod(slots=2)
    made = pod.predict("benign")

    def other_worker() -> None:
        pod.feedback.start(1)
        assert pod.post(made, "benign") == {"scored": 1, "duplicates": 0, "unknown": 0}

    in_child(other_worker)
    assert pod.post(made, "benign") == {"scored": 0, "duplicates": 1, "unknown": 0}
    twice = [{"prediction_id": pod.predict("benign"), "label": "benign"}] * 2
    assert pod.feedback.post(json.dumps(twice).encode()) == {"scored": 1, "duplicates": 1, "unknown": 0}
    seen = pod.exported()
    assert seen["mlmodel_feedback_labels_total"] == 2
    assert seen["mlmodel_feedback_duplicates_total"] == 2


def test_a_pod_of_another_revision_scores_the_one_that_predicted() -> None:
    """Its classes have another order, and one is missing: labels are still compared correctly."""
    new = Pod(("benign", "malignant", "unclear"), "v3", "77aa")
    old = Pod(("malignant", "benign"), "v2", "3f9c2a1b", slots=2)

    def other_worker() -> None:
        old.feedback.start(1)
        old.post(new.predict("malignant"), "malignant")

    in_child(other_worker)
    old.post(new.predict("benign", "unclear"), "malignant", "unclear")
    old.post(new.predict("unclear"), "a class of no revision")
    seen = old.exported(version="v3", revision="77aa")
    assert seen["mlmodel_feedback_labels_total"] == 4
    assert seen["mlmodel_feedback_correct_total"] == 2
    assert seen["mlmodel_accuracy"] == 0.5
    assert seen["mlmodel_feedback_total malignant malignant"] == 1
    assert seen["mlmodel_feedback_total malignant benign"] == 1
    assert seen["mlmodel_feedback_total other other"] == 2
    assert "mlmodel_f1" not in seen, "some classes share one cell here"
    assert old.exported(version="v2")["mlmodel_feedback_labels_total"] == 0


def test_the_successor_of_a_worker_keeps_its_revisions() -> None:
    pod = Pod(slots=1)
    for number in range(REVISIONS):
        pod.post(Pod(version="v1", revision=f"r{number}").predict("benign"), "benign")
    pod.feedback.start()
    pod.post(Pod(version="v1", revision="r0").predict("benign"), "benign")
    for revision in ("one", "too many"):
        pod.post(Pod(version="v1", revision=revision).predict("benign"), "benign")
    name = "mlmodel_feedback_labels_total"
    assert pod.exported(version="v1", revision="r0")[name] == 2
    assert pod.exported(version="v1", revision="r5")[name] == 1
    assert pod.exported(version="other", revision="other")[name] == 2


def test_very_long_names_still_fit() -> None:
    other = Pod(version="v" * 300, revision="r" * 300)
    pod = Pod()
    pod.post(other.predict("benign"), "benign")
    assert pod.exported(version="v" * 127, revision="r" * 127)["mlmodel_feedback_correct_total"] == 1
    other.post(other.predict("benign"), "benign")
    assert other.exported(version="v" * 300)["mlmodel_feedback_correct_total"] == 1


def test_an_id_of_another_task_cannot_be_scored_here() -> None:
    with pytest.raises(RequestError, match="of a revision with another task: only pods of that revision"):
        Pod(()).post(Pod(version="v1").predict("benign"), "benign")


def test_the_lag_of_labels_is_exported() -> None:
    later = time.time() + 3000
    pod = Pod(clock=lambda: later)
    pod.post(pod.predict("benign"), "benign")
    early = Pod(clock=lambda: time.time() - 500)
    early.post(early.predict("benign"), "benign")
    seen = pod.exported()
    name = "mlmodel_feedback_lag_seconds"
    assert (seen[f"{name}_bucket 600.0"], seen[f"{name}_bucket 3600.0"]) == (0, 1)
    assert 2990 < seen[f"{name}_sum"] < 3001
    assert early.exported()[f"{name}_sum"] == 0, "clocks of two nodes may differ"


def test_of_many_classes_cells_that_occurred_are_exported_and_rare_classes_share_one() -> None:
    pod = Pod(tuple(f"c{n:02}" for n in range(30)))
    pod.post(pod.predict("c00", "c25", "c26"), "c01", "c25", "c27")
    seen = {key: value for key, value in pod.exported().items() if key.startswith("mlmodel_feedback_total")}
    assert seen == {"mlmodel_feedback_total c01 c00": 1, "mlmodel_feedback_total other other": 2}
    assert pod.exported()["mlmodel_accuracy"] == pytest.approx(1 / 3)
    assert pod.feedback.score(pod.predict("c25"), ["c25"]).rows == (Cell(20, 20, True, True),)
