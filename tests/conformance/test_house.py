"""The other protocols of our server: v1, /invocations of MLflow, and plain rows."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from tests.conformance.target import Answer, Target, flat, nested

pytestmark = [pytest.mark.section("docs/reference/server.md"), pytest.mark.house]


def row(target: Target) -> dict[str, Any]:
    """Return the row of the sample by feature name."""
    return {tensor["name"]: nested(flat(tensor["data"]), tensor["shape"])[0] for tensor in target.sample["inputs"]}


def values(target: Target) -> list[Any]:
    """Return the row of the sample by position."""
    found = list(row(target).values())
    inner: list[Any] = found[0] if len(found) == 1 and isinstance(found[0], list) else found
    return inner


def prediction(target: Target) -> Any:
    """Return the prediction of v2 for the sample."""
    (output,) = target.outputs(target.infer(target.sample)).values()
    return output["data"][0]


def predicted(target: Target, answer: Answer, count: int) -> None:
    assert answer.status == 200, f"the request gets 200: {answer}"
    assert answer.json == {"predictions": [prediction(target)] * count}


def post(target: Target, path: str, value: Any, **headers: str) -> Answer:
    return target.infer(value, path, **headers)


@pytest.mark.parametrize("slash", ["", "/"])
def test_v1_predict(target: Target, slash: str) -> None:
    """POST /v1/models/MODEL:predict answers rows by position and by name."""
    path = f"/v1/models/{target.model}:predict{slash}"
    predicted(target, post(target, path, {"instances": [values(target)] * 2}), 2)
    predicted(target, post(target, path, {"instances": [row(target)] * 3}), 3)
    predicted(target, post(target, path, {"inputs": {name: [value] * 2 for name, value in row(target).items()}}), 2)


def test_v1_errors(target: Target) -> None:
    """v1 rejects requests like v2."""
    path = f"/v1/models/{target.model}:predict"
    invalid: list[Any] = [b"{", {}, {"instances": []}, {"instances": 1}, {"instances": [{"b64": "YQ=="}]}]
    for wrong in invalid:
        target.rejected(post(target, path, wrong))
    target.rejected(post(target, path, {"instances": [{**row(target), "extra": 1}]}), "row 0", "extra")
    target.rejected(target.send("GET", path), "GET", status=405)
    target.rejected(post(target, "/v1/models/no-such-model:predict", {"instances": [values(target)]}), status=404)


def test_v1_models(target: Target) -> None:
    """GET /v1/models lists the model, and GET /v1/models/MODEL returns that it is ready."""
    assert target.send("GET", "/v1/models").json == {"models": [target.model]}
    assert target.send("GET", f"/v1/models/{target.model}").json == {"name": target.model, "ready": True}
    assert target.send("GET", "/v1/models/no-such-model").status == 404


def test_invocations(target: Target) -> None:
    """POST /invocations accepts the forms of MLflow's scoring server."""
    one = values(target)
    names = list(row(target)) if len(row(target)) == len(one) else [f"c{index}" for index in range(len(one))]
    for form in (
        {"dataframe_split": {"columns": names, "data": [one, one]}},
        {"dataframe_split": {"columns": names, "data": [one, one], "index": [7, 8]}},
        {"dataframe_records": [row(target)] * 2},
        {"instances": [one, one]},
        {"inputs": [one, one]},
    ):
        predicted(target, post(target, "/invocations", form), 2)


def test_invocations_csv(target: Target) -> None:
    """POST /invocations accepts CSV; its first line has the names."""
    one = values(target)
    names = list(row(target)) if len(row(target)) == len(one) else [f"c{index}" for index in range(len(one))]
    text = io.StringIO()
    csv.writer(text).writerows([names, one, one])
    predicted(target, post(target, "/invocations", text.getvalue().encode(), Content_Type="text/csv"), 2)
    target.rejected(post(target, "/invocations", b"\xff", Content_Type="text/csv"), "CSV")


def test_invocations_errors(target: Target) -> None:
    """Errors of /invocations name what to send instead."""
    target.rejected(post(target, "/invocations", {}), "dataframe_split")
    target.rejected(post(target, "/invocations", {"instances": [values(target)], "inputs": []}), "one of")
    target.rejected(target.send("GET", "/invocations"), "GET", status=405)


def test_plain_rows(target: Target) -> None:
    """POST /predict accepts a row as a JSON object by feature name, or an array of such objects."""
    predicted(target, post(target, "/predict", row(target)), 1)
    predicted(target, post(target, "/predict", [row(target)] * 3), 3)
    target.rejected(post(target, "/predict", [row(target), {}]), "row 1", next(iter(row(target))), "missing")
    target.rejected(post(target, "/predict", {**row(target), "agee": 1}), "row 0", "unknown feature 'agee'")
    name = next(iter(row(target)))
    target.rejected(post(target, "/predict", {**row(target), name: {}}), "row 0", name, "not an object")


def test_a_missing_value(target: Target) -> None:
    """null is a missing value: the model answers, or the server rejects the request."""
    first = next(iter(row(target)))
    value = row(target)[first]
    missing = [None, *value[1:]] if isinstance(value, list) else None
    answer = post(target, "/predict", {**row(target), first: missing})
    if answer.status != 200:
        target.rejected(answer)


def test_documented_example(target: Target) -> None:
    """/openapi.json has a working example of inference, and /docs is a page."""
    described = target.send("GET", "/openapi.json").json
    operation = described["paths"][f"{target.base}/infer"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    target.outputs(target.infer(json.dumps(example).encode()))
    assert target.send("GET", "/docs").headers["content-type"].startswith("text/html")
