"""Drift: training and serving count the same way; the index is corrected for chance and follows recent rows."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmodel_server.observe.bins import WIDTH, Numbers, edges_of, number_bins, psi
from mlmodel_server.observe.cells import Identity
from mlmodel_server.observe.drift import MAX_ROWS, WINDOW, Drift, bins_of, features_of, predictions_of
from mlmodel_server.observe.metrics import Recorder
from mlmodel_server.package.profile import predictions, profile
from mlmodel_server.package.table import tensors_of
from tests.unit.server.loglines import events
from tests.unit.server.models import SEED, mixed_table
from tests.unit.server.observe.test_metrics import in_child, samples

IDENTITY = Identity("tumour", "v2", "3f9c2a1b")


def drift(X: Any, *, slots: int = 1, clock: Any = time.time, limit: int = 20, predicted: Any = None) -> Drift:
    """Return the drift of a package with the profile of table ``X``, which passes through JSON as in a package."""
    tensors = tensors_of(X)[1]
    described = json.loads(json.dumps(profile(tensors)))
    made = Drift(IDENTITY, slots, features_of(described, list(described), limit), predicted, clock)
    made.start(0)
    return made


def counts(drift: Drift, name: str = "feature_bin", **labels: str) -> dict[str, int]:
    prefix = f"mlmodel_{name}_total "
    found = samples(list(drift.collect()), **labels)
    return {key.removeprefix(prefix): int(value) for key, value in found.items() if key.startswith(prefix) and value}


def test_numbers_are_counted_between_the_deciles_of_training_or_outside() -> None:
    watched = drift(np.arange(1.0, 102.0)[:, None])  # deciles 11, 21 ... 91
    assert counts(watched) == {}
    table = np.array([[1.0], [11.0], [11.5], [101.0], [0.999], [101.001], [np.inf], [-np.inf], [np.nan], [np.nan]])
    watched.count([(table[:4], None), (table[4:], None)])
    assert counts(watched, feature="input-0[0]") == {
        "[1, 11]": 2, "(11, 21]": 1, "(91, 101]": 1, "below": 2, "above": 2, "missing": 2,
    }  # fmt: skip


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=40), st.data())
@settings(max_examples=60)
def test_every_training_value_is_in_a_bin_of_its_own_profile_and_no_other(training: list[float], data: Any) -> None:
    column = np.array(training, data.draw(st.sampled_from(["f8", "f4"])))
    described = profile(tensors_of(column[:, None])[1])["input-0[0]"]
    bins = bins_of("x", json.loads(json.dumps(described)))
    assert isinstance(bins, Numbers)
    hit = np.bincount(number_bins(column[:, None], bins.edges[None]).ravel(), minlength=WIDTH)
    assert hit.tolist() == bins.reference.tolist()
    assert hit[0] == 0, "no training value is below the bins"
    named = [label for label in bins.labels if label]
    assert len(set(named)) == len(named), "Prometheus rejects two samples with the same labels"
    outside = number_bins(np.array([[np.nextafter(bins.edges[0], -np.inf)], [np.nan]]), bins.edges[None])
    assert [bins.labels[place] for place in outside.ravel()] == ["below", "missing"]


@pytest.mark.parametrize("values", [[5.0] * 9, [0.0] * 50 + [1.0], [1.0] + [7.0] * 50, [1e15, 1e15 + 1, 1e15 + 2] * 5])
def test_ties_and_constants_have_bins(values: list[float]) -> None:
    watched = drift(np.array(values)[:, None])
    watched.count([(np.array(values)[:, None], None)])
    found = counts(watched, feature="input-0[0]")
    assert sum(found.values()) == len(values)
    assert not {"below", "above", "missing"} & set(found)


def test_texts_booleans_and_integers_have_bins_of_their_kind() -> None:
    X, _ = mixed_table()
    watched = drift(X)
    row = np.array([[100.0, 3, "de", "low", True], [1e9, -1, "xx", None, False]], dtype=object)
    watched.count([(row, None)])
    assert counts(watched, feature="country") == {"de": 1, "unseen": 1}
    assert counts(watched, feature="level") == {"low": 1, "missing": 1}
    assert counts(watched, feature="member") == {"True": 1, "False": 1}
    assert counts(watched, feature="amount")["above"] == counts(watched, feature="count")["below"] == 1


def test_booleans_in_a_table_of_numbers() -> None:
    X = mixed_table()[0][["amount", "member"]]
    watched = drift(X)
    watched.count([(np.array([[100.0, 1.0], [100.0, 0.0], [100.0, 1.0]]), None)])
    assert counts(watched, feature="member") == {"True": 2, "False": 1}


def test_rare_values_share_a_bin_and_a_value_may_have_the_name_of_a_bin() -> None:
    texts = [f"v{n}" for n in range(19) for _ in range(3)] + ["other"] * 5 + ["missing"] + ["x" * 70]
    watched = drift(np.array([[text, 1.0] for text in texts], dtype=object))
    watched.count(
        [(np.array([["other", 1.0], ["missing", 1.0], ["new", 1.0], [None, 1.0], ["v3", 1.0]], object), None)]
    )
    assert counts(watched, feature="column-0") == {"other": 1, "(other)": 2, "missing": 1, "v3": 1}


def test_long_values_are_cut_at_training_and_serving() -> None:
    watched = drift(np.array([["x" * 70, 1.0], ["y", 2.0]], dtype=object))
    watched.count([(np.array([["x" * 70, 1.0]], object), None)])
    assert counts(watched, feature="column-0") == {"x" * 64: 1}


def test_only_the_first_features_have_time_series() -> None:
    watched = drift(np.random.default_rng(SEED).normal(size=(50, 30)), limit=7)
    watched.count([(np.zeros((5, 30)), None)])
    family = next(iter(watched.collect()))
    assert {sample.labels["feature"] for sample in family.samples} == {f"input-0[{n}]" for n in range(7)}
    assert sum(sample.value for sample in family.samples) == 35


def test_counts_of_workers_add_up_and_outlive_them() -> None:
    watched = drift(np.arange(101.0)[:, None], slots=2)

    def work() -> None:
        watched.start(1)
        watched.count([(np.full((3, 1), 5.0), None)])

    in_child(work)
    in_child(work)
    watched.count([(np.full((2, 1), 5.0), None)])
    assert counts(watched, feature="input-0[0]") == {"[0, 10]": 8}


def test_evenly_spaced_rows_of_a_huge_request_are_counted() -> None:
    watched = drift(np.arange(101.0)[:, None])
    watched.count([(np.linspace(0, 100, 50 * MAX_ROWS)[:, None], None)])
    found = counts(watched, feature="input-0[0]")
    assert sum(found.values()) == MAX_ROWS
    assert max(found.values()) - min(found.values()) <= 2


def test_an_index_exists_from_a_thousand_rows_on_and_grows_with_drift() -> None:
    random = np.random.default_rng(SEED)
    watched = drift(random.normal(size=(2000, 2)))
    rows = random.normal([0.0, 1.0], size=(1000, 2))
    name = "mlmodel_feature_drift_psi"
    watched.count([(rows[:999], None)])
    assert not any(key.startswith(name) for key in samples(list(watched.collect())))
    watched.count([(rows[999:], None)])
    found = samples(list(watched.collect()))
    assert found[f"{name} input-0[0] life"] == found[f"{name} input-0[0] recent"] < 0.03
    assert found[f"{name} input-0[1] life"] > 0.5
    few = drift(random.normal(size=(99, 1)))
    few.count([(rows[:, :1], None)])
    assert not any(key.startswith(name) for key in samples(list(few.collect()))), "99 training rows are too few"


def test_the_recent_index_covers_two_windows_and_the_life_index_all_rows() -> None:
    now = [10 * WINDOW]
    random = np.random.default_rng(SEED)
    watched = drift(random.normal(size=(2000, 1)), slots=2, clock=lambda: now[0])

    def index(window: str) -> float | None:
        return samples(list(watched.collect())).get(f"mlmodel_feature_drift_psi input-0[0] {window}")

    def other_worker() -> None:
        watched.start(1)
        watched.count([(random.normal(size=(1000, 1)) + 3, None)])

    watched.count([(random.normal(size=(1000, 1)) + 3, None)])
    in_child(other_worker)  # it is idle from now on, and does not clear its counts
    assert (index("recent") or 0) > 1
    now[0] += WINDOW
    watched.count([(random.normal(size=(1000, 1)), None)])
    assert (index("recent") or 0) > 0.3, "the window before still counts"
    now[0] += WINDOW
    watched.count([(random.normal(size=(1000, 1)), None)])
    assert (index("recent") or 0) < 0.03
    assert (index("life") or 0) > 0.1
    now[0] += 3 * WINDOW
    assert index("recent") is None


def test_without_drift_the_index_hardly_depends_on_the_number_of_rows() -> None:
    """The raw index is about 9 (1/200 + 1/1000) = 0.054 here; the corrected one is near 0."""
    random = np.random.default_rng(SEED)
    raw, corrected = [], []
    for _ in range(300):
        column = random.normal(size=200)
        bins = bins_of("x", profile(tensors_of(column[:, None])[1])["input-0[0]"])
        assert isinstance(bins, Numbers)
        hit = np.bincount(number_bins(random.normal(size=(1000, 1)), bins.edges[None]).ravel(), minlength=WIDTH)
        corrected.append(psi(bins.reference[None], hit[None].astype(float))[0])
        p, q = bins.reference[1:11] / 200, hit[1:11] / 1000
        raw.append(((p - q) * np.log(p / q)).sum())
    print("seed", SEED, "raw", np.mean(raw), "corrected", np.mean(corrected), np.quantile(corrected, 0.99))
    assert np.mean(raw) > 0.04
    assert np.mean(corrected) < 0.02
    assert np.quantile(corrected, 0.99) < 0.1


def test_the_index_of_known_counts() -> None:
    """By hand: two bins, 50:50 at training and 90:10 now; with so many rows the correction is 0."""
    found = psi(np.array([[5e8, 5e8, 0.0]]), np.array([[9e8, 1e8, 0.0]]))[0]
    assert found == pytest.approx(0.4 * np.log(9 / 5) + 0.4 * np.log(5 / 1), rel=1e-6)


def test_predictions_of_a_classifier_are_counted_by_class() -> None:
    at_training = predictions("classification", np.resize([0, 0, 2, 0], 1000))
    bins = predictions_of(json.loads(json.dumps(at_training)), ("0", "1", "2"))
    watched = drift(np.zeros((3, 1)), predicted=bins)
    watched.count(
        [(None, np.array([0, 1, 1])), (np.zeros((1, 1)), np.array([2])), (None, np.zeros((3, 2))), (None, None)]
    )
    assert counts(watched, "predictions") == {"0": 1, "1": 2, "2": 1}
    watched.count([(None, np.resize([0, 0, 2, 0], 1000))])
    assert samples(list(watched.collect()))["mlmodel_prediction_drift_psi life"] < 0.01


@pytest.mark.parametrize(
    ("classes", "answers"),
    [(("a", "b"), np.array(["b", "b", "a"])), (("a", "b"), np.array(["b", "b", "a"], object)),
     (("False", "True"), np.array([True, True, False])), (("0.0", "1.0"), np.array([1.0, 1.0, 0.0]))],
    ids=["str", "object", "bool", "float"],
)  # fmt: skip
def test_classes_of_every_kind_are_counted(classes: tuple[str, ...], answers: Any) -> None:
    watched = drift(np.zeros((3, 1)), predicted=predictions_of({}, classes))
    watched.count([(None, answers)])
    assert counts(watched, "predictions") == {classes[1]: 2, classes[0]: 1}
    watched.count([(None, np.resize(answers, 2000))])
    assert "mlmodel_prediction_drift_psi life" not in samples(list(watched.collect())), (
        "the profile has no predictions to compare with"
    )


def test_the_most_frequent_of_many_classes_have_a_bin() -> None:
    at_training = predictions("classification", np.repeat(np.arange(30), np.arange(1, 31)))
    bins = predictions_of(at_training, [str(label) for label in range(30)])
    watched = drift(np.zeros((3, 1)), predicted=bins)
    watched.count([(None, np.array([29, 29, 10, 9, 0]))])
    assert counts(watched, "predictions") == {"29": 2, "10": 1, "other": 2}


def test_predictions_of_a_regressor_are_counted_between_deciles() -> None:
    at_training = predictions("regression", np.arange(101.0))
    watched = drift(np.zeros((3, 1)), predicted=predictions_of(at_training, ()))
    watched.count([(None, np.array([5.0, 10.0, 100.1], np.float32))])
    assert counts(watched, "prediction_bin") == {"[0, 10]": 2, "above": 1}
    assert predictions("regression", np.zeros((5, 2))) == {}, "several predictions per row have no single distribution"


def test_a_model_without_a_profile_is_served_without_drift(caplog: pytest.LogCaptureFixture) -> None:
    described = {"a": {"rows": 3, "missing": 0, "min": 0.0, "max": 1.0, "deciles": [0.5]}, "b": {"values": 7}}
    assert features_of(described, ["a", "b"]) == []
    assert events(caplog) == [
        '"drift not measured" features=2 reason="their profile has no counts: save the package again"'
    ]
    watched = Drift(IDENTITY, 1, features_of({}, ["a"]), predictions_of({}, ()))
    watched.start(0)
    watched.count([(np.zeros((1, 2)), np.zeros(1))])
    assert list(watched.collect()) == []
    assert watched.report() == []


def test_the_report_is_json_for_the_page() -> None:
    watched = drift(np.arange(101.0)[:, None], predicted=predictions_of({}, ("a", "b")))
    watched.count([(np.array([[5.0], [200.0]]), np.array(["a", "a"]))])
    feature, predicted = json.loads(json.dumps(watched.report()))
    assert (feature["name"], feature["rows"], feature["bins"][0], feature["bins"][-2]) == (
        "input-0[0]",
        2,
        "below",
        "above",
    )
    assert feature["training"][1] == pytest.approx(11 / 101)
    assert feature["life"][1] == feature["recent"][-2] == 0.5
    assert feature["psi"] == {}
    assert predicted["life"] == [1.0, 0.0, 0.0, 0.0]


def test_the_recorder_counts_the_rows_for_the_drift() -> None:
    watched = drift(np.random.default_rng(SEED).normal(size=(100, 20)), predicted=predictions_of({}, ("0", "1")))
    recorder = Recorder(IDENTITY, watch=watched)
    recorder.start()
    for _ in range(500):
        recorder.record_predictions(np.zeros((1, 20)), np.array([1]), 1)
    recorder.fold()
    assert samples(recorder)["mlmodel_predictions_total 1"] == 500


def test_edges_are_distinct_and_in_order() -> None:
    edges = edges_of(1.0, [1.0, 1.0, 2.0, 2.0, 3.0, 3.0], 3.0)
    assert edges[np.isfinite(edges)].tolist() == [np.nextafter(1.0, 0.0), 1.0, 2.0, 3.0]
    assert len(edges) == 12
