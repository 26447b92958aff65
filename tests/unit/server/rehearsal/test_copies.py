"""Copies: answered as the requests they are copies of, only if they are authentic, and without a trace."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from mlmodel_server import files
from mlmodel_server.observe.payloads import PayloadLog
from mlmodel_server.observe.shadow import Shadow
from mlmodel_server.rehearsal import authentic
from mlmodel_server.rehearsal.authentic import Content
from mlmodel_server.rehearsal.compare import Output, draw_row
from mlmodel_server.rehearsal.target import TargetFile
from mlmodel_server.rest.copies import LIMITS, MAX_UNKNOWN, row_of
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from mlmodel_server.serving.access import ApiKeys
from mlmodel_server.serving.context import Limits
from mlmodel_server.tensors import named
from tests.unit.server.doubling import IDENTITY
from tests.unit.server.rehearsal.pods import (
    BAD_ANSWER,
    FAILS,
    NONCE,
    Pod,
    as_json,
    copied,
    outcome,
    send,
)

JSON = b"application/json"
V2, V1 = "/v2/models/double/infer", "/v1/models/double:predict"


def tensor(*values: float) -> dict[str, Any]:
    return {"name": "x", "shape": [len(values)], "datatype": "FP64", "data": list(values)}


def content(target: str, body: bytes, kind: bytes = JSON, json_length: bytes = b"", encoding: bytes = b"") -> Content:
    return Content(target.encode(), kind, json_length, encoding, body)


def v2_binary(*values: float) -> Content:
    parameters = {"binary_data_size": 8 * len(values)}
    sent = {"name": "x", "shape": [len(values)], "datatype": "FP64", "parameters": parameters}
    wanted = {"name": "predict_proba", "parameters": {"binary_data": True}}
    head = as_json({"inputs": [sent], "outputs": [wanted]})
    return content(V2, head + np.array(values).tobytes(), b"application/octet-stream", b"%d" % len(head))


def call(*values: float, raw: bool = False, **fields: Any) -> Content:
    contents = None if raw else pb.InferTensorContents(fp64_contents=values)
    sent = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP64", shape=[len(values)], contents=contents)
    raws = [np.array(values).tobytes()] if raw else []
    message = pb.ModelInferRequest(inputs=[sent], raw_input_contents=raws, **{"model_name": "double", **fields})
    return Content(b"grpc", b"", b"", b"", message.SerializeToString())


ROWS = [1.5, 0.25]
TABLE = as_json({"dataframe_split": {"columns": ["x"], "data": [[value] for value in ROWS]}})
PLAIN = as_json([{"x": value} for value in ROWS])
INSTANCES = as_json({"instances": [[value] for value in ROWS]})
BOTH = as_json({"inputs": [tensor(*ROWS)], "outputs": [{"name": "predict"}, {"name": "predict_proba"}]})

ENDPOINTS = {
    "v2 JSON": content(V2, as_json({"inputs": [tensor(*ROWS)]})),
    "v2 without a content type": content(V2, as_json({"inputs": [tensor(*ROWS)]}), b""),
    "v2 outputs": content(V2, BOTH),
    "v2 with a slash": content(f"{V2}/", BOTH),
    "v2 binary": v2_binary(*ROWS),
    "v1": content(V1, INSTANCES),
    "v1 outputs": content(f"{V1}?outputs=predict_proba", INSTANCES),
    "invocations JSON": content("/invocations", TABLE),
    "invocations CSV": content("/invocations", b"x\n1.5\n0.25\n", b"text/csv; charset=utf-8"),
    "rows": content("/predict", PLAIN),
    "rows, outputs": content("/predict?outputs=predict_proba,predict", PLAIN),
    "gzip": content("/predict", gzip.compress(PLAIN), JSON, b"", b"gzip"),
    "large": content("/predict", as_json([{"x": 0.5}] * 30_000)),
}


def answered(body: bytes, headers: Mapping[bytes, bytes]) -> dict[str, list[Any]]:
    """Return the outputs of a response to a client, by name."""
    if b"inference-header-content-length" in headers:
        length = int(headers[b"inference-header-content-length"])
        (output,) = msgspec.json.decode(body[:length])["outputs"]
        return {output["name"]: np.frombuffer(body[length:]).reshape(output["shape"]).tolist()}
    read = msgspec.json.decode(body)
    if "outputs" in read:
        return {
            each["name"]: np.array(each["data"], object).reshape(each["shape"]).tolist() for each in read["outputs"]
        }
    predictions = read["predictions"]
    if isinstance(predictions[0], dict):
        return {name: [row[name] for row in predictions] for name in predictions[0]}
    return {"predict_proba" if isinstance(predictions[0], list) else "predict": predictions}


@pytest.mark.parametrize("draw", [0, 1, 2**64 - 1])
@pytest.mark.parametrize("name", [*ENDPOINTS, "grpc"])
def test_only_the_row_that_is_compared_is_answered(name: str, draw: int, tmp_path: Path) -> None:
    """The first output has it, in the shape of the whole answer; both sides draw the same one."""
    pod = Pod(tmp_path, limits=Limits(max_body=4 << 20))
    sent = call(*ROWS) if name == "grpc" else ENDPOINTS[name]
    whole, drawn = pod.run(copied(sent, pod.key()), copied(sent, pod.key(), draw=draw))
    (first, *_), (only,) = (msgspec.msgpack.decode(body)["outputs"] for _, _, body in (whole, drawn))
    assert only.pop("is_row")
    assert len(only["data"]) <= len(first["data"]) / first["shape"][0] + 4, "as long as one row"
    assert {**only, "data": b""} == {**first, "data": b""}
    one, other = (draw_row(msgspec.convert(item, Output), draw) for item in (first, {**only, "is_row": True}))
    assert one is not None
    assert (one.form, one.label, one.top) == (other.form, other.label, other.top)  # type: ignore[union-attr]


@pytest.mark.attack
@pytest.mark.parametrize("change", ["number", "code", "text", "of another copy"])
def test_nobody_else_chooses_the_row(tmp_path: Path, change: str) -> None:
    pod, sent = Pod(tmp_path), ENDPOINTS["v2 JSON"]
    request = copied(sent, pod.key(), draw=1)
    number, code = request["headers"][authentic.DRAW].split()
    other = copied(sent, pod.key(), age=5, draw=1)["headers"][authentic.DRAW]
    request["headers"][authentic.DRAW] = {
        "number": b"0 " + code, "code": number + b" " + bytes(64), "text": b"x", "of another copy": other
    }[change]  # fmt: skip
    (answer,) = pod.run(request)
    assert "is_row" not in msgspec.msgpack.decode(answer[2])["outputs"][0], "as a copy without it"


@pytest.mark.parametrize(("shape", "rows"), [((), 1), ((0,), 0), ((0, 3), 0), ((3,), 1), ((2, 0), 1), ((2, 3, 4), 1)])
def test_a_row_of_any_shape(shape: tuple[int, ...], rows: int) -> None:
    sent = row_of(named("predict", np.zeros(shape)), 5)
    assert sent.array.size == rows * int(np.prod(shape[1:]))


@pytest.mark.parametrize("name", list(ENDPOINTS))
def test_a_copy_is_answered_as_the_request_on_every_endpoint(name: str, tmp_path: Path) -> None:
    pod, sent = Pod(tmp_path, limits=Limits(max_body=4 << 20)), ENDPOINTS[name]
    original = {"target": sent.target.decode(), "body": sent.body, "headers": sent.headers()}
    (status, headers, body), copy = pod.run(original, copied(sent, pod.key()))
    assert status == 200
    status, outputs = outcome(copy)
    assert status == 200
    assert {name: array.tolist() for name, array in outputs.items()} == answered(body, headers)
    fits = len(sent.body) <= pod.sample._regions[0].largest
    assert [entry.content for entry in pod.kept()] == [sent] * fits, "what was kept is what was sent"


@pytest.mark.parametrize("raw", [False, True])
def test_a_copy_of_a_grpc_call_is_answered_over_http(tmp_path: Path, raw: bool) -> None:
    pod = Pod(tmp_path)
    outputs = [pb.ModelInferRequest.InferRequestedOutputTensor(name="predict_proba")]
    (copy,) = pod.run(copied(call(*ROWS, raw=raw, outputs=outputs), pod.key()))
    status, answers = outcome(copy)
    assert status == 200
    assert {name: array.tolist() for name, array in answers.items()} == {"predict_proba": [[1.5, -0.5], [0.25, 0.75]]}


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (content("/predict", as_json([{"y": 1.0}])), 400),
        (content("/predict", b"{"), 400),
        (content("/predict?outputs=nothing", PLAIN), 400),
        (content("/predict", b"no gzip", JSON, b"", b"gzip"), 400),
        (content("/predict", PLAIN, b"text/html"), 415),
        (content("/predict", as_json([{"x": 1.0}] * 9)), 413),
        (content("/predict", gzip.compress(b" " * 5000), JSON, b"", b"gzip"), 413),
        (content("/predict", as_json([{"x": FAILS}])), 500),
        (content("/predict?outputs=predict_proba", as_json([{"x": BAD_ANSWER}])), 500),
        (v2_binary(BAD_ANSWER), 200),
        (content("/nothing", PLAIN), 404),
        (content("/v2/models/other/infer", BOTH), 404),
        (content("/metrics", b""), 404),
        (content("/v2/models/double/feedback", b"{}"), 404),
        (content("/v1/models/double:explain", INSTANCES), 404),
        (content("/v2/models/double/versions/v1/infer", BOTH), 404),
        (content("/rehearsal", b""), 404),
        (call(*ROWS, model_name="other"), 404),
        (call(FAILS), 500),
        (Content(b"grpc", b"", b"", b"", b"\xff\xff"), 400),
    ],
)  # fmt: skip
def test_the_status_is_what_a_client_would_have_got(tmp_path: Path, sent: Content, status: int) -> None:
    pod = Pod(tmp_path, limits=Limits(max_rows=8, max_body=4000))
    (answer,) = pod.run(copied(sent, pod.key()))
    assert outcome(answer)[0] == status
    assert b"quotes" not in answer[2]


def test_a_server_without_grpc_does_not_answer_copies_of_calls(tmp_path: Path) -> None:
    pod = Pod(tmp_path)
    app = pod.application()
    app._copies._copy_of_call = None
    answer = asyncio.run(send(app, **copied(call(1.0), pod.key())))
    assert outcome(answer)[0] == 404


def test_while_the_server_drains_copies_get_503(tmp_path: Path) -> None:
    pod = Pod(tmp_path)
    pod.serving.draining = True
    (answer,) = pod.run(copied(ENDPOINTS["rows"], pod.key()))
    assert outcome(answer)[0] == 503


def test_a_copy_that_waits_for_requests_gets_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlmodel_server.serving.pipeline.TURN_SECONDS", -1.0)
    pod = Pod(tmp_path)
    (answer,) = pod.run(copied(ENDPOINTS["rows"], pod.key()))
    assert outcome(answer)[0] in (200, 503)


STRANGERS = (
    "unsigned",
    "without the mark",
    "without the target",
    "another target",
    "another content type",
    "another length",
    "another encoding",
    "another body",
    "no body",
    "a longer time",
    "another time",
    "upper case",
    "short code",
    "long code",
    "no number",
    "old",
    "from the future",
    "for another revision",
    "of another rehearsal",
    "with other API keys",
    "too long",
    "GET",
    "at another path",
)


def changed(pod: Pod, field: str, value: bytes) -> dict[str, Any]:
    """Return a copy of which one part was changed after it was signed."""
    copy = copied(ENDPOINTS["v2 binary"], pod.key())
    if field == "body":
        return {**copy, "body": value}
    headers = {name: text for name, text in copy["headers"].items() if name != field.encode()}
    return {**copy, "headers": headers | ({field.encode(): value} if value else {})}


def strangers(pod: Pod) -> dict[str, dict[str, Any]]:
    """Return requests that are not authentic copies."""
    key, sent = pod.key(), ENDPOINTS["v2 binary"]
    mark = copied(sent, key)["headers"][authentic.MARK]
    later = int(time.time() * 1000) + 1
    return {
        "unsigned": {"target": authentic.PATH, "body": sent.body},
        "without the mark": changed(pod, authentic.MARK.decode(), b""),
        "without the target": changed(pod, authentic.TARGET.decode(), b""),
        "another target": changed(pod, authentic.TARGET.decode(), b"/predict"),
        "another content type": changed(pod, "content-type", b"application/json"),
        "another length": changed(pod, "inference-header-content-length", b"7"),
        "another encoding": changed(pod, "content-encoding", b"gzip"),
        "another body": changed(pod, "body", sent.body[:-1] + b"x"),
        "no body": changed(pod, "body", b""),
        "a longer time": changed(pod, authentic.MARK.decode(), b"1" + mark),
        "another time": changed(pod, authentic.MARK.decode(), b"%d" % later + mark[13:]),
        "upper case": changed(pod, authentic.MARK.decode(), mark.upper()),
        "short code": changed(pod, authentic.MARK.decode(), mark[:-1]),
        "long code": changed(pod, authentic.MARK.decode(), mark + b"0"),
        "no number": changed(pod, authentic.MARK.decode(), b"soon " + mark.split()[1]),
        "old": copied(sent, key, age=61),
        "from the future": copied(sent, key, age=-61),
        "for another revision": copied(sent, key, "r2"),
        "of another rehearsal": copied(sent, authentic.key_of("cd" * 32, pod.api_keys)),
        "with other API keys": copied(sent, authentic.key_of(NONCE, pod.api_keys + b"x")),
        "too long": copied(content("/predict", bytes(LIMITS.max_body + 1)), key),
        "GET": {**copied(sent, key), "method": "GET"},
        "at another path": {**copied(sent, key), "target": "/rehearsal/"},
    }


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("name", STRANGERS)
def test_a_request_that_is_not_an_authentic_copy_gets_what_an_unknown_path_gets(tmp_path: Path, name: str) -> None:
    pod, without = Pod(tmp_path), Pod(tmp_path)
    without.serving.rehearsal = without.serving.sample = None
    before = pod.sample._memory[:]
    sent = strangers(pod)[name]
    answers = pod.run(sent)
    assert answers == without.run(sent)
    assert answers[0][0] in (404, 405)
    assert pod.sample._memory[:] == before


def test_all_strangers_were_tried(tmp_path: Path) -> None:
    assert set(strangers(Pod(tmp_path))) == set(STRANGERS)


@pytest.mark.parametrize(
    "text",
    [
        None, "", "candidate", f"candidate r2 {NONCE[:-1]}\n", f"candidate R2 {NONCE}\n", f"stable r2 {NONCE}\n",
        f"candidate r2 {NONCE}\nstable r1 {NONCE}\n", f"candidate r2 {NONCE} a b\n", f"candidate r2 {NONCE} é\n",
        f"candidate {'r' * 64} {NONCE}\n", f" candidate r2 {NONCE}\n", f"candidate r2 {NONCE} {'k' * 2000}\n",
    ],
)  # fmt: skip
def test_without_a_candidate_in_the_file_there_is_no_rehearsal(tmp_path: Path, text: str | None) -> None:
    pod = Pod(tmp_path)
    if text is None:
        pod.file.unlink()
    else:
        pod.announce(text)
    pod.serving.rehearsal = TargetFile(pod.file)
    assert pod.run(copied(ENDPOINTS["rows"], pod.key()))[0][0] == 404


@pytest.mark.parametrize("end", ["", "\n", " shop-keys\n"])
def test_a_file_that_names_a_candidate(tmp_path: Path, end: str) -> None:
    pod = Pod(tmp_path)
    pod.announce(f"candidate r2 {NONCE}{end}")
    target = TargetFile(pod.file).target()
    assert target
    assert (target.revision, target.nonce) == ("r2", NONCE)


def test_the_files_take_effect_within_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(files, "monotonic", lambda: now[0])
    file, keys = tmp_path / "rehearsal", tmp_path / "keys"
    keys.write_bytes(b"one")

    def write(path: Path, text: str) -> None:  # as the kubelet does
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").replace(path)

    read = TargetFile(file, keys)
    assert read.target() is None
    write(file, f"candidate r2 {NONCE} -\n")
    assert read.target() is None, "at most one look per second"
    now[0] += files.RELOAD_SECONDS
    first = read.target()
    assert first == ("r2", NONCE, authentic.key_of(NONCE, b"one"))
    write(keys, "two")
    now[0] += files.RELOAD_SECONDS
    assert read.target() == ("r2", NONCE, authentic.key_of(NONCE, b"two"))
    keys.unlink()
    now[0] += files.RELOAD_SECONDS
    assert read.target() is None, "keys that cannot be read are not the keys of a server without keys"
    file.unlink()
    write(keys, "two")
    now[0] += files.RELOAD_SECONDS
    assert read.target() is None


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"client: {hashlib.sha256(b'k').hexdigest()}\n")
    return path


@pytest.mark.attack(held=True)
def test_a_copy_needs_no_api_key_and_a_stranger_does(tmp_path: Path, keys: Path) -> None:
    pod = Pod(tmp_path, api_keys=keys, keys=ApiKeys(keys))
    copy, stranger, known, unknown = pod.run(
        copied(ENDPOINTS["rows"], pod.key()),
        {"target": authentic.PATH},
        {"target": authentic.PATH, "headers": {b"x-api-key": b"k"}},
        copied(ENDPOINTS["rows"], authentic.key_of(NONCE, b"")),
    )
    assert outcome(copy)[0] == 200
    assert (stranger[0], known[0], unknown[0]) == (401, 404, 401)


def observed(pod: Pod) -> Any:
    """Return all that a server counts of its requests."""
    pod.serving.recorder.fold()
    text, _ = pod.serving.recorder.text("", [])
    ignored = (b"process_", b"mlmodel_cpu", b"mlmodel_energy", b"mlmodel_memory", b"mlmodel_worker_restarts")
    return [line for line in text.splitlines() if not line.startswith(ignored) and not line.startswith(b"#")]


@pytest.mark.attack(held=True)
def test_a_copy_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    log = tmp_path / "log"
    log.mkdir()
    shadow = Shadow(IDENTITY, "http://127.0.0.1:1", 100)
    payloads = PayloadLog(IDENTITY, log, ["x"], 100)
    pod = Pod(tmp_path, shadow=shadow, payloads=payloads)
    offered: list[str] = []
    monkeypatch.setattr(shadow, "offer", lambda *_: offered.append("shadow"))
    monkeypatch.setattr(payloads, "offer", lambda *_: offered.append("payload log"))
    monkeypatch.setattr(pod.serving.ids, "make", lambda *_: offered.append("id"))
    monkeypatch.setattr(pod.serving.recorder, "record_predictions", lambda *_: offered.append("drift"))
    pod.run({"target": "/predict", "body": PLAIN})
    assert offered == ["drift", "id", "shadow", "payload log"], "a request leaves these"
    before, kept, memory, factor = observed(pod), pod.kept(), pod.sample._memory[:], pod.serving.cost.factor
    offered.clear()
    marker = content("/predict", as_json([{"marker-in-a-payload": 1.0}]))
    copies = [ENDPOINTS["rows"], ENDPOINTS["gzip"], call(1.0), marker, content("/nothing", PLAIN)]
    for answer in pod.run(*(copied(sent, pod.key()) for sent in copies)):
        outcome(answer)
        assert b"marker-in-a-payload" not in answer[2]
    assert offered == []
    assert observed(pod) == before
    assert (pod.kept(), pod.sample._memory[:], pod.serving.cost.factor) == (kept, memory, factor)
    assert "marker" not in caplog.text
    assert list(log.iterdir()) == []


def test_the_log_says_where_the_model_fails_but_not_on_what(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pod = Pod(tmp_path)
    pod.run(copied(content("/predict", as_json([{"x": FAILS}])), pod.key()))
    assert caplog.messages == ["prediction failed"]
    assert "quotes" not in str(caplog.records[0].__dict__)


def test_a_copy_is_not_joined_with_requests(tmp_path: Path) -> None:
    """Also of a fast model, whose requests are predicted in the event loop, a copy is predicted in the thread."""
    pod = Pod(tmp_path)
    app = pod.application()
    alone: list[int] = []

    async def whole() -> Any:
        app.pipeline.start(0)
        batcher = app.pipeline.inference._batcher
        predict = batcher._predict_copy

        def recorded(copy: Any) -> None:
            alone.append(copy.rows)
            predict(copy)

        batcher._predict_copy = recorded  # type: ignore[method-assign]
        try:
            return await asyncio.gather(
                *(send(app, "/predict", PLAIN) for _ in range(3)), send(app, **copied(ENDPOINTS["rows"], pod.key()))
            )
        finally:
            await app.pipeline.stop()

    answers = asyncio.run(whole())
    assert outcome(answers[-1])[0] == 200
    assert alone == [len(ROWS)]


def test_copies_do_not_take_the_memory_of_requests(tmp_path: Path) -> None:
    pod = Pod(tmp_path, limits=Limits(max_body_total=100))
    app = pod.application()
    with app.pipeline.budget.hold("a client", 100):
        answer = asyncio.run(send(app, **copied(ENDPOINTS["rows"], pod.key())))
    assert outcome(answer)[0] == 429, "dropped, and asked again"


@pytest.mark.attack(held=True)
def test_strangers_that_send_slowly_take_no_memory_of_clients(tmp_path: Path, keys: Path) -> None:
    """Without an API key, and for as long as they like: more of them than there is memory for bodies."""
    pod = Pod(tmp_path, api_keys=keys, limits=Limits(max_body_total=2 << 20))
    app = pod.application()
    mark = {authentic.MARK: b"%d %s" % (time.time() * 1000, b"0" * 64), authentic.TARGET: b"/predict"}

    async def whole() -> list[Any]:
        app.pipeline.start(0)
        slow = [asyncio.create_task(app(scope(mark), never, ignored)) for _ in range(MAX_UNKNOWN + 20)]
        await asyncio.sleep(0)
        try:
            headers = {b"x-api-key": b"k"}
            assert sum(not task.done() for task in slow) <= MAX_UNKNOWN
            return [await send(app, "/predict", PLAIN, headers)]
        finally:
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
            await app.pipeline.stop()

    async def never() -> Any:
        await asyncio.Event().wait()

    async def ignored(_: Any) -> None:
        pass

    def scope(headers: Mapping[bytes, bytes]) -> dict[str, Any]:
        return {
            "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": authentic.PATH,
            "raw_path": authentic.PATH.encode(), "query_string": b"", "root_path": "", "server": ("h", 80),
            "headers": list({b"content-length": b"1000000", **headers}.items()),
        }  # fmt: skip

    ((status, _, _),) = asyncio.run(whole())
    assert status == 200
    assert app._copies._unknown == 0


@pytest.mark.attack(held=True)
def test_a_server_proves_that_it_has_the_key_before_it_gets_a_request(tmp_path: Path) -> None:
    pod = Pod(tmp_path)
    hello = copied(authentic.HELLO, pod.key())
    forged = copied(authentic.HELLO, authentic.key_of("cd" * 32, b""))
    (status, _, body), unknown = pod.run(hello, forged)
    assert (status, body) == (200, authentic.welcome(pod.key(), hello["headers"]))
    assert unknown[0] == 404
    assert not pod.kept()
