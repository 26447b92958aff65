"""Models without a table, and methods other than ``predict``, through every protocol of a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline

from mlmodel_server import package
from tests.integration.server.processes import Server, running

TEXTS = ["a good movie", "a bad film", "good day", "awful night, really"] * 10
MOODS = ["good", "bad"] * 20
MODEL = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, MOODS)
ASKED = ["a really good film", "awful", "Grüße"]
ROWS = np.random.default_rng(20261129).normal(size=(40, 3))


@pytest.fixture(scope="module", params=["bare", "package"])
def moods(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("moods")
    if request.param == "bare":
        joblib.dump(MODEL, path / "model.joblib")
    else:
        package.save(MODEL, TEXTS, MOODS, path)
    with running("--uri", path) as server:
        yield server


def answer(server: Server, path: str, body: Any, **headers: Any) -> Any:
    sent = body if isinstance(body, str) else json.dumps(body)
    replied = server.send("POST", path, sent.encode(), **headers)
    assert replied.status == 200, replied.body
    return json.loads(replied.body)


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/predict", ASKED, {}),
        ("/predict", [{"text": text} for text in ASKED], {}),
        ("/v1/models/tumour:predict", {"instances": ASKED}, {}),
        ("/v1/models/tumour:predict", {"instances": [{"text": text} for text in ASKED]}, {}),
        ("/invocations", {"inputs": ASKED}, {}),
        ("/invocations", {"dataframe_split": {"columns": ["text"], "data": [[text] for text in ASKED]}}, {}),
        ("/invocations", "text\n" + "\n".join(ASKED), {"content_type": "text/csv"}),
    ],
)
def test_texts_are_rows_in_every_protocol(moods: Server, path: str, body: Any, headers: dict[str, str]) -> None:
    assert answer(moods, path, body, **headers)["predictions"] == MODEL.predict(ASKED).tolist()


def test_every_output_is_served_by_name(moods: Server) -> None:
    metadata = json.loads(moods.send("GET", "/v2/models/tumour").body)
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    for spec in metadata["outputs"]:
        tensor = {"name": "text", "datatype": "BYTES", "shape": [3], "data": ASKED}
        found = answer(moods, "/v2/models/tumour/infer", {"inputs": [tensor], "outputs": [{"name": spec["name"]}]})
        expected = getattr(MODEL, spec["name"])(ASKED)
        assert found["outputs"][0]["data"] == expected.ravel().tolist()


def test_the_example_of_the_server_is_answered(moods: Server) -> None:
    example = moods.send("GET", "/v2/models/tumour/example")
    assert example.status == 200, "the server has an example"
    assert moods.send("POST", "/v2/models/tumour/infer", example.body).status == 200


def test_neighbours_are_answered_by_name_and_by_row(tmp_path: Path) -> None:
    search = NearestNeighbors(n_neighbors=2).fit(ROWS)
    joblib.dump(search, tmp_path / "model.joblib")
    distances, indices = search.kneighbors(ROWS[:2])
    with running("--uri", tmp_path) as server:
        found = answer(server, "/v1/models/tumour:predict", {"instances": ROWS[:2].tolist()})["predictions"]
    assert [row["kneighbors_indices"] for row in found] == indices.tolist()
    np.testing.assert_allclose([row["kneighbors_distances"] for row in found], distances)
