"""The HTTP application: HEAD, outputs that the query selects, and the order of checks."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlmodel_server.engine.model import Model
from mlmodel_server.formats.opened import CONTRIBUTIONS, Table
from mlmodel_server.manifest import Signature
from mlmodel_server.rest.app import LEARNT_TARGETS, Application
from mlmodel_server.rest.reply import Reply
from mlmodel_server.serving.access import LOOPBACK, ApiKeys, Hosts
from mlmodel_server.serving.pipeline import Pipeline
from mlmodel_server.tensors import TensorSpec
from tests.unit.server.doubling import serving

NAMES = ("predict", "predict_proba", "decision function", "a,b")
PREDICT, INVOCATIONS, ROWS = "/v1/models/double:predict", "/invocations", "/predict"
EXPLAIN, INFER = "/v1/models/double:explain", "/v2/models/double/infer"
BODIES: dict[str, Any] = {
    PREDICT: {"instances": [[1.0], [2.0]]},
    INVOCATIONS: {"dataframe_split": {"columns": ["x"], "data": [[1.0], [2.0]]}},
    ROWS: [{"x": 1.0}, {"x": 2.0}],
}


def outputs_of(table: Table, wanted: Sequence[str]) -> list[Any]:
    """Predict: the numbers, their powers, and so on."""
    x = np.asarray(table)[:, 0]
    known = {"predict": x, "predict_proba": np.stack([x, x**2], axis=1), "decision function": -x, "a,b": x + 1}
    return [known[name] for name in wanted]


def application(names: Sequence[str] = NAMES, inputs: Sequence[str] = ("x",), **more: Any) -> Application:
    served = serving(**more)
    outputs = tuple(TensorSpec(name, "FP64", (-1, 2) if name == "predict_proba" else (-1,)) for name in names)
    served.model = Model(
        outputs_of, Signature("columns", tuple(TensorSpec(name, "FP64", (-1,)) for name in inputs), outputs)
    )
    return Application(Pipeline(served))


Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


async def request(app: Application, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
    path, _, query = target.partition("?")
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "server": ("h", 80),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], sent[0]["headers"], b"".join(message["body"] for message in sent[1:])


def post(app: Application, target: str, body: Any, **headers: str) -> tuple[int, Any]:
    async def whole() -> Answer:
        app.pipeline.start(0)
        try:
            return await request(app, "POST", target, json.dumps(body).encode(), **headers)
        finally:
            await app.pipeline.stop()

    status, _, answer = asyncio.run(whole())
    return status, json.loads(answer)


def gets() -> Iterator[str]:
    document = application()._management.openapi()
    for path, methods in document["paths"].items():
        if "get" in methods:
            yield path
    yield from ("/openapi.json", "/v2/", "/nothing", "/v2/models/double/feedback")


@pytest.mark.parametrize("path", list(gets()))
@pytest.mark.parametrize("accept", ["*/*", "text/html"])
def test_head_is_get_without_its_body(path: str, accept: str) -> None:
    app = application()

    async def both() -> tuple[Answer, Answer]:
        app.pipeline.start(0)
        answers = await request(app, "GET", path, accept=accept), await request(app, "HEAD", path, accept=accept)
        await app.pipeline.stop()
        return answers

    (status, headers, body), (status_of_head, headers_of_head, nothing) = asyncio.run(both())
    assert (status_of_head, nothing) == (status, b"")
    changing = ("/metrics", "/v2/models/double/stats")
    names = [name for name, _ in headers]
    assert [name for name, _ in headers_of_head] == names
    if path not in changing:
        assert headers_of_head == headers
        assert (b"content-length", b"%d" % len(body)) in headers_of_head


@pytest.mark.attack(held=True)
def test_head_of_a_path_with_a_key_requires_the_key(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"client: {hashlib.sha256(b'k').hexdigest()}\n")
    app = application(keys=ApiKeys(tmp_path / "keys"))
    status, _, body = asyncio.run(request(app, "HEAD", "/v2/models/double"))
    assert (status, body) == (401, b"")


def test_a_wrong_method_names_head() -> None:
    status, headers, _ = asyncio.run(request(application(), "DELETE", "/v2/models/double"))
    assert status == 405
    assert dict(headers)[b"allow"] == b"GET, HEAD"


@pytest.mark.parametrize(
    ("path", "similar"),
    [
        ("/predct", "'/predict'"),
        ("/v1/models/doubled:predict", "'/v1/models/double:predict'"),
        ("/V2/models/double", "'/v2/models/double'"),
        ("/admin/shell", ""),
    ],
)
def test_an_unknown_path_gets_a_similar_one(path: str, similar: str) -> None:
    status, answer = post(application(), path, {})
    assert status == 404
    assert re.findall(r"did you mean (.*)\?\)", answer["error"]) == ([similar] if similar else [])


PROBA = [[1.0, 1.0], [2.0, 4.0]]


@pytest.mark.parametrize("path", list(BODIES))
@pytest.mark.parametrize(
    ("query", "predictions"),
    [
        ("", [1.0, 2.0]),
        ("?", [1.0, 2.0]),
        ("?&", [1.0, 2.0]),
        ("?outputs=predict", [1.0, 2.0]),
        ("?outputs=predict_proba", PROBA),
        ("?&outputs=predict%5Fproba&", PROBA),
        ("?outputs=decision%20function", [-1.0, -2.0]),
        ("?outputs=decision+function", [-1.0, -2.0]),
        ("?outputs=a%2Cb", [2.0, 3.0]),
        (
            "?outputs=predict_proba,predict",
            [{"predict_proba": [1.0, 1.0], "predict": 1.0}, {"predict_proba": [2.0, 4.0], "predict": 2.0}],
        ),
    ],
)
def test_the_query_selects_outputs(path: str, query: str, predictions: Any) -> None:
    assert post(application(), path + query, BODIES[path]) == (200, {"predictions": predictions})


@pytest.mark.parametrize("path", list(BODIES))
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("outputs=nothing", "unknown output 'nothing'; the model has predict, predict_proba, decision function, a,b"),
        ("outputs=", "unknown output ''; the model has predict"),
        ("outputs=predict,", "unknown output ''; the model has predict"),
        ("outputs", "unknown output ''; the model has predict"),
        ("outputs=predict,predict", "the same name twice"),
        ("outputs=predict&outputs=predict_proba", "the query has outputs twice: send one, with a comma"),
        ("outputs=%ff", "unknown output"),
        ("outputs=predict-proba", "unknown output 'predict-proba' (did you mean 'predict_proba'?); the model has"),
    ],
)
def test_a_wrong_selection_is_rejected_before_rows_are_parsed(path: str, query: str, words: str) -> None:
    status, answer = post(application(), f"{path}?{query}", {"not": "rows"})
    assert status == 400
    assert words in answer["error"]


@pytest.mark.parametrize("query", ["output=predict_proba", "outputs=predict&a=1", "OUTPUTS=predict", "a", "=1", "%ff"])
@pytest.mark.parametrize("path", [*BODIES, INFER, EXPLAIN])
def test_a_parameter_that_no_path_has_is_rejected_on_every_path(path: str, query: str) -> None:
    status, answer = post(application((*NAMES, CONTRIBUTIONS)), f"{path}?{query}", {"not": "rows"})
    assert status == 400
    if query == "output=predict_proba":
        expected = "did you mean 'outputs'?" if path in BODIES else "unknown parameter 'output' in the query"
        assert expected in answer["error"]


def test_other_endpoints_say_where_outputs_are_selected() -> None:
    app = application((*NAMES, CONTRIBUTIONS))
    assert post(app, f"{INFER}?outputs=predict", {})[1]["error"].startswith("a v2 request selects outputs in its body")
    assert post(app, f"{EXPLAIN}?outputs=predict", {})[1]["error"].startswith(":explain has one output")


TENSOR = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]}
FORMS = {
    INFER: TENSOR, PREDICT: {"instances": [{"x": 1.0}]}, ROWS: {"x": 1.0},
    INVOCATIONS: {"dataframe_split": {"columns": ["x"], "data": [[1.0]]}},
}  # fmt: skip


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("of", FORMS)
def test_a_body_of_another_path_gets_the_path_that_accepts_it(path: str, of: str) -> None:
    status, answer = post(application(), path, FORMS[of])
    if status == 200:
        assert of == path or (path, of) == (INVOCATIONS, PREDICT)
        return
    named = re.findall(r"goes to POST (\S+)", answer["error"])
    assert status == 400
    assert named == [of]
    assert post(application(), named[0], FORMS[of])[0] == 200


@pytest.mark.parametrize("path", [PREDICT, INVOCATIONS])
def test_outputs_in_a_body_that_selects_none_are_not_ignored(path: str) -> None:
    status, answer = post(application(), path, {**BODIES[path], "outputs": ["predict_proba"]})
    assert status == 400
    assert "add ?outputs=NAME" in answer["error"]


def test_a_feature_with_the_name_of_a_key_is_no_other_request() -> None:
    app = application(inputs=("instances",))
    assert post(app, ROWS, {"instances": 1.0}) == (200, {"predictions": [1.0]})


def send(app: Application, path: str, body: bytes, content_type: str) -> tuple[int, Any]:
    async def whole() -> Answer:
        app.pipeline.start(0)
        try:
            return await request(app, "POST", path, body, content_type=content_type)
        finally:
            await app.pipeline.stop()

    status, _, answer = asyncio.run(whole())
    return status, json.loads(answer)


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("path", "body", "content_type", "words"),
    [
        (INVOCATIONS, b"x1.0", "text/csv", "(curl -d removes the line ends of a file: use --data-binary)"),
        (INVOCATIONS, b"x\n1.0\n", FORM, "the body is not JSON: the error is at byte 0"),
        (
            INVOCATIONS,
            b"x,y\n1.0,2\n",
            FORM,
            "CSV goes to POST /invocations with Content-Type: text/csv and curl --data-bi",
        ),
        (ROWS, b"x,y1.0,2", FORM, "CSV goes to POST /invocations with Content-Type: text/csv and curl --data-binary"),
        (ROWS, b"x\n1.0", "text/csv", "use application/json, or send CSV to POST /invocations"),
        (INFER, b"x\n1.0", "text/csv", "or send CSV to POST /invocations"),
        (INVOCATIONS, b"x;y\n1.0;2\n", "text/csv", "the CSV is separated by ';': separate its values by commas"),
    ],
)
def test_csv_that_curl_changed_or_sent_elsewhere_is_explained(
    path: str, body: bytes, content_type: str, words: str
) -> None:
    status, answer = send(application(), path, body, content_type)
    assert status in (400, 415)
    assert words in answer["error"]


def test_csv_in_the_right_place_is_predicted() -> None:
    assert send(application(), INVOCATIONS, b"x\n1.0\n", "text/csv") == (200, {"predictions": [1.0]})


@pytest.mark.attack(held=True)
def test_the_api_key_is_checked_before_the_selection(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"client: {hashlib.sha256(b'k').hexdigest()}\n")
    status, answer = post(application(keys=ApiKeys(tmp_path / "keys")), f"{ROWS}?outputs=nothing", {})
    assert status == 401
    assert "predict" not in answer["error"]


def test_a_model_that_cannot_explain_says_so_before_rows_are_parsed() -> None:
    status, answer = post(application(), EXPLAIN, {"not": "rows"})
    assert status == 501
    assert answer["error"] == "this model (test) cannot explain its predictions: XGBoost and LightGBM models can"


def test_rows_to_explain_are_read_like_rows_to_predict() -> None:
    """Both ignore columns that the package says to ignore, and round what the library itself rounds."""
    served = serving()
    outputs = (TensorSpec("predict", "FP64", (-1,)), TensorSpec(CONTRIBUTIONS, "FP64", (-1, 2)))
    signature = Signature("columns", (TensorSpec("x", "FP32", (-1,)),), outputs, ignores_others=True)
    served.model = Model(lambda table, _: [np.zeros((len(table), 2))], signature, single=True)
    app = Application(Pipeline(served))
    for path in (PREDICT, EXPLAIN):
        status, answer = post(app, path, {"instances": [{"x": 2**53 + 1, "other": 1}]})
        assert status == 200, answer


class Connection:
    """A connection on the fast path."""

    peer = "127.0.0.1"

    def __init__(self, connections: int = 2) -> None:
        self.body = b""
        self.connections = range(connections)

    def answer(self, reply: Reply) -> None:
        self.body = reply.body


def test_a_usual_selection_takes_the_fast_path_once_it_was_requested() -> None:
    app = application()
    target = f"{ROWS}?outputs=predict_proba".encode()
    assert target not in app.fast_endpoints
    post(app, target.decode(), BODIES[ROWS])
    connection, body = Connection(), json.dumps(BODIES[ROWS]).encode()

    async def fast() -> None:
        app.pipeline.start(0)
        assert app.accept(connection, target, {b"content-length": b"%d" % len(body)}, body)
        app.answer_accepted()
        await app.pipeline.stop()

    asyncio.run(fast())
    assert json.loads(connection.body) == {"predictions": PROBA}


def test_requests_of_one_round_are_predicted_together_and_the_only_connection_does_not_wait() -> None:
    app, body = application(), json.dumps(BODIES[ROWS]).encode()

    async def whole() -> None:
        app.pipeline.start(0)

        def accept(connection: Connection) -> bytes:
            """Return what is sent before the event loop goes on."""
            assert app.accept(connection, ROWS.encode(), {b"content-length": b"%d" % len(body)}, body)
            return connection.body

        answer = accept(Connection(1))
        assert json.loads(answer) == {"predictions": [1.0, 2.0]}
        several = [Connection(2), Connection(2)]
        assert [accept(connection) for connection in several] == [b"", b""]
        await asyncio.sleep(0)
        assert [connection.body for connection in several] == [answer, answer]
        await app.pipeline.stop()

    asyncio.run(whole())
    text, _ = app.pipeline.serving.recorder.text(names=["mlmodel_batch_rows_count"])
    assert b'mlmodel_batch_rows_count{model="double",revision="r1",version="v1"} 2.0' in text, "calls of the model"


@pytest.mark.attack(held=True)
def test_no_client_fills_the_fast_path_with_targets() -> None:
    app = application()
    known = set(app.fast_endpoints)
    for spelling in ("?outputs=%70redict", "?&outputs=predict", "?outputs=nothing", "?x=1"):
        post(app, ROWS + spelling, BODIES[ROWS])
    assert set(app.fast_endpoints) == known
    app = application([f"o{number}" for number in range(LEARNT_TARGETS + 9)])
    for number in range(LEARNT_TARGETS + 9):
        asyncio.run(request(app, "POST", f"{ROWS}?outputs=o{number}"))
    assert len(app.fast_endpoints) == len(known) + LEARNT_TARGETS
    app.drain()
    asyncio.run(request(app, "POST", f"{PREDICT}?outputs=o1"))
    assert not app.fast_endpoints, "while the server drains, no request takes the fast path"


def test_the_documented_maximum_of_the_deadline_is_the_real_one() -> None:
    app = application()
    (parameter,) = [
        parameter
        for parameter in app._management.openapi()["paths"][ROWS]["post"]["parameters"]
        if parameter["name"] == "x-mlmodel-timeout-ms"
    ]
    most = parameter["schema"]["maximum"]
    assert post(app, ROWS, BODIES[ROWS], x_mlmodel_timeout_ms=str(most))[0] == 200
    assert post(application(), ROWS, BODIES[ROWS], x_mlmodel_timeout_ms=str(most + 1))[0] == 400


def test_the_query_is_documented_where_it_selects_outputs() -> None:
    paths = application()._management.openapi()["paths"]
    documented = {
        path
        for path, methods in paths.items()
        for operation in methods.values()
        for parameter in operation.get("parameters", ())
        if parameter["name"] == "outputs" and parameter["schema"]["items"]["enum"] == list(NAMES)
    }
    assert documented == set(BODIES)


@pytest.mark.attack
@pytest.mark.parametrize("path", ["/", "/docs", "/metrics", "/v2", "/v2/models/double/stats", INFER, "/nothing"])
def test_no_path_of_a_laptop_answers_another_site(path: str) -> None:
    app = application(hosts=Hosts(LOOPBACK))

    async def answers() -> list[Answer]:
        app.pipeline.start(0)
        got = [
            await request(app, method, path, b"{}", **headers)
            for method in ("GET", "POST", "HEAD", "OPTIONS")
            for headers in (
                {"host": "evil.example"},
                {"host": "127.0.0.1:8080", "origin": "https://evil.example"},
                {"host": "127.0.0.1:8080", "origin": "http://127.0.0.1:8080"},
            )
        ]
        await app.pipeline.stop()
        return got

    got = asyncio.run(answers())
    assert [status for status, _, _ in got if status == 403] == [403] * 8
    assert all(got[place][0] != 403 for place in (2, 5, 8, 11)), "the own page is answered"
    for _, headers, _ in got:
        assert not [name for name, _ in headers if name.startswith(b"access-control")], "no site may read a response"


@pytest.mark.attack
def test_feedback_of_a_page_must_be_json() -> None:
    feedback = "/v2/models/double/feedback"
    for kind in (FORM, "text/plain", "multipart/form-data"):
        status, answer = post(application(), feedback, {}, content_type=kind, origin="http://127.0.0.1")
        assert status == 415
        assert "application/json" in answer["error"]
    assert post(application(), feedback, {}, content_type=FORM)[0] == 400, "as curl -d sends it"
    assert post(application(), feedback, {})[0] == 400


@pytest.mark.attack(held=True)
def test_no_request_loads_replaces_or_unloads_a_model() -> None:
    app = application()
    paths = app._management.openapi()["paths"]
    changing = {path for path, methods in paths.items() if methods.keys() - {"get"}}
    feedback = "/v2/models/double/feedback"
    assert feedback in changing
    assert changing <= {feedback, *app._endpoints}, "a path predicts, scores or only reads"
    for path in ("/v2/repository/index", "/v2/repository/models/double/load", "/v2/repository/models/double/unload"):
        for method in ("POST", "PUT", "DELETE"):
            status, _, _ = asyncio.run(request(app, method, path, b"{}"))
            assert status == 404
