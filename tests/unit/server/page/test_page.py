"""The documents at ``/`` and ``/docs``, and the JSON that they use."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from fastapi.routing import APIRoute
from google.protobuf import json_format

from mlmodel_server import package, page
from mlmodel_server.manifest import Signature
from mlmodel_server.observe.cells import Identity
from mlmodel_server.observe.feedback import MAX_NUMBER, Feedback
from mlmodel_server.observe.ids import PredictionIds, key_of
from mlmodel_server.observe.metrics import BUCKETS, Recorder
from mlmodel_server.page.reference import reference
from mlmodel_server.rest import management, openapi, schemas
from mlmodel_server.rest.body import JSON, Head
from mlmodel_server.rest.endpoints import endpoints
from mlmodel_server.rpc import codec
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from mlmodel_server.serving.access import ApiKeys
from mlmodel_server.serving.context import Serving
from mlmodel_server.startup import options
from mlmodel_server.startup.assemble import assemble, read
from mlmodel_server.tensors import TensorSpec
from tests.unit.server.models import iris, mixed

MODEL = "/v2/models/m"


@pytest.fixture(scope="module", params=["iris", "mixed"])
def serving(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Serving:
    """A model of one matrix and a model of named columns of every kind, as in a worker."""
    model, X, y = iris() if request.param == "iris" else mixed()
    path = package.save(model, X, y, tmp_path_factory.mktemp("page"))
    arguments = ["--name", "m", "--model-version", "v1", "--uri", "pvc://claim", "--path", str(path)]
    parsed = options.parse([*arguments, "--workers", "2", "--compile", "off"])
    parsed.threads = 1
    made = assemble(parsed, read(parsed))
    made.recorder.start(0)
    made.feedback.start(0)
    made.ids.start()
    return made


def fetch_path(serving: Serving, path: str, body: Any = None) -> httpx.Response:
    """GET a path, or POST a JSON body to it."""

    async def response() -> httpx.Response:
        transport = httpx.ASGITransport(management.routes(serving))
        headers = {"accept": "text/html, */*"}
        async with httpx.AsyncClient(transport=transport, base_url="http://h:1", headers=headers) as client:
            return await (client.get(path) if body is None else client.post(path, json=body))

    return asyncio.run(response())


def described(serving: Serving) -> Any:
    return fetch_path(serving, "/openapi.json").json()


def table(serving: Serving, path: str, body: bytes, content_type: bytes = JSON) -> Any:
    """Return the table that the model gets from a request."""
    head = Head(0.0, None, content_type, b"")
    return serving.model.table(endpoints(serving)[path].decode(head, body).inputs)


def example_table(serving: Serving) -> Any:
    return table(serving, f"{MODEL}/infer", serving.example)


class Tags(HTMLParser):
    """The parts of a document: the text in scripts and styles, and all attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.inside, self.contents, self.attributes = "", list[tuple[str, str]](), list[tuple[str, str, str | None]]()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag if tag in ("script", "style") else ""
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.contents.append((self.inside, data))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""


# The documents


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_browser_runs_only_scripts_of_the_document(serving: Serving, path: str) -> None:
    answer = fetch_path(serving, path)
    tags = Tags(answer.text)
    policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    for tag in ("script", "style"):
        contents = [content for kind, content in tags.contents if kind == tag]
        hashes = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents]
        assert policy.get(f"{tag}-src", "") == " ".join(f"'sha256-{digest}'" for digest in hashes)
    assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    for tag, name, value in tags.attributes:
        assert not name.startswith("on")
        assert name not in ("style", "src", "srcdoc"), f"{name} of {tag}"
        if name == "href":  # relative, so that it works behind a proxy with a prefix
            assert value == "data:," or (value and re.fullmatch(r"(\./|#?[\w./]+)", value) and value[0] != "/")


def test_the_page_has_no_data_of_the_model(serving: Serving) -> None:
    """The page requires no key: it is the same for every model."""
    assert fetch_path(serving, "/").text == page.page().body.decode()


# The description


def test_the_description_has_all_paths_and_no_other(serving: Serving) -> None:
    paths = set(described(serving)["paths"])
    routes = {
        route.path
        for route in management.routes(serving).routes
        if isinstance(route, APIRoute) and route.include_in_schema
    }
    inference = {path for path in endpoints(serving) if not path.endswith("/")} - {"/v1/models/m:explain"}
    assert paths == routes | inference
    assert {f"{MODEL}/{what}" for what in ("infer", "feedback", "stats", "example", "profile")} < paths


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (to for name, to in value.items() if name == "$ref")
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from references(part)


def test_every_referenced_schema_exists(serving: Serving) -> None:
    found = described(serving)
    names = {f"#/components/schemas/{name}" for name in found["components"]["schemas"]}
    assert set(references(found)) <= names
    for methods in found["paths"].values():
        for operation in methods.values():
            assert operation["description"]
            assert operation["responses"]["200"]["content"]


