"""Figures beside the gates: what a pod counts of CPU time and drift, for the operator."""

from __future__ import annotations

import json
import time

import msgspec
import numpy as np
import pytest

from mlmodel_server.observe import metrics
from mlmodel_server.observe.drift import MIN_ROWS, Drift, predictions_of
from mlmodel_server.observe.figures import _DRIFT_BYTES, NO_DRIFT, WARM_UP, Figures
from mlmodel_server.observe.metrics import Recorder
from mlmodel_server.observe.rollout import RolloutLabels
from mlmodel_server.rehearsal.process import Pages
from tests.unit.server.observe.test_drift import drift
from tests.unit.server.observe.test_metrics import IDENTITY, in_child

REVISION = "5f1c2e9a"


def recorder(figures: Figures, slots: int = 1, watch: Drift | None = None) -> Recorder:
    made = Recorder(IDENTITY, slots, figures=figures, watch=watch)
    made.start()
    return made


def warm(of: Recorder) -> Recorder:
    for _ in range(WARM_UP):
        of.record_cpu(1, 10**9)
    return of


def test_requests_and_copies_count_apart_and_a_batch_counts_each_of_its_requests() -> None:
    figures = Figures(REVISION, watts_per_core=3.5)
    recorded = warm(recorder(figures))
    recorded.record_cpu(4, 2_000_000)
    recorded.record_cpu(1, 1_000_000)
    recorded.record_cpu(1, 3_000_000, is_copy=True)
    recorded.fold()
    page = figures.page()
    assert (page["requests"], page["requests_cpu_us"]) == (5, 3000)
    assert (page["copies"], page["copies_cpu_us"]) == (1, 3000)
    assert (page["revision"], page["milliwatts"], page["drift"]) == (REVISION, 3500, NO_DRIFT)


def test_the_first_calls_of_each_worker_do_not_count() -> None:
    figures = Figures(REVISION, 2)
    recorded = recorder(figures, 2)

    def work() -> None:
        recorded.start(1)
        for _ in range(WARM_UP + 3):
            recorded.record_cpu(1, 1000)
        recorded.fold()

    in_child(work)
    assert figures.page()["requests"] == 3
    in_child(work)  # the worker died, and another one has its slot
    assert figures.page()["requests"] == 6


def test_the_largest_recent_drift_of_the_features_and_that_of_the_predictions_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "DRIFT_SECONDS", 0.0)
    random = np.random.default_rng(3)
    watched = drift(random.normal(size=(1000, 3)), predicted=predictions_of({}, ("no", "yes")))
    figures = Figures(REVISION)
    recorded = recorder(figures, watch=watched)
    recorded.record_predictions(random.normal(size=(MIN_ROWS - 1, 3)), None, MIN_ROWS - 1)
    recorded.fold()
    assert figures.page()["drift"] == NO_DRIFT, "an index of fewer rows is chance"
    recorded.record_predictions(random.normal((0.0, 3.0, 0.0), size=(MIN_ROWS, 3)), np.zeros(MIN_ROWS), MIN_ROWS)
    recorded.fold()
    shown, report = figures.page()["drift"], {item["name"]: item["psi"] for item in watched.report()}
    assert shown["feature"] == "input-0[1]"
    assert shown["feature_psi"] == pytest.approx(report["input-0[1]"]["recent"], abs=1e-3)
    assert shown["prediction_psi"] is None, "a profile without predictions has no index"


def test_a_page_that_a_worker_is_just_writing_shows_the_drift_before() -> None:
    figures = Figures(REVISION)
    figures.publish({"feature": "a" * 500, "feature_psi": 0.5, "prediction_psi": None})
    first = figures.page()["drift"]
    assert first == {"feature": "a" * 64, "feature_psi": 0.5, "prediction_psi": None}
    figures._drift[:] = b'{"feature": "b'.ljust(_DRIFT_BYTES)
    assert figures.page()["drift"] == first


@pytest.mark.parametrize("name", ["é" * 500, "\U0001f600" * 500, '"\\' * 500])
def test_any_name_of_a_feature_fits(name: str) -> None:
    figures = Figures(REVISION)
    figures.publish({"feature": name, "feature_psi": 0.123, "prediction_psi": 0.456})
    assert figures.page()["drift"]["feature"] == name[:64]


def test_the_page_of_the_port_has_them_also_without_rehearsals() -> None:
    content = Pages(RolloutLabels(REVISION), Figures(REVISION), None)(b"/figures")
    assert content is not None
    assert json.loads(content) == json.loads(msgspec.json.encode(Figures(REVISION).page())) | {
        "boot": json.loads(content)["boot"]
    }
    assert Pages(RolloutLabels(REVISION), Figures(REVISION), None)(b"/figures/") is None


def test_a_prediction_with_several_threads_is_timed_by_the_clock_of_the_process() -> None:
    assert Figures(REVISION).cpu_ns is time.thread_time_ns
    assert Figures(REVISION, threads=2).cpu_ns is time.process_time_ns
