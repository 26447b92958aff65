"""The model server with the models of the quickstart, as a process on a loopback port, as it runs in a pod."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import http.client
import http.server
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import grpc
import joblib
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import ExtraTreesClassifier

from hack import ROOT
from hack.ports import free_port
from mlmodel_server.loading.sources.pin import directory_digest
from mlmodel_server.manifest import MANIFEST, sha256
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from tests.integration.router.loopback import http2
from tests.integration.server.processes import SECONDS, Server, failing, metric, running, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])

QUICKSTART = ROOT / "examples" / "quickstart"
SEED = 7
BIG_ROWS = 40_000
INFER = "/v2/models/tumour/infer"


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of the quickstart."""
    out = tmp_path_factory.mktemp("versions")
    subprocess.run(
        [sys.executable, QUICKSTART / "versions.py", "--out", out], check=True, capture_output=True, timeout=600
    )
    return out


@pytest.fixture(scope="module")
def rows(versions: Path) -> list[str]:
    """A v2 request for each held-out patient."""
    return (versions / "requests.jsonl").read_text().splitlines()


@pytest.fixture(scope="module")
def tumour(versions: Path) -> Iterator[Server]:
    given = ("--uri", "configmap://tumour-v2", "--path", versions / "v2", "--model-version", "v2")
    with running(*given, "--revision", "abcdef12", "--max-body", "100000") as server:
        yield server