def test_responses_and_examples_of_requests_follow_their_schemas(serving: Serving) -> None:
    types = schemas.types(serving.model.signature.inputs)
    found, checked = described(serving), set()
    for path, methods in found["paths"].items():
        content = methods.get("get", {"responses": {"200": {"content": {}}}})["responses"]["200"]["content"]
        if "application/json" not in content or path == "/":
            continue
        name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        msgspec.convert(fetch_path(serving, path).json(), types[name])
        checked.add(name)
    assert checked == {"Live", "Ready", "Server", "Models", "ModelMetadata", "InferRequest", "Profile", "Stats"}
    for path, name in ((f"{MODEL}/infer", "InferRequest"), ("/predict", "Rows")):
        example = found["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        msgspec.convert(example, types[name])
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"another": 1}, types[name])


def test_a_row_has_the_shapes_of_its_inputs() -> None:
    specs = [TensorSpec("a b", "FP64", (-1,)), TensorSpec("c", "BYTES", (-1, 2, -1)), TensorSpec("d", "INT8", (-1, 1))]
    row = schemas.schemas(specs)["Row"]
    assert row["required"] == ["a b", "c", "d"]
    assert row["properties"] == {
        "a b": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "c": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}, "minItems": 2, "maxItems": 2},
        "d": {"type": "integer"},
    }


def test_every_example_is_the_same_row(serving: Serving) -> None:
    """In every format, the model gets the same table: the row of the package."""
    by_path, expected = endpoints(serving), example_table(serving)
    assert len(expected) == 1
    formats = []
    for path, methods in described(serving)["paths"].items():
        operation = methods.get("post", {})
        if path not in by_path:
            continue
        for content_type, content in operation["requestBody"]["content"].items():
            if content_type == "application/octet-stream":
                continue
            example = content["example"]
            body = example if content_type == "text/csv" else json.dumps(example)
            found = table(serving, path, body.encode(), content_type.encode())
            assert np.array_equal(found, expected), f"{content_type} at {path}"
            formats.append(f"{path} {content_type}")
    assert len(formats) == 6


def test_the_example_is_that_of_the_package(serving: Serving) -> None:
    assert fetch_path(serving, f"{MODEL}/example").content == serving.example
    assert fetch_path(serving, f"{MODEL}/profile").json() == serving.profile
    assert serving.profile


def test_a_large_example_is_fetched_instead_of_shown(serving: Serving) -> None:
    data = [0.5] * 5000
    large = {"inputs": [{"name": "input-0", "shape": [1, 5000], "datatype": "FP64", "data": data}]}
    changed = dataclasses.replace(serving, example=json.dumps(large).encode())
    app = management.routes(changed)
    found = app.openapi()
    assert "example" not in found["paths"][f"{MODEL}/infer"]["post"]["requestBody"]["content"]["application/json"]
    text = unescape(reference(found, changed, "http://h").body.decode())
    assert f"curl -s $HOST{MODEL}/example |\n" in text
    assert "0.5, 0.5" not in text


def test_with_keys_the_description_lists_where_a_key_is_required(serving: Serving, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"a: {hashlib.sha256(b'k').hexdigest()}\n")
    changed = dataclasses.replace(serving, keys=ApiKeys(keys))
    found = described(changed)
    assert found["security"] == [{"bearer": []}, {"key": []}]
    without_key = {
        path for path, methods in found["paths"].items() if any(o.get("security") == [] for o in methods.values())
    }
    assert without_key == {
        "/",
        "/metrics",
        "/v2/health/live",
        "/v2/health/ready",
        f"{MODEL}/ready",
        f"{MODEL}/versions/v1/ready",
    }
    for path, methods in found["paths"].items():
        for operation in methods.values():
            assert ("401" in operation["responses"]) == (path not in without_key)
    text = unescape(fetch_path(changed, "/docs").text)
    assert text.count('-H "Authorization: Bearer $KEY"') == text.count("curl -s")
    assert "security" not in described(serving)


def test_nested_data_of_an_example() -> None:
    assert openapi.nested([1, 2, 3, 4, 5, 6], [1, 2, 3]) == [[[1, 2, 3], [4, 5, 6]]]
    assert openapi.nested([1, 2], [2]) == [1, 2]
    assert openapi.nested([], [1, 0]) == []


# The reference


def test_the_grpc_command_sends_the_same_row(serving: Serving) -> None:
    found = described(serving)
    assert "grpcurl" not in reference(found, serving, "http://h:1").body.decode()
    changed = dataclasses.replace(serving, grpc="127.0.0.1:9000")
    text = unescape(reference(found, changed, "http://h:1").body.decode())
    (command,) = re.findall(r"grpcurl (.*?)</pre>", text, re.DOTALL)
    plain, _, message, address, method = shlex.split(command.replace("\\\n", " "))
    assert (plain, address, method) == ("-plaintext", "h:9000", "inference.GRPCInferenceService/ModelInfer")
    request = codec.decode(json_format.Parse(message, pb.ModelInferRequest()))
    assert np.array_equal(np.asarray(serving.model.table(request.inputs)), example_table(serving))


