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
from tests.integration.server.test_rehearsal import STABLE, Stage, saved

cloudpickle.register_pickle_by_value(sys.modules[__name__])

REQUESTS = 40


class Working(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that takes some milliseconds of CPU time, and waits half as long, which takes none."""

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
        time.sleep(self.milliseconds / 2000)
        return self.classes_[(X[:, 0] > 0).astype(int)]


def figures(port: int, revision: str) -> Measured:
    """Return what the operator reads."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/figures", timeout=SECONDS) as response:
        found = read_measured("pod", revision, parse_figures(response.read()))
    assert found is not None
    return found


def test_twice_the_cpu_time_of_a_prediction_is_seen_in_copies_and_waits_and_the_start_are_not(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.port("twice")
    with (
        stage.stable(*saved(tmp_path, STABLE, Working(2.0))) as stable,
        stage.candidate("twice", *saved(tmp_path, "twice", Working(4.0))),
    ):
        ports = {STABLE: stable.page_port, "twice": stage.port("twice-page")}
        stable.until(lambda page: page["revision"] == STABLE, "the page is served")
        assert figures(ports[STABLE], STABLE).calls == figures(ports["twice"], "twice").calls == Calls()
        connection = stable.server.connect()
        for number in range(REQUESTS):
            body = json.dumps([[1.0, float(number), 0.5, 0.0]])
            assert stable.server.send("POST", "/predict", body, connection).status == 200
        connection.close()
        until(lambda: figures(ports[STABLE], STABLE).calls.requests == REQUESTS - WARM_UP, "each request is counted")
        own = figures(ports[STABLE], STABLE)
        assert 2.0 <= own.calls.requests_us / own.calls.requests / 1000 < 3.0
        assert own.milliwatts == 3500
        stage.name("twice")
        stable.until(lambda page: page["asked"] == REQUESTS, "all are repeated")
        until(lambda: figures(ports["twice"], "twice").calls.copies >= REQUESTS - WARM_UP, "each copy is counted")
        own, other = (figures(port, revision) for revision, port in ports.items())
        assert other.calls.requests == 0, "copies are not requests of clients"
        assert own.calls.requests == REQUESTS - WARM_UP
        ratio = (other.calls.copies_us / other.calls.copies) / (own.calls.copies_us / own.calls.copies)
        assert 1.8 < ratio < 2.2, ratio