def test_train_prints_its_scores_and_saves_a_package(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, QUICKSTART / "train.py", "--out", "model", "--version", "v1"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    for word in ("seed 42", "accuracy", "precision", "recall", "malignant"):
        assert word in finished.stdout
    described = json.loads((tmp_path / "model" / MANIFEST).read_text())
    assert described["version"] == "v1"
    assert described["metrics"]["accuracy"] > 0.95
    assert (tmp_path / "data.csv").read_text().splitlines()[0].endswith(",label")


def test_a_response_has_the_version_and_revision_in_its_headers(tumour: Server, rows: list[str]) -> None:
    before = tumour.requests(200)
    answer = tumour.send("POST", INFER, rows[0])
    assert answer.status == 200
    assert answer.json() == {
        "model_name": "tumour",
        "model_version": "v2",
        "outputs": [{"name": "predict", "shape": [1], "datatype": "BYTES", "data": ["malignant"]}],
    }
    assert answer.headers["x-mlmodel-version"] == "v2"
    assert answer.headers["x-mlmodel-revision"] == "abcdef12"
    for path in (INFER + "/", "/v2/models/tumour/versions/v2/infer", "/v2/models/tumour/versions/v2/infer/"):
        assert tumour.send("POST", path, rows[0]).body == answer.body
    assert tumour.requests(200) == before + 4


def test_most_predictions_are_right(tumour: Server, versions: Path, rows: list[str]) -> None:
    """A batch gives the same predictions as single rows, at the accuracy in the package."""
    data = [value for row in rows for value in json.loads(row)["inputs"][0]["data"]]
    tensor = {"name": "rows", "shape": [len(rows), 30], "datatype": "FP64", "data": data}
    batch = tumour.send("POST", INFER, json.dumps({"inputs": [tensor]})).json()["outputs"][0]["data"]
    assert batch == [tumour.send("POST", INFER, row).json()["outputs"][0]["data"][0] for row in rows]
    malignant = sum(label == "malignant" for label in batch) / len(batch)
    assert 0.3 < malignant < 0.45
    assert json.loads((versions / "v2" / MANIFEST).read_text())["metrics"]["accuracy"] > 0.95


def test_head_leaves_the_connection_as_get_does(tumour: Server) -> None:
    connection = tumour.connect()
    for path in ("/v2/models/tumour", "/v2/health/live", "/docs", "/openapi.json", "/v2/models/tumour/example"):
        head = tumour.send("HEAD", path, connection=connection)
        get = tumour.send("GET", path, connection=connection)
        assert (head.status, head.body, get.status) == (200, b"", 200)
        assert {**head.headers, "date": ""} == {**get.headers, "date": ""}
    connection.close()


@pytest.mark.attack(held=True)
def test_a_grpc_call_with_a_path_that_is_not_utf8_stops_nothing() -> None:
    port = free_port()
    row = pb.ModelInferRequest(model_name="tumour")
    row.inputs.add(name="x", datatype="FP64", shape=[1, 4]).contents.fp64_contents.extend([5.1, 3.5, 1.4, 0.2])

    async def attack() -> None:
        headers = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            for _ in range(3):
                assert pb.ModelInferResponse.FromString(await infer(row.SerializeToString(), timeout=10)).outputs
                await http2(("127.0.0.1", port), b"/\xff\xfe", headers=headers, body=bytes(5))
            assert pb.ModelInferResponse.FromString(await infer(row.SerializeToString(), timeout=10)).outputs

    with running("--uri", "builtin://iris", "--grpc-port", str(port)) as server:
        asyncio.run(attack())
        log = server.stop()
    assert "level=error" not in log
    assert "died" not in log


def test_health_and_metadata_with_and_without_slash(tumour: Server) -> None:
    for slash in ("", "/"):
        assert tumour.send("GET", f"/v2/health/live{slash}").json() == {"live": True}
        assert tumour.send("GET", f"/v2/health/ready{slash}").json() == {"ready": True}
        assert tumour.send("GET", f"/v2{slash}").json()["name"] == "mlmodel-server"
        for model in ("/v2/models/tumour", "/v2/models/tumour/versions/v2"):
            assert tumour.send("GET", f"{model}/ready{slash}").json() == {"name": "tumour", "ready": True}
            metadata = tumour.send("GET", f"{model}{slash}").json()
            assert metadata["versions"] == ["v2"]
            assert metadata["platform"] == "onnxruntime_onnx"
            assert metadata["inputs"][0] == {"name": "mean radius", "datatype": "FP64", "shape": [-1]}
            assert len(metadata["inputs"]) == 30
            assert metadata["outputs"] == [{"name": "predict", "datatype": "BYTES", "shape": [-1]}]
            assert json.loads(metadata["properties"]["classes"]) == ["benign", "malignant"]


def test_the_documentation_needs_no_internet_and_its_example_works(tumour: Server) -> None:
    page = tumour.send("GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(rb'(src|<link[^>]*href)="?https?://', page.body)
    assert INFER.encode() in page.body
    operation = tumour.send("GET", "/openapi.json").json()["paths"][INFER]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    assert tumour.send("POST", INFER, json.dumps(example)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "words"),
    [
        ("POST", INFER, "{}", {}, 400, "inputs is missing"),
        ("POST", INFER, "nonsense", {}, 400, "not JSON"),
        ("POST", "/v2/models/other/infer", "{}", {}, 404, "model 'other' not found; this server serves 'tumour'"),
        ("POST", "/v2/models/other/versions/v2/infer", "{}", {}, 404, "model 'other' not found"),
        ("POST", "/v2/models/tumour/versions/v9/infer", "{}", {}, 404,
         "version 'v9' of model 'tumour' not found; this server serves 'v2'"),
        ("POST", "/nothing/infer", "{}", {}, 404, "path '/nothing/infer' not found: POST to /v2/models/tumour/infer"),
        ("GET", "/v2/models/other", None, {}, 404, "this server serves /v2/models/tumour, see /docs"),
        ("GET", "/v2/models/tumour/versions/v9", None, {}, 404, "this server serves"),
        ("GET", "/nothing", None, {}, 404, "path '/nothing' not found: this server serves"),
        ("GET", INFER, None, {}, 405, "method GET is not allowed: POST a v2 inference request"),
        ("DELETE", "/v2/models/tumour", None, {}, 405, "method DELETE is not allowed at '/v2/models/tumour'"),
        ("POST", INFER, "x" * 100_001, {}, 413, "the body has 100001 bytes, the limit is 100000"),
        ("POST", INFER, "{}", {"content_type": "text/plain"}, 415,
         "Content-Type 'text/plain' is not supported: use application/json"),
        ("POST", INFER, "{}", {"content_encoding": "br"}, 415, "gzip or deflate"),
    ],
)  # fmt: skip
def test_every_error_has_the_form_of_the_protocol_and_the_version(
    tumour: Server, method: str, path: str, body: str | None, headers: dict[str, Any], status: int, words: str
) -> None:
    before = tumour.requests(status)
    answer = tumour.send(method, path, body, **headers)
    assert answer.status == status
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]
    assert answer.headers["x-mlmodel-version"] == "v2"
    assert answer.headers["x-mlmodel-revision"] == "abcdef12"
    assert answer.headers["content-type"] == "application/json"
    assert tumour.requests(status) == before + ("infer" in path), "only inference requests are counted"