def test_names_and_hosts_are_escaped(serving: Serving) -> None:
    evil = "<script>alert(1)</script>"
    found, signature = described(serving), serving.model.signature
    spec = TensorSpec(evil, "FP64", (-1,))
    serving.model.signature = Signature(signature.layout, (spec,), (spec,), (evil,))
    try:
        text = reference(found, serving, f"http://{evil}").body.decode()
    finally:
        serving.model.signature = signature
    assert evil not in text
    assert f"HOST={shlex.quote(f'http://{evil}')}" in unescape(text)
    assert f'"label": "{evil}"' in unescape(text)
    assert unescape(text).count(f"<td>{evil}<td>") == 2, "as an input and as an output"


# The numbers


def test_the_counts_are_those_of_all_workers() -> None:
    recorder = Recorder(Identity("m", "v1", "r1"), 2)
    for slot in (1, 0):
        recorder.start(slot)
        recorder.record_response(200, 0.004, 0.001, 0.002, rows=3)
        recorder.record_response(400, 0.00001)
        recorder.record_shed("deadline")
        recorder.in_flight, recorder.queued = 2, 1
        recorder.fold()
    found = json.loads(json.dumps(recorder.report()))
    assert found["requests"] == {"200": 2, "400": 2}
    assert (found["rows"], found["shed"]["deadline"], found["in_flight"], found["queued"]) == (6, 2, 4, 2)
    total, queue = found["seconds"]["total"], found["seconds"]["queue"]
    assert found["buckets"] == list(BUCKETS)
    assert len(total["counts"]) == len(BUCKETS) + 1
    assert total["counts"][0] == 2
    assert total["counts"][BUCKETS.index(0.005)] == 2
    assert (total["sum"], queue["sum"]) == (pytest.approx(0.00802), pytest.approx(0.002))
    assert sum(queue["counts"]) == 2
    assert found["drift"] == []


def test_the_stats_follow_their_schema(serving: Serving) -> None:
    row, (right, wrong) = example_table(serving), serving.model.signature.classes[:2]
    (predictions,) = serving.model.predict(row, ("predict",))
    serving.recorder.record_predictions(row, predictions, 1)
    label = wrong if str(predictions[0]) == right else right
    posted = {"prediction_id": serving.ids.make(predictions), "label": label}
    assert fetch_path(serving, f"{MODEL}/feedback", posted).json() == {"scored": 1, "duplicates": 0, "unknown": 0}
    found = fetch_path(serving, f"{MODEL}/stats").json()
    components = described(serving)["components"]["schemas"]
    fits(found, components["Stats"], components)
    assert [report["rows"] for report in found["drift"]] == [1] * len(found["drift"])
    assert found["drift"][-1]["name"] == "predict"
    assert found["feedback"][0]["scores"]["accuracy"] == 0


def fits(value: Any, schema: Any, components: Any) -> None:
    """Check a value against the subset of JSON Schema that the stats use."""
    if "$ref" in schema:
        schema = components[schema["$ref"].rpartition("/")[2]]
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "number": (int, float), "integer": int}
    assert isinstance(value, kinds[schema["type"]])
    if schema["type"] == "array":
        for part in value:
            fits(part, schema["items"], components)
    if schema["type"] == "object" and "properties" in schema:
        assert set(value) == set(schema["properties"]) == set(schema["required"])
        for name, part in value.items():
            fits(part, schema["properties"][name], components)
    elif schema["type"] == "object":
        for part in value.values():
            fits(part, schema["additionalProperties"], components)


def test_json_can_hold_every_score() -> None:
    ids = PredictionIds(key_of("m"), Identity("m", "v1", "r1"), "regression")
    feedback = Feedback(ids, Identity("m", "v1", "r1"))
    ids.start()
    feedback.start()
    feedback.post(json.dumps({"prediction_id": ids.make(np.array([MAX_NUMBER])), "label": -MAX_NUMBER}).encode())
    (found,) = feedback.report()
    assert found["scores"] == {"mae": pytest.approx(2 * MAX_NUMBER), "rmse": pytest.approx(2 * MAX_NUMBER)}
    assert json.dumps(found, allow_nan=False)


def test_versions_without_labels_are_not_reported() -> None:
    ids = PredictionIds(key_of("m"), Identity("m", "v1", "r1"), "regression")
    feedback = Feedback(ids, Identity("m", "v1", "r1"))
    feedback.start()
    assert feedback.report() == []
