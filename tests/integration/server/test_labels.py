"""Labels of a rollout, counted by all workers of a pod and shown on the page that the operator reads."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeClassifier

from hack.ports import free_port
from mlmodel_operator.api.types import QualityGate
from mlmodel_operator.observe import read_labelled
from mlmodel_operator.rollout.evidence.labels import bin_for
from mlmodel_operator.rollout.observed import Labelled
from mlmodel_operator.scrape import parse_labels
from tests.integration.server.processes import SECONDS, Server, running, until

STABLE, CANDIDATE = "aaaaaaaa", "bbbbbbbb"
FEEDBACK = "/v2/models/tumour/feedback"


@dataclass
class Pod:
    """A server with the page."""

    revision: str
    server: Server
    page_port: int

    def content(self, path: str = "/labels/0") -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.page_port}{path}", timeout=SECONDS) as response:
            body: bytes = response.read()
        return body

    def labels(self, gate: QualityGate = QualityGate()) -> Labelled:  # noqa: B008  # it is frozen
        """Return what the operator reads."""
        largest = bin_for(gate)
        page = parse_labels(self.content(f"/labels/{largest}"))
        return read_labelled("pod", self.revision, (STABLE, CANDIDATE), page, largest)

    def counts(self, weight: int, gate: QualityGate = QualityGate()) -> tuple[int, ...]:  # noqa: B008
        """Return labels and right ones of the candidate and of stable."""
        sides = self.labels(gate).weights[str(weight)]
        return sides.candidate.number, sides.candidate.right, sides.stable.number, sides.stable.right

    def predict(self, value: float, drawn: str) -> str:
        """Send a prediction as the router does, and return its id."""
        headers: dict[str, Any] = {"x_mlmodel_drawn": drawn} if drawn else {}
        answer = self.server.send("POST", "/predict", json.dumps([[value]]), **headers)
        assert answer.status == 200, answer.body
        return answer.headers["x-mlmodel-prediction-id"]

    def post(self, prediction_id: str, label: Any) -> None:
        """Post a label on a new connection, which either worker may get."""
        body = json.dumps({"prediction_id": prediction_id, "label": label})
        assert self.server.send("POST", FEEDBACK, body).status == 200

    def processes(self) -> dict[str, list[int]]:
        """Return the children by name: the workers, and the one beside them."""
        found: dict[str, list[int]] = {}
        for pid in self.server.children():
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                found.setdefault("page" if name == "rehearsal" else "worker", []).append(pid)
        return found


@contextlib.contextmanager
def serving(model: Any, directory: Path, revision: str, *options: str | Path) -> Iterator[Pod]:
    path = directory / f"{revision}.joblib"
    joblib.dump(model, path)
    port = free_port()
    given = ("--uri", path, "--revision", revision, "--workers", "2", "--rehearsal", directory / "none")
    with running(*given, "--rehearsal-port", str(port), *options) as server:
        yield Pod(revision, server, port)


def classifier() -> DecisionTreeClassifier:
    return DecisionTreeClassifier().fit(np.array([[-1.0], [1.0]]), ["cat", "dog"])


def test_labels_of_two_workers_outlive_both_and_the_process_of_the_page(tmp_path: Path) -> None:
    off = ("--rehearsal-requests", "0")
    with (
        serving(classifier(), tmp_path, STABLE, *off) as stable,
        serving(classifier(), tmp_path, CANDIDATE) as candidate,
    ):
        until(lambda: parse_labels(stable.content()) is not None, "the page is served, also without rehearsals")
        assert stable.labels() == Labelled("pod", stable.labels().boot, "", 0, {})

        def post(number: int) -> None:
            """Post labels of both versions to the pod of stable; a third of those of the candidate is wrong."""
            for place in range(number):
                made = candidate.predict(1.0, f"25 {CANDIDATE} candidate")
                stable.post(made, "cat" if place % 3 == 0 else "dog")
                stable.post(stable.predict(-1.0, f"25 {CANDIDATE} stable"), "cat")

        post(30)
        assert stable.counts(25) == (30, 20, 30, 30)
        boot, first = stable.labels().boot, stable.processes()
        os.kill(first["worker"][0], signal.SIGKILL)
        until(lambda: len(stable.processes().get("worker", [])) == 2, "another worker runs")
        until(lambda: first["worker"][0] not in stable.processes()["worker"], "the first one has gone")
        post(9)
        os.kill(stable.processes()["page"][0], signal.SIGKILL)

        def is_served() -> bool:
            try:
                return bool(stable.content())
            except OSError:
                return False

        until(is_served, "another process serves the page")
        assert stable.processes()["page"] != first["page"]
        assert stable.counts(25) == (39, 26, 39, 39)
        assert stable.labels().boot == boot
        for drawn in ("", f"100 {CANDIDATE} candidate", f"25 {CANDIDATE} stable", "25 cccccccc candidate"):
            stable.post(candidate.predict(1.0, drawn), "dog")
        stable.post(stable.predict(1.0, f"25 {CANDIDATE} candidate"), "dog")
        assert stable.counts(25) == (39, 26, 39, 39), "not drawn for this side"
        duplicate = candidate.predict(1.0, f"5 {CANDIDATE} candidate")
        for _ in range(8):  # on connections of both workers
            stable.post(duplicate, "dog")
        assert stable.counts(5) == (1, 1, 0, 0)
        assert stable.labels().weights.keys() == {"5", "25"}
        # After the promotion, labels go to the pods of the candidate, also those of stable.
        candidate.post(stable.predict(-1.0, f"50 {CANDIDATE} stable"), "dog")
        candidate.post(candidate.predict(-1.0, f"50 {CANDIDATE} candidate"), "cat")
        assert candidate.counts(50) == (1, 1, 1, 0)
        assert b"dog" not in stable.content()
        assert candidate.content("/") != candidate.content(), "the page of the rehearsal is another one"
        for path in ("/", "/labels/720", "/metrics"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                stable.content(path)


def test_numbers_are_right_within_the_tolerance_of_the_spec(tmp_path: Path) -> None:
    model = LinearRegression().fit(np.array([[0.0], [1.0]]), [0.0, 1.0])
    with serving(model, tmp_path, STABLE) as stable:
        for error in (0.0, 0.4, 0.6, 3.0):
            stable.post(stable.predict(2.0, f"25 {CANDIDATE} stable"), 2.0 + error)
        assert stable.labels().kind == "numbers"
        assert stable.counts(25, QualityGate("within", 0.5)) == (0, 0, 4, 2)
        assert stable.counts(25, QualityGate("within", 1.0)) == (0, 0, 4, 3)
        assert stable.counts(25, QualityGate("within", 10.0)) == (0, 0, 4, 4)
