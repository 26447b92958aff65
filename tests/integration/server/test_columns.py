"""A package with dates, text and missing values in a server process with two workers: every protocol, many clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from mlmodel_server import package
from tests.integration.server.processes import Server, running

SEED = 7
ROWS = 300


def people() -> pd.DataFrame:
    random = np.random.default_rng(SEED)
    cities = random.choice(["Oslo", "Rome"], ROWS).astype(object)
    cities[random.random(ROWS) < 0.2] = None
    visits = random.integers(0, 9, ROWS).astype(object)
    visits[random.random(ROWS) < 0.2] = None
    return pd.DataFrame(
        {
            "age": random.uniform(18, 80, ROWS),
            "city": cities,
            "visits": pd.array(visits, dtype="Int64"),
            "member": random.random(ROWS) > 0.5,
            "joined": pd.to_datetime("2024-02-26") + pd.to_timedelta(np.arange(ROWS) % 7, "D"),
        }
    )


def fitted() -> tuple[Any, pd.DataFrame]:
    X = people()
    columns = ColumnTransformer(
        [
            ("texts", OneHotEncoder(handle_unknown="ignore"), ["city", "joined"]),
            ("counts", SimpleImputer(), ["visits"]),
            ("ages", FunctionTransformer(np.log1p), ["age"]),
        ],
        remainder="passthrough",
    )
    y = np.where((X.joined.dt.day_of_week < 3) ^ X.member, "yes", "no")
    return make_pipeline(columns, LogisticRegression(max_iter=1000)).fit(X, y), X


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model, X = fitted()
    path = package.save(model, X, model.predict(X), tmp_path_factory.mktemp("people"), extra_columns="ignore")
    log = tmp_path_factory.mktemp("log")
    with running("--uri", path, "--workers", "2", "--payload-log", log, "--payload-percent", "100") as running_server:
        yield running_server


def test_every_client_gets_the_answer_of_the_library(server: Server) -> None:
    model, X = fitted()
    expected = model.predict(X).tolist()
    records = json.loads(X.to_json(orient="records", date_format="iso"))

    def answer(row: int) -> Any:
        return server.send("POST", "/predict", json.dumps({"id": row, **records[row]})).json()["predictions"][0]

    with ThreadPoolExecutor(16) as clients:
        assert list(clients.map(answer, range(ROWS))) == expected
    together = server.send("POST", "/predict", json.dumps(records)).json()
    assert together == {"predictions": expected}
    text = X[X.columns[::-1]].assign(note="x").to_csv(index=False)
    table = server.send("POST", "/invocations", text, content_type="text/csv").json()
    assert table == {"predictions": expected}


def test_the_metadata_and_the_example_describe_the_columns(server: Server) -> None:
    metadata = server.send("GET", "/v2/models/tumour").json()
    columns = json.loads(metadata["properties"]["columns"])
    assert all(spec.keys() == {"name", "datatype", "shape"} for spec in metadata["inputs"])
    assert {name: column["dtype"] for name, column in columns.items()} == {
        "age": "float64", "city": "str", "visits": "Int64", "member": "bool", "joined": "datetime64[us]",
    }  # fmt: skip
    assert [name for name, column in columns.items() if column.get("missing")] == ["city", "visits", "joined"]
    assert columns["joined"]["format"].startswith("ISO 8601 without an offset")
    assert metadata["properties"]["extra_columns"] == "ignored"
    example = server.send("GET", "/v2/models/tumour/example").body
    assert server.send("POST", "/v2/models/tumour/infer", example).status == 200
    assert server.send("GET", "/openapi.json").status == server.send("GET", "/docs").status == 200
    assert "joined" not in server.send("GET", "/v2/models/tumour/profile").json(), "dates change every day"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"joined": "2024-02-26T00:00:00Z"}, "row 0: input 'joined' must be a date in ISO 8601 without an offset"),
        ({"joined": 1708905600000}, "row 0: feature 'joined' must be a date as text in ISO 8601 without an offset"),
        ({"visits": 30.5}, "row 0: feature 'visits' must be an integer"),
        ({"age": None}, "in 'age'"),
        ({"member": 2}, "row 0: feature 'member' must be true or false"),
    ],
)
def test_a_wrong_value_is_refused_with_its_column(server: Server, change: dict[str, Any], words: str) -> None:
    row = {"age": 40.0, "city": None, "visits": None, "member": 1, "joined": "2024-02-26"}
    assert server.send("POST", "/predict", json.dumps(row)).status == 200
    answer = server.send("POST", "/predict", json.dumps({**row, **change}))
    assert answer.status == 400
    assert words in answer.json()["error"]