@pytest.mark.attack(held=True)
def test_a_chunked_body_is_read_within_the_limit(tumour: Server, rows: list[str]) -> None:
    def chunks(text: str) -> Iterator[bytes]:
        for start in range(0, len(text), 1000):
            yield text[start : start + 1000].encode()

    assert tumour.send("POST", INFER, chunks(rows[0])).status == 200
    assert tumour.send("POST", INFER, chunks(" " * 50_000 + rows[0])).status == 200
    # The server may reject the body while we send it, so the connection may break before we read the response.
    with contextlib.suppress(ConnectionError, BrokenPipeError):
        assert tumour.send("POST", INFER, chunks(" " * 1_000_000)).status == 413
    assert tumour.send("POST", INFER, rows[0]).status == 200


@pytest.mark.attack(held=True)
def test_connections_stay_open_and_garbage_closes_only_its_connection(tumour: Server, rows: list[str]) -> None:
    kept = tumour.connect()
    for row in rows[:20]:
        assert tumour.send("POST", INFER, row, kept).status == 200
    with socket.create_connection(("127.0.0.1", tumour.port)) as raw:
        raw.sendall(b"GARBAGE\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    assert tumour.send("POST", INFER, rows[0], kept).status == 200
    kept.close()


def test_metrics_are_counters_and_a_fine_histogram(tumour: Server, rows: list[str]) -> None:
    tumour.send("POST", INFER, rows[0])
    labels = (("model", "tumour"), ("revision", "abcdef12"), ("version", "v2"))
    samples = tumour.samples()
    total = sum(value for (name, _), value in samples.items() if name == "mlmodel_requests_total")
    assert samples["mlmodel_request_duration_seconds_count", labels] == total
    edges = [float(dict(found)["le"]) for name, found in samples if name == "mlmodel_request_duration_seconds_bucket"]
    assert {0.001, 0.005, 0.05, 0.5} <= set(edges)
    assert samples["process_resident_memory_bytes", ()] > 0


def test_a_wrong_model_fails_on_real_rows_although_it_passed_its_self_test(versions: Path, rows: list[str]) -> None:
    given = ("--uri", "configmap://m", "--path", versions / "v3", "--model-version", "v2", "--revision", "abcdef12")
    with running(*given) as server:
        answers = [server.send("POST", INFER, row) for row in rows]
        failed = [answer for answer in answers if answer.status != 200]
        assert 0.2 < len(failed) / len(rows) < 0.5
        assert {answer.status for answer in failed} == {500}
        assert {answer.body for answer in failed} == {b'{"error":"the model failed on this input (ValueError)"}'}
        assert server.requests(500) == len(failed)
        assert server.requests(200) == len(rows) - len(failed)
        log = server.stop()
    assert server.process.returncode == 0
    assert "Traceback" not in log
    assert str(versions) not in log
    assert "Found unknown categories" not in log, "scikit-learn quotes values of the request"


def test_the_worst_model_fails_on_nearly_all_rows(versions: Path, rows: list[str]) -> None:
    with running("--uri", "configmap://m", "--path", versions / "v3-all", "--model-version", "v3") as server:
        statuses = [server.send("POST", INFER, row).status for row in rows]
        assert statuses.count(500) / len(rows) > 0.95


@pytest.mark.attack(held=True)
def test_a_model_that_calls_the_training_script_is_rejected(versions: Path, tmp_path: Path) -> None:
    code, reason = failing(tmp_path, "--uri", "configmap://tumour-v4", "--path", versions / "v4")
    assert code == 3
    assert reason.startswith("refused __main__.clipped in model.joblib: ")


@pytest.mark.attack(held=True)
def test_models_that_can_never_work_exit_3(versions: Path, tmp_path: Path) -> None:
    code, reason = failing(tmp_path, "--uri", "configmap://m", "--path", versions / "v2", "--sha256", "0" * 64)
    assert (code, reason.partition(" but")[0]) == (
        3, f"mlmodel.json has sha256 {sha256((versions / 'v2' / MANIFEST).read_bytes())},"
    )  # fmt: skip

    changed = shutil.copytree(versions / "v2", tmp_path / "changed")
    with (changed / "model.skops").open("ab") as file:
        file.write(b"x")
    code, reason = failing(tmp_path, "--uri", "configmap://m", "--path", changed)
    assert code == 3
    assert "model.skops has sha256" in reason

    other = shutil.copytree(versions / "v2", tmp_path / "other")
    described = json.loads((other / MANIFEST).read_text())
    described["golden"]["outputs"][0]["data"][3] = "unclear"
    (other / MANIFEST).write_text(json.dumps(described))
    code, reason = failing(tmp_path, "--uri", "configmap://m", "--path", other)
    assert code == 3
    assert reason.startswith("self-test: 1 of 12 golden examples differ in predict (first: example 3)")

    assert failing(tmp_path, "--uri", "builtin://nothing")[0] == 3


def test_a_config_map_that_was_changed_exits_3(versions: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in (versions / "v2").iterdir()}
    digest = directory_digest(files)
    given = ("--uri", "configmap://tumour-v2", "--path", versions / "v2", "--files-sha256")
    with running(*given, digest) as server:
        metadata = server.send("GET", "/v2/models/tumour").json()
        assert metadata["properties"]["sha256"] == sha256(files[MANIFEST])
        assert metric(server, "mlmodel_model_info", sha256=sha256(files[MANIFEST])) == 1
    code, reason = failing(tmp_path, *given, "9f2c" * 16)
    assert code == 3
    assert reason.startswith(
        "ConfigMap tumour-v2 was changed after this revision started: give the changed model a new"
    )


def test_a_source_that_cannot_be_reached_exits_4(tmp_path: Path) -> None:
    code, reason = failing(tmp_path, "--uri", "pvc://claim/model", "--path", tmp_path / "missing")
    assert code == 4
    assert str(tmp_path) not in reason


def test_a_wrong_argument_exits_2(tmp_path: Path) -> None:
    assert failing(tmp_path, "--uri", "builtin://iris", "--sha256", "abc")[0] == 2
    assert failing(tmp_path, "--uri", "builtin://iris", "--model-version", "a\nb")[0] == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, reason = failing(tmp_path, "--uri", "builtin://iris", "--port", port)
    assert code == 2
    assert reason.startswith(f"cannot listen on port {port}")


def test_without_a_label_the_version_is_the_digest_then_the_revision(versions: Path) -> None:
    digest = sha256((versions / "v4" / "model.joblib").read_bytes())
    bare = versions / "bare"
    bare.mkdir()
    joblib.dump(slow_model(3), bare / "model.joblib")
    digest = sha256((bare / "model.joblib").read_bytes())
    given = ("--uri", "pvc://claim/bare", "--path", bare / "model.joblib", "--revision", "0123456789")
    with running(*given, "--sha256", digest) as server:
        assert server.send("GET", "/v2/health/live").headers["x-mlmodel-version"] == digest[:7]
    with running(*given) as server:
        assert server.send("GET", "/v2/health/live").headers["x-mlmodel-version"] == "0123456"


class Busy(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Trees that predict many rows again and again until a file exists; another one says that they have begun."""

    def __init__(self, trees: Any, begun: str, end: str) -> None:
        self.trees, self.begun, self.end = trees, begun, end
        self.classes_, self.n_features_in_ = trees.classes_, trees.n_features_in_

    def fit(self, X: Any, y: Any) -> Busy:
        return self

    def predict(self, X: Any) -> Any:
        labels = self.trees.predict(X)
        if len(X) == BIG_ROWS:
            open(self.begun, "w").close()
            while not os.path.exists(self.end):
                labels = self.trees.predict(X)
        return labels


@contextlib.contextmanager
def running_busy(folder: Path) -> Iterator[tuple[Server, Path, Path]]:
    """Run a server whose model works on ``big_request`` until the second file exists; the first one says that it has
    begun."""
    begun, end = folder / "begun", folder / "end"
    (folder / "busy.joblib").write_bytes(cloudpickle.dumps(Busy(slow_model(5), str(begun), str(end))))
    given = ("--uri", folder / "busy.joblib", "--trust", "unsafe", "--allow-unsafe", "--timeout", "300")
    with running(*given, "--max-rows", str(10**6)) as server:
        try:
            yield server, begun, end
        finally:
            end.touch()


def slow_model(trees: int) -> Any:
    """Return deep trees, trained on noise: slow on many rows."""
    random = np.random.default_rng(SEED)
    return ExtraTreesClassifier(trees, random_state=SEED).fit(random.random((2000, 4)), random.integers(0, 2, 2000))


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that takes one to two seconds for ``big_request``."""
    path = tmp_path_factory.mktemp("slow") / "model.joblib"
    joblib.dump(slow_model(100), path)
    return path


@pytest.fixture(scope="module")
def big_request() -> str:
    data = np.random.default_rng(SEED).random(BIG_ROWS * 4).round(3).tolist()
    return json.dumps({"inputs": [{"name": "x", "shape": [BIG_ROWS, 4], "datatype": "FP64", "data": data}]})


def test_probes_and_metrics_answer_while_the_model_is_busy(tmp_path: Path, big_request: str) -> None:
    with ThreadPoolExecutor(1) as pool, running_busy(tmp_path) as (server, begun, end):
        busy = pool.submit(server.send, "POST", INFER, big_request)
        until(begun.exists, "the model predicts")
        for path in ("/v2/health/live", "/v2/health/ready", "/metrics") * 10:
            assert server.send("GET", path).status == 200
        assert not busy.done()
        end.touch()
        assert busy.result().status == 200


def test_sigterm_finishes_requests_in_flight_and_closes_connections(slow: Path, big_request: str) -> None:
    one = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [0.1, 0.2, 0.3, 0.4]}]})
    json_type = {"Content-Type": "application/json"}
    with running("--uri", "pvc://claim", "--path", slow, "--timeout", "300") as server:
        first, second = server.connect(), server.connect()
        for connection in (first, second):  # idle keep-alive connections
            assert "connection" not in server.send("POST", INFER, one, connection).headers
        busy = [server.connect() for _ in range(3)]
        for connection in busy:
            connection.request("POST", INFER, big_request, json_type)  # a megabyte: the server is reading it
        server.process.send_signal(signal.SIGTERM)
        while server.send("GET", "/v2/health/ready", connection=first).status == 200:
            pass  # until the signal arrives
        late = server.send("POST", INFER, one, second)
        assert late.status == 200
        assert late.headers["connection"] == "close"
        for connection in busy:
            response = connection.getresponse()
            assert response.status == 200
            assert response.headers["connection"] == "close"
            assert len(json.loads(response.read())["outputs"][0]["data"]) == BIG_ROWS
            connection.close()
        log = server.ended()
        assert server.process.returncode == 0
        assert "drained" in log
        with pytest.raises(ConnectionRefusedError):
            server.send("GET", "/v2/health/live")


