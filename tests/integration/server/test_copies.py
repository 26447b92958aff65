"""Copies of requests, sent to a running server as another pod sends them; and where a payload could be seen."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest

from hack.ports import free_port
from mlmodel_server.rehearsal import authentic
from mlmodel_server.rehearsal.authentic import Content
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from tests.integration.server.processes import SECONDS, Answer, Server, metric, running, until

NONCE = "5c" * 32
KEY = "s3cret-key"
MARKER = "marker-in-a-payload"
ROWS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]
INFER = "/v2/models/tumour/infer"
REVISION = "abcdef12"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rehearsal"
    path.write_text(f"candidate next {NONCE} -\n")
    return path


def copied(server: Server, content: Content, api_keys: bytes = b"") -> Answer:
    signed = authentic.sign(authentic.key_of(NONCE, api_keys), REVISION, content, time.time())
    connection = server.connect()
    connection.request("POST", authentic.PATH, content.body, {k.decode(): v.decode() for k, v in signed.items()})
    response = connection.getresponse()
    answer = Answer(response.status, dict(response.getheaders()), response.read())
    connection.close()
    return answer


def outcome(answer: Answer) -> Any:
    assert answer.status == 200
    return msgspec.msgpack.decode(answer.body)


def body(rows: Sequence[Sequence[float]] = ROWS) -> bytes:
    sent = {"name": "x", "shape": [len(rows), 4], "datatype": "FP64", "data": np.array(rows).ravel().tolist()}
    return json.dumps({"inputs": [sent], "outputs": [{"name": "predict_proba"}]}).encode()


CONTENT = Content(INFER.encode(), b"application/json", b"", b"", body())


def call() -> Content:
    sent = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP64", shape=[len(ROWS), 4])
    outputs = [pb.ModelInferRequest.InferRequestedOutputTensor(name="predict_proba")]
    raw = [np.array(ROWS).tobytes()]
    message = pb.ModelInferRequest(model_name="tumour", inputs=[sent], outputs=outputs, raw_input_contents=raw)
    return Content(authentic.GRPC, b"", b"", b"", message.SerializeToString())


@pytest.mark.parametrize("threads", ["1", "2"], ids=["opened before the fork", "opened after it"])
def test_rest_and_grpc_are_copied_to_workers_of_either_kind(file: Path, tmp_path: Path, threads: str) -> None:
    port, keys = free_port(), tmp_path / "keys"
    keys.write_text(f"client: {hashlib.sha256(KEY.encode()).hexdigest()}\n")
    options = ("--uri", "builtin://iris", "--revision", REVISION, "--rehearsal", file, "--api-keys", keys)
    with running(*options, "--grpc-port", str(port), "--workers", "2", OMP_NUM_THREADS=threads) as server:
        answer = server.send("POST", INFER, body(), x_api_key=KEY)
        expected = np.array(answer.json()["outputs"][0]["data"])
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Any = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer", response_deserializer=pb.ModelInferResponse.FromString
            )
            typed = method(call().body, timeout=SECONDS, metadata=(("x-api-key", KEY),))
        assert np.array_equal(np.frombuffer(typed.raw_output_contents[0]), expected)
        until(lambda: metric(server, "mlmodel_requests_total") == 2, "the requests are counted")
        for content in (CONTENT, call()):
            for _ in range(8):  # any worker
                reply = outcome(copied(server, content, keys.read_bytes()))
                assert (reply["status"], [each["name"] for each in reply["outputs"]]) == (200, ["predict_proba"])
                assert np.array_equal(np.frombuffer(reply["outputs"][0]["data"]), expected)
                assert 1 <= reply["own_us"] < 1e6
        assert copied(server, CONTENT, b"").status == 401, "signed with other keys, and without one"
        assert server.send("POST", authentic.PATH, b"", x_api_key=KEY).status == 404
        assert metric(server, "mlmodel_requests_total") == 2
        file.unlink()
        until(lambda: copied(server, CONTENT, keys.read_bytes()).status == 401, "the rehearsal is over")
        log = server.stop()
    assert server.process.returncode == 0
    assert "error" not in log.lower()


@pytest.mark.attack(held=True)
def test_a_payload_is_visible_nowhere(file: Path) -> None:
    """Sampled, and copied; the error of the client's own request names the column, to that client alone."""
    options: tuple[str | Path, ...] = ("--uri", "builtin://iris", "--revision", REVISION, "--rehearsal", file)
    row = json.dumps([{MARKER: 1.0}]).encode()
    text = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [MARKER]}]}).encode()
    with running(*options) as server:
        for target, sent in (("/predict", row), (INFER, text)):
            assert server.send("POST", target, sent, x_mlmodel_client="10.9.8.7").status == 400
            reply = outcome(copied(server, Content(target.encode(), b"", b"", b"", sent)))
            assert (reply["status"], reply["outputs"]) == (400, [])
            assert MARKER not in str(reply)
        document = server.send("GET", "/openapi.json").json()["paths"]
        paths = [path for path, methods in document.items() if "get" in methods]
        assert {"/metrics", "/", "/v2/models/tumour/stats"} <= set(paths)
        for path in (*paths, "/openapi.json", "/docs", authentic.PATH, "/nothing"):
            for accept in ("*/*", "text/html", "application/openmetrics-text"):
                seen = server.send("GET", path, accept=accept)
                assert MARKER not in seen.body.decode() + str(seen.headers), path
                assert "10.9.8.7" not in seen.body.decode(), path
        assert authentic.PATH not in document, "strangers do not learn of it"
        log = "".join(server.log) + server.stop()
    assert MARKER not in log
    assert "10.9.8.7" not in log


@pytest.mark.parametrize("options", [(), ("--rehearsal-requests", "0")], ids=["no file", "no requests"])
def test_rehearsals_are_off_without_the_file_or_with_no_requests(file: Path, options: tuple[str, ...]) -> None:
    given: tuple[str | Path, ...] = ("--rehearsal", file, *options) if options else ()
    with running("--uri", "builtin://iris", "--revision", REVISION, *given) as server:
        assert copied(server, CONTENT).status == 404
