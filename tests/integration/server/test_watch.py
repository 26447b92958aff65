"""Feedback, shadow, drift and payload log of a running server: labels score the version that predicted on any pod, a
shadow is compared, drift is measured, requests are logged only if that is on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlmodel_server import package
from tests.integration.server.processes import Server, metric, running, until

SEED = 20261124
INFER = "/v2/models/tumour/infer"
FEEDBACK = "/v2/models/tumour/feedback"
ID = "x-mlmodel-prediction-id"

DATA = load_iris()
NAMES = DATA.target_names[DATA.target]


def request(*rows: Any) -> str:
    data = np.asarray(rows, dtype=float)
    tensor = {"name": "input-0", "shape": list(data.shape), "datatype": "FP64", "data": data.ravel().tolist()}
    return json.dumps({"inputs": [tensor]})


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A good version, and one that was trained without the last class."""
    folder = tmp_path_factory.mktemp("packages")
    good = LogisticRegression(max_iter=500).fit(DATA.data, NAMES)
    poor = LogisticRegression(max_iter=500).fit(DATA.data[:100], NAMES[:100])
    package.save(good, DATA.data, NAMES, folder / "v1", version="v1")
    package.save(poor, DATA.data[:100], NAMES[:100], folder / "v2", version="v2")
    return {"v1": folder / "v1", "v2": folder / "v2"}


def test_labels_score_the_version_that_predicted_on_any_pod(packages: dict[str, Path]) -> None:
    with (
        running("--uri", "pvc://x", "--path", packages["v1"], "--revision", "aaaa") as stable,
        running("--uri", "pvc://x", "--path", packages["v2"], "--revision", "bbbb", "--workers", "2") as candidate,
    ):
        for place in range(0, 150, 10):
            response = candidate.send("POST", INFER, request(DATA.data[place]))
            body = json.dumps({"prediction_id": response.headers[ID], "label": NAMES[place]})
            receiver = stable if place % 20 else candidate  # the router sends labels to either
            assert receiver.send("POST", FEEDBACK, body).json()["scored"] == 1
            assert receiver.send("POST", FEEDBACK, body).json()["duplicates"] == 1
        by_revision = {"revision": "bbbb", "version": "v2"}
        labels = sum(metric(server, "mlmodel_feedback_labels_total", **by_revision) for server in (stable, candidate))
        right = sum(metric(server, "mlmodel_feedback_correct_total", **by_revision) for server in (stable, candidate))
        assert (labels, right) == (15, 10), "the class that it was not trained on is always wrong"
        assert metric(stable, "mlmodel_feedback_labels_total", revision="aaaa") == 0
        rejected = stable.send("POST", FEEDBACK, json.dumps({"prediction_id": "AAAA", "label": "setosa"}))
        assert rejected.status == 400
        assert "prediction_id" in rejected.json()["error"]


def test_several_rows_get_several_labels_and_long_requests_no_id(packages: dict[str, Path]) -> None:
    with running("--uri", "pvc://x", "--path", packages["v1"]) as server:
        response = server.send("POST", INFER, request(*DATA.data[:64]))
        body = {"prediction_id": response.headers[ID], "labels": NAMES[:64].tolist()}
        assert server.send("POST", FEEDBACK, json.dumps(body)).json() == {"scored": 64, "duplicates": 0, "unknown": 0}
        assert metric(server, "mlmodel_accuracy") == 1.0
        assert ID not in server.send("POST", INFER, request(*DATA.data[:65])).headers


def test_a_shadow_gets_copies_and_is_compared_by_row(packages: dict[str, Path]) -> None:
    with running("--uri", "pvc://x", "--path", packages["v2"], "--revision", "bbbb") as shadow:
        given = ("--shadow", f"http://127.0.0.1:{shadow.port}", "--shadow-percent", "100")
        with running("--uri", "pvc://x", "--path", packages["v1"], *given) as server:
            for place in range(0, 150, 10):
                assert server.send("POST", INFER, request(DATA.data[place])).status == 200
                until(lambda: sum(outcomes(server).values()) == place // 10 + 1, "the copy was sent")  # noqa: B023
            assert outcomes(server) == {"compared": 15}
            ours, theirs = (predictions(version)[::10] for version in (server, shadow))
            same = sum(one == other for one, other in zip(ours, theirs, strict=True))
            assert 5 <= same <= 10, "rows of the class that the shadow was not trained on differ"
            assert metric(server, "mlmodel_shadow_rows_total", agree="true") == same
            assert metric(server, "mlmodel_shadow_rows_total", agree="false") == 15 - same


def predictions(server: Server) -> list[str]:
    """Return the prediction for every row."""
    labels: list[str] = server.send("POST", INFER, request(*DATA.data), x_mlmodel_shadow="true").json()["outputs"][0][
        "data"
    ]
    return labels


def outcomes(server: Server) -> dict[str, float]:
    name = "mlmodel_shadow_requests_total"
    return {
        dict(labels)["outcome"]: value
        for (sample, labels), value in server.samples().items()
        if sample == name and value
    }


def test_drift_is_measured_for_the_feature_that_moved_only(packages: dict[str, Path]) -> None:
    moved = DATA.data.copy()
    moved[:, 0] += 2.0
    with running("--uri", "pvc://x", "--path", packages["v1"], "--workers", "2") as server:
        for _ in range(10):
            assert server.send("POST", INFER, request(*moved)).status == 200
        until(lambda: metric(server, "mlmodel_requests_total") == 10, "all are counted")
        name = "mlmodel_feature_drift_psi"
        drift = {dict(labels)["feature"]: value for (n, labels), value in server.samples().items() if n == name}
        print(drift)
        assert drift.pop("input-0[0]") > 0.25
        assert len(drift) == 3
        assert max(drift.values()) < 0.1


def test_payloads_are_logged_if_the_log_is_on(packages: dict[str, Path], tmp_path: Path) -> None:
    given = ("--payload-log", tmp_path, "--payload-percent", "100")
    with running("--uri", "pvc://x", "--path", packages["v1"], *given) as server:
        prediction = server.send("POST", INFER, request(DATA.data[0])).headers[ID]
        server.stop()
    (file,) = tmp_path.iterdir()
    record = json.loads(file.read_text())
    assert record["prediction_id"] == prediction
    assert record["inputs"]["input-0[0]"] == DATA.data[0, 0]
    assert record["outputs"] == {"predict": "setosa"}
