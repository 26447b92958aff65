"""Which requests a server keeps: predictions that reached the model, and nothing else; never a key."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from mlmodel_server.observe.shadow import MARK
from mlmodel_server.rehearsal import authentic
from mlmodel_server.rehearsal.authentic import Content
from mlmodel_server.rest.connection import FAST_BODY
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from mlmodel_server.serving.access import ApiKeys
from mlmodel_server.serving.context import Limits
from mlmodel_server.startup.server import listen, run
from tests.unit.server.rehearsal.pods import BAD_ANSWER, FAILS, Pod, as_json, copied, send
from tests.unit.server.rest.test_app import Connection
from tests.unit.server.rpc.test_service import served

V2 = "/v2/models/double/infer"
GOOD = as_json([{"x": 1.0}])
INFER = as_json({"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}]})
JSON = {b"content-type": b"application/json"}


def fast(pod: Pod, target: str, body: bytes, headers: Mapping[bytes, bytes]) -> bool:
    """Send a request on the fast path, and return whether it took it."""
    app, connection = pod.application(), Connection()

    async def whole() -> bool:
        app.pipeline.start(0)
        sent = {b"content-length": b"%d" % len(body), **headers}
        took = app.accept(connection, target.encode(), sent, body)
        app.answer_accepted()
        await app.pipeline.stop()
        return took and connection.body != b""

    return asyncio.run(whole())


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/predict", GOOD),
        (V2, INFER),
        (f"{V2}/", INFER),
        ("/v1/models/double:predict", as_json({"instances": [[1.0]]})),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_both_paths_keep_the_same(tmp_path: Path, target: str, body: bytes, fails: bool) -> None:
    """Answered, or failed by the model."""
    if fails:
        body = body.replace(b"1.0", b"%.1f" % FAILS)
    one, two = Pod(tmp_path), Pod(tmp_path)
    headers = JSON | {b"x-mlmodel-client": b"10.0.0.1"}
    assert fast(one, target, body, headers)
    two.run({"target": target, "body": body, "headers": headers})
    assert [entry.content for entry in one.kept()] == [Content(target.encode(), b"application/json", b"", b"", body)]
    assert [entry.content for entry in two.kept()] == [entry.content for entry in one.kept()]
    one.sample.tick()
    assert one.sample.seen == 1


def test_a_body_is_kept_as_it_was_compressed(tmp_path: Path) -> None:
    pod, body = Pod(tmp_path), gzip.compress(GOOD)
    pod.run({"target": "/predict?outputs=predict", "body": body, "headers": {b"content-encoding": b"GZIP"}})
    assert [entry.content for entry in pod.kept()] == [Content(b"/predict?outputs=predict", b"", b"", b"GZIP", body)]


KEPT: dict[str, dict[str, Any]] = {
    "answered": {"target": "/predict", "body": GOOD},
    "rejected by the model": {"target": "/predict", "body": as_json([{"y": 1.0}])},
    "not JSON": {"target": "/predict", "body": b"{"},
    "failed by the model": {"target": "/predict", "body": as_json([{"x": FAILS}])},
    "an answer that JSON cannot hold": {
        "target": "/predict?outputs=predict_proba",
        "body": as_json([{"x": BAD_ANSWER}]),
    },
}

NOT_KEPT: dict[str, dict[str, Any]] = {
    "a version": {"target": "/v2/models/double/versions/v1/infer", "body": INFER},
    "an encoded version": {"target": "/v2/models/double/versions%2Fv1/infer", "body": INFER},
    "another version": {"target": "/v2/models/double/versions/v9/infer", "body": INFER},
    "explanations": {"target": "/v1/models/double:explain", "body": as_json({"instances": [[1.0]]})},
    "an unknown path": {"target": "/v2/models/other/infer", "body": INFER},
    "a wrong method": {"target": "/predict", "body": GOOD, "method": "PUT"},
    "a wrong content type": {"target": "/predict", "body": GOOD, "headers": {b"content-type": b"text/html"}},
    "a wrong compression": {"target": "/predict", "body": GOOD, "headers": {b"content-encoding": b"br"}},
    "not compressed": {"target": "/predict", "body": GOOD, "headers": {b"content-encoding": b"gzip"}},
    "a wrong deadline": {"target": "/predict", "body": GOOD, "headers": {b"x-mlmodel-timeout-ms": b"soon"}},
    "a deadline that has passed": {"target": "/predict", "body": GOOD, "headers": {b"x-mlmodel-timeout-ms": b"0"}},
    "too many rows": {"target": "/predict", "body": as_json([{"x": 1.0}] * 9)},
    "too many bytes": {"target": "/predict", "body": GOOD, "headers": {b"content-length": b"9999999"}},
    "without a key": {"target": "/predict", "body": GOOD, "headers": {b"x-api-key": b"unknown"}},
    "feedback": {"target": "/v2/models/double/feedback", "body": b"{}"},
    "metadata": {"target": "/v2/models/double", "method": "GET"},
    "metrics": {"target": "/metrics", "method": "GET"},
    "a copy for a shadow": {"target": "/predict", "body": GOOD, "headers": {MARK: b"true"}},
    "a copy at the wrong path": {"target": "/predict", "body": GOOD, "headers": {authentic.MARK: b"1 2"}},
}


def keyed(tmp_path: Path, **more: Any) -> Pod:
    (tmp_path / "keys").write_text(f"client: {hashlib.sha256(b's3cret-key').hexdigest()}\n")
    path = tmp_path / "keys"
    limits = Limits(max_rows=8, max_body=100_000)
    return Pod(tmp_path, api_keys=path, keys=ApiKeys(path), limits=limits, seconds=1.0, **more)


def with_key(request: dict[str, Any]) -> dict[str, Any]:
    return {**request, "headers": {b"x-api-key": b"s3cret-key", **request.get("headers", {})}}


@pytest.mark.parametrize("name", list(KEPT))
def test_predictions_that_reached_the_model_are_kept(tmp_path: Path, name: str) -> None:
    pod = keyed(tmp_path)
    pod.run(with_key(KEPT[name]))
    (entry,) = pod.kept()
    assert (entry.content.target.decode(), entry.content.body) == (KEPT[name]["target"], KEPT[name]["body"])


@pytest.mark.parametrize("name", list(NOT_KEPT))
def test_nothing_else_is_kept(tmp_path: Path, name: str) -> None:
    pod = keyed(tmp_path)
    pod.run(with_key(NOT_KEPT[name]))
    assert (pod.kept(), pod.sample.kept) == ([], 0)
    assert pod.sample._memory[64:].strip(b"\0") == b"", "no byte was written behind the header"


def test_a_copy_is_not_kept(tmp_path: Path) -> None:
    pod = keyed(tmp_path)
    pod.run(copied(Content(b"/predict", b"", b"", b"", GOOD), pod.key()))
    assert pod.sample.kept == 0


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("headers", [{b"x-api-key": b"s3cret-key"}, {b"authorization": b"Bearer s3cret-key"}])
def test_no_key_cookie_or_address_is_ever_in_the_memory(tmp_path: Path, headers: dict[bytes, bytes]) -> None:
    pod = keyed(tmp_path)
    more = {
        b"cookie": b"s3ssion",
        b"x-mlmodel-client": b"192.168.7.6",
        b"x-forwarded-for": b"192.168.7.6",
        b"x-user": b"someone",
    }
    pod.run(*({"target": "/predict", "body": GOOD + b" " * number, "headers": headers | more} for number in range(20)))
    assert pod.sample.kept == 20
    memory = pod.sample._memory[:]
    digest = hashlib.sha256(b"s3cret-key")
    for secret in (
        b"s3cret",
        digest.digest(),
        digest.hexdigest().encode(),
        b"192.168",
        b"s3ssion",
        b"someone",
        b"Bearer",
    ):
        assert secret not in memory
    assert GOOD in memory


def test_grpc_calls_are_kept_unless_they_choose_a_version(tmp_path: Path) -> None:
    pod = Pod(tmp_path)
    pipeline = pod.application().pipeline
    calls: list[dict[str, Any]] = [
        {},
        {"model_version": "v1"},
        {"model_version": "v9"},
        {"model": "other"},
        {"rows": 0},
    ]

    async def whole() -> None:
        async with served(pipeline) as (client, _):
            for fields in calls:
                with suppress(grpc.RpcError):
                    await client.infer(**fields)
            method: Any = client.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with suppress(grpc.RpcError):
                await method(b"\xff\xff", timeout=10)

    asyncio.run(whole())
    contents = [entry.content for entry in pod.kept()]
    assert [content.target for content in contents] == [b"grpc"] * 2
    messages = [pb.ModelInferRequest.FromString(content.body) for content in contents]
    assert [list(message.inputs[0].shape) for message in messages] == [[1], [0]]
    assert all(content[1:4] == (b"", b"", b"") for content in contents)


def test_a_large_body_is_skipped_and_later_ones_are_kept(tmp_path: Path) -> None:
    pod = Pod(tmp_path)
    large = as_json([{"x": 1.0}] * 20_000)
    assert len(large) > max(FAST_BODY, pod.sample._regions[0].largest)
    pod.run({"target": "/predict", "body": large}, {"target": "/predict", "body": GOOD})
    assert [entry.content.body for entry in pod.kept()] == [GOOD]


def test_without_the_option_nothing_is_kept_or_needed(tmp_path: Path) -> None:
    pod = Pod(tmp_path)
    pod.serving.sample = None
    assert pod.run({"target": "/predict", "body": GOOD})[0][0] == 200


@pytest.mark.attack(held=True)
def test_a_worker_that_drains_wipes_its_sample_before_it_exits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = Pod(tmp_path)
    pod.serving.grpc = ""
    app, states = pod.application(), []

    def ready() -> None:
        async def use() -> None:
            await send(app, "/predict", GOOD)
            states.append(pod.sample.kept)
            signal.raise_signal(signal.SIGTERM)
            await send(app, "/predict", GOOD)

        tasks.append(asyncio.get_running_loop().create_task(use()))

    tasks: list[Any] = []
    monkeypatch.setattr("mlmodel_server.startup.server.sys.setswitchinterval", lambda _: None)
    with listen("127.0.0.1", 0) as socket:
        run(app, socket, 0, ready)
    assert states == [1]
    assert pod.sample.kept == 0
    assert GOOD not in pod.sample._memory[:]
    assert pod.sample._memory[64:].strip(b"\0") == b""
