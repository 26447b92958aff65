"""The server watches itself: labels score the version that predicted, whichever pod they reach; a shadow is compared;
drift shows; a sample is written down only when asked for."""

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
    """A good version, and one that was trained on labels of which the last class is missing."""
    folder = tmp_path_factory.mktemp("packages")
    good = LogisticRegression(max_iter=500).fit(DATA.data, NAMES)
    poor = LogisticRegression(max_iter=500).fit(DATA.data[:100], NAMES[:100])
    package.save(good, DATA.data, NAMES, folder / "v1", version="v1")
    package.save(poor, DATA.data[:100], NAMES[:100], folder / "v2", version="v2")
    return {"v1": folder / "v1", "v2": folder / "v2"}


def test_labels_score_the_version_that_predicted_on_any_pod(packages: dict[str, Path]) -> None:
    with (
        running("--uri", "pvc://x", "--path", packages["v1"], "--revision", "aaaa") as old,
        running("--uri", "pvc://x", "--path", packages["v2"], "--revision", "bbbb", "--workers", "2") as new,
    ):
        for place in range(0, 150, 10):
            answered = new.ask("POST", INFER, request(DATA.data[place]))
            body = json.dumps({"prediction_id": answered.headers[ID], "label": NAMES[place]})
            told = old if place % 20 else new  # the router sends labels to either
            assert told.ask("POST", FEEDBACK, body).json()["scored"] == 1
            assert told.ask("POST", FEEDBACK, body).json()["duplicates"] == 1
        by_revision = {"revision": "bbbb", "version": "v2"}
        labels = sum(metric(server, "mlmodel_feedback_labels_total", **by_revision) for server in (old, new))
        right = sum(metric(server, "mlmodel_feedback_correct_total", **by_revision) for server in (old, new))
        assert (labels, right) == (15, 10), "the class that it never saw is always wrong"
        assert metric(old, "mlmodel_feedback_labels_total", revision="aaaa") == 0
        refused = old.ask("POST", FEEDBACK, json.dumps({"prediction_id": "AAAA", "label": "setosa"}))
        assert refused.status == 400
        assert "prediction_id" in refused.json()["error"]


def test_several_rows_take_several_labels_and_long_requests_get_no_id(packages: dict[str, Path]) -> None:
    with running("--uri", "pvc://x", "--path", packages["v1"]) as server:
        answered = server.ask("POST", INFER, request(*DATA.data[:64]))
        body = {"prediction_id": answered.headers[ID], "labels": NAMES[:64].tolist()}
        assert server.ask("POST", FEEDBACK, json.dumps(body)).json() == {"scored": 64, "duplicates": 0, "unknown": 0}
        assert metric(server, "mlmodel_accuracy") == 1.0
        assert ID not in server.ask("POST", INFER, request(*DATA.data[:65])).headers


def test_a_shadow_gets_copies_and_is_compared_row_by_row(packages: dict[str, Path]) -> None:
    with running("--uri", "pvc://x", "--path", packages["v2"], "--revision", "bbbb") as shadow:
        given = ("--shadow", f"http://127.0.0.1:{shadow.port}", "--shadow-percent", "100")
        with running("--uri", "pvc://x", "--path", packages["v1"], *given) as server:
            for place in range(0, 150, 10):
                assert server.ask("POST", INFER, request(DATA.data[place])).status == 200
                until(lambda: sum(outcomes(server).values()) == place // 10 + 1, "the copy was sent")  # noqa: B023
            assert outcomes(server) == {"compared": 15}
            ours, theirs = (answers(version)[::10] for version in (server, shadow))
            agreed = sum(one == other for one, other in zip(ours, theirs, strict=True))
            assert 5 <= agreed <= 10, "those of the class that the other version never saw differ"
            assert metric(server, "mlmodel_shadow_rows_total", agree="true") == agreed
            assert metric(server, "mlmodel_shadow_rows_total", agree="false") == 15 - agreed


def answers(server: Server) -> list[str]:
    """What it says of every row."""
    found: list[str] = server.ask("POST", INFER, request(*DATA.data), x_mlmodel_shadow="true").json()["outputs"][0][
        "data"
    ]
    return found


def outcomes(server: Server) -> dict[str, float]:
    name = "mlmodel_shadow_requests_total"
    return {
        dict(held)["outcome"]: value for (found, held), value in server.samples().items() if found == name and value
    }


def test_drift_shows_for_the_feature_that_moved_and_no_other(packages: dict[str, Path]) -> None:
    moved = DATA.data.copy()
    moved[:, 0] += 2.0
    with running("--uri", "pvc://x", "--path", packages["v1"], "--workers", "2") as server:
        for _ in range(10):
            assert server.ask("POST", INFER, request(*moved)).status == 200
        until(lambda: metric(server, "mlmodel_requests_total") == 10, "all are counted")
        name = "mlmodel_feature_drift_psi"
        found = {dict(held)["feature"]: value for (n, held), value in server.samples().items() if n == name}
        print(found)
        assert found.pop("input-0[0]") > 0.25
        assert len(found) == 3
        assert max(found.values()) < 0.1


def test_payloads_are_written_only_when_asked_for(packages: dict[str, Path], tmp_path: Path) -> None:
    given = ("--payload-log", tmp_path, "--payload-percent", "100")
    with running("--uri", "pvc://x", "--path", packages["v1"], *given) as server:
        prediction = server.ask("POST", INFER, request(DATA.data[0])).headers[ID]
        server.stop()
    (file,) = tmp_path.iterdir()
    record = json.loads(file.read_text())
    assert record["prediction_id"] == prediction
    assert record["inputs"]["input-0[0]"] == DATA.data[0, 0]
    assert record["outputs"] == {"predict": "setosa"}