def test_a_request_whose_body_arrives_after_sigterm_is_answered(versions: Path, rows: list[str]) -> None:
    body = rows[0].encode()
    with running("--uri", "configmap://tumour-v2", "--path", versions / "v2") as server:
        probe, split = server.connect(), server.connect()
        assert server.send("GET", "/v2/health/ready", connection=probe).status == 200
        split.putrequest("POST", INFER)
        split.putheader("Content-Type", "application/json")
        split.putheader("Content-Length", str(len(body)))
        split.endheaders(body[:10])
        server.process.send_signal(signal.SIGTERM)
        while server.send("GET", "/v2/health/ready", connection=probe).status == 200:
            pass  # until the signal arrives
        split.send(body[10:])
        response = split.getresponse()
        assert response.status == 200
        assert response.headers["connection"] == "close"


def test_a_request_that_outlives_the_drain_gets_503_and_not_500(versions: Path) -> None:
    given = ("--uri", "configmap://tumour-v2", "--path", versions / "v2", "--timeout", "0.1")
    with running(*given) as server:
        stalled = server.connect()
        stalled.putrequest("POST", INFER)
        stalled.putheader("Content-Type", "application/json")
        stalled.putheader("Content-Length", "1000000")  # not on the fast path
        stalled.endheaders(b"{")
        assert server.send("GET", "/v2/health/ready").status == 200
        server.process.send_signal(signal.SIGTERM)
        response = stalled.getresponse()
        assert (response.status, response.headers["retry-after"]) == (503, "1")
        assert response.headers["connection"] == "close"
        assert "retry" in json.loads(response.read())["error"]
        stalled.close()
        log = server.ended()
        assert server.process.returncode == 0
        assert "Traceback" not in log


