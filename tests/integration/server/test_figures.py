"""CPU time on the page for the operator, between two running servers: of requests, and of copies of them."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from mlmodel_operator.api.figures import Calls
from mlmodel_operator.observe import read_measured
from mlmodel_operator.rollout.observed import Measured
from mlmodel_operator.scrape import parse_figures
from mlmodel_server.observe.figures import WARM_UP
from tests.integration.server.processes import SECONDS, until
from tests.integration.server.test_rehearsal import PATIENCE, STABLE, Stage, saved

cloudpickle.register_pickle_by_value(sys.modules[__name__])

REQUESTS = 30
CPU, MORE_CPU, WAIT = 2.0, 32.0, 8.0
"""Milliseconds of CPU time of each prediction, of stable and of the candidate, and milliseconds that both wait.

A call costs some CPU time beside the prediction: less than a millisecond, and more on a busy machine. So the bounds
below allow for as much as the wait, which would break them if it counted."""


class Working(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that takes some milliseconds of CPU time, and then waits, which takes none."""

    def __init__(self, milliseconds: float) -> None:
        self.milliseconds = milliseconds
        self.classes_ = np.array(["cat", "dog"])
        self.n_features_in_ = 4

    def fit(self, X: Any, y: Any) -> Working:
        return self

    def predict(self, X: Any) -> Any:
        X = np.asarray(X)
        end = time.thread_time() + self.milliseconds / 1000
        while time.thread_time() < end:
            pass
        time.sleep(WAIT / 1000)
        return self.classes_[(X[:, 0] > 0).astype(int)]


def figures(port: int, revision: str) -> Measured:
    """Return what the operator reads."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/figures", timeout=SECONDS) as response:
        found = read_measured("pod", revision, parse_figures(response.read()))
    assert found is not None
    return found


def milliseconds(calls: int, microseconds: int) -> float:
    """Return the CPU time of a call."""
    return microseconds / calls / 1000


def test_the_cpu_time_of_predictions_is_seen_in_copies_too_and_waits_and_the_start_are_not(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.port("more")
    with (
        stage.stable(*saved(tmp_path, STABLE, Working(CPU))) as stable,
        stage.candidate("more", *saved(tmp_path, "more", Working(MORE_CPU))),
    ):
        ports = {STABLE: stable.page_port, "more": stage.port("more-page")}
        stable.until(lambda page: page["revision"] == STABLE, "the page is served")
        assert figures(ports[STABLE], STABLE).calls == figures(ports["more"], "more").calls == Calls()
        connection = stable.server.connect()
        for number in range(REQUESTS):
            body = json.dumps([[1.0, float(number), 0.5, 0.0]])
            assert stable.server.send("POST", "/predict", body, connection).status == 200
        connection.close()
        until(lambda: figures(ports[STABLE], STABLE).calls.requests == REQUESTS - WARM_UP, "each request is counted")
        own = figures(ports[STABLE], STABLE)
        assert CPU <= milliseconds(own.calls.requests, own.calls.requests_us) < CPU + WAIT
        assert own.milliwatts == 3500
        stage.name("more")
        stable.until(lambda page: page["asked"] == REQUESTS, "all are repeated")
        until(
            lambda: figures(ports["more"], "more").calls.copies >= REQUESTS - WARM_UP, "each copy is counted", PATIENCE
        )
        own, other = (figures(port, revision) for revision, port in ports.items())
        assert other.calls.requests == 0, "copies are not requests of clients"
        assert own.calls.requests == REQUESTS - WARM_UP
        assert CPU <= milliseconds(own.calls.copies, own.calls.copies_us) < CPU + WAIT
        assert MORE_CPU <= milliseconds(other.calls.copies, other.calls.copies_us) < MORE_CPU + WAIT