def test_sigterm_with_ten_requests_in_flight_for_longer_than_idle_connections_stay_loses_none(
    tmp_path: Path, big_request: str
) -> None:
    with ThreadPoolExecutor(10) as pool, running_busy(tmp_path) as (server, _, end):
        idle = server.connect()
        assert server.send("GET", "/v2/health/ready", connection=idle).status == 200
        futures = [pool.submit(server.send, "POST", INFER, big_request) for _ in range(10)]
        until(lambda: metric(server, "mlmodel_requests_in_flight") >= 10, "ten requests are in flight")
        server.process.send_signal(signal.SIGTERM)
        assert idle.sock.recv(1) == b"", "it is closed"
        assert not any(future.done() for future in futures)
        end.touch()
        assert [future.result().status for future in futures] == [200] * 10
        assert server.process.wait(SECONDS) == 0


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/redirect"):
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/model.skops")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web(versions: Path) -> Iterator[tuple[str, Path]]:
    """The packages on an HTTPS server with a private authority: its URL and the certificate of the authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority, secret = versions / "ca.pem", versions / "key.pem"
    authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(versions)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, secret)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", authority
    server.shutdown()
    thread.join()
    server.server_close()


def test_https_serves_a_package_and_a_bare_file_by_digest(
    web: tuple[str, Path], versions: Path, rows: list[str]
) -> None:
    address, authority = web
    for path in ("v2/mlmodel.json", "v1/model.skops"):
        digest = sha256((versions / path).read_bytes())
        with running("--uri", f"{address}/{path}", "--sha256", digest, SSL_CERT_FILE=str(authority)) as server:
            assert server.send("POST", INFER, rows[0]).json()["outputs"][0]["data"] == ["malignant"]


def test_https_failures_exit_4_if_a_retry_may_help_else_3(
    web: tuple[str, Path], versions: Path, tmp_path: Path
) -> None:
    address, authority = web
    ca = {"SSL_CERT_FILE": str(authority)}
    digest = sha256((versions / "v2" / MANIFEST).read_bytes())
    good = f"{address}/v2/mlmodel.json"
    assert failing(tmp_path, "--uri", good, "--sha256", "0" * 64, **ca)[0] == 3
    code, reason = failing(tmp_path, "--uri", good, **ca)
    assert (code, reason) == (3, "an https:// model requires its digest: give --sha256 (spec.model.sha256)")
    code, reason = failing(tmp_path, "--uri", f"{address}/gone.skops", "--sha256", digest, **ca)
    assert code == 4
    assert "answered 404" in reason
    code, reason = failing(tmp_path, "--uri", good, "--sha256", digest)
    assert code == 4
    assert "certificate" in reason.lower()
    code, reason = failing(tmp_path, "--uri", f"{address}/redirect/model.skops", "--sha256", digest, **ca)
    assert code == 3
    assert "redirects to one without TLS" in reason
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    code, reason = failing(tmp_path, "--uri", f"https://127.0.0.1:{port}/m.skops", "--sha256", digest, **ca)
    assert code == 4
    assert "cannot be reached (Connection refused)" in reason
