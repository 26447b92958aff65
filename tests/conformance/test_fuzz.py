"""Any request gets a response, never a 5xx, and the server keeps running."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest

from hack.venvs import venv
from tests.conformance.mutate import mutated
from tests.conformance.target import TIMEOUT, Target, flat
from tests.conformance.test_grpc import SERVICE, Client, request

pytestmark = pytest.mark.section("robustness")

SEED = 20_261_124
GROWTH = 32 << 20
SCHEMATHESIS = ("schemathesis==4.32.5",)


@pytest.fixture
def count(pytestconfig: pytest.Config) -> int:
    """Number of requests to send; the test prints it with the seed."""
    number: int = pytestconfig.getoption("fuzz", 300)
    print(f"{number} requests, seed {SEED}")
    return number


@pytest.fixture(autouse=True)
def alive(target: Target) -> Iterator[None]:
    """Check that the server answers after a test as before."""
    before = target.outputs(target.infer(target.sample))
    yield
    assert target.outputs(target.infer(target.sample)) == before


def needs_no_known_texts(target: Target) -> None:
    """Skip the test for models of text, which may fail on unknown text with 500; our models do not."""
    if not target.pid and any(tensor["datatype"] == "BYTES" for tensor in target.metadata["inputs"]):
        pytest.skip("the model may fail on unknown text")


def memory(target: Target) -> int:
    """Return the private memory of our server's processes, in bytes."""
    total = 0
    for process in [target.pid, *_children(target.pid)]:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))
    return total


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.attack(held=True)
def test_requests(target: Target, count: int) -> None:
    """An invalid request gets a 4xx with an error in JSON."""
    needs_no_known_texts(target)
    random, statuses = Random(SEED), Counter[int]()
    connection = http.client.HTTPConnection(urlsplit(target.url).netloc, timeout=TIMEOUT)
    before = 0
    for number in range(count):
        if number == count // 10 and target.pid:
            before = memory(target)  # after a tenth, everything is loaded that loads on first use
        sent = mutated(random, target)
        connection.request("POST", sent.path, sent.body, sent.headers)
        answer = connection.getresponse()
        body = answer.read()
        details = (
            f"request {number} of seed {SEED}: {answer.status} {body[:200]!r} to {sent.body[:2000]!r} {sent.headers}"
        )
        assert answer.status < 500, details
        if answer.status != 200:
            assert json.loads(body).keys() == {"error"}, details
        statuses[answer.status] += 1
    connection.close()
    print(dict(statuses))
    assert statuses[200] > count / 100, "some of the requests are valid"
    assert statuses[400] > count / 10, "many of the requests are invalid"
    if target.pid:
        grown = memory(target) - before
        print(f"memory grew by {grown / 2**20:.1f} MiB")
        assert grown < GROWTH


@pytest.mark.attack(held=True)
def test_bytes(target: Target, count: int) -> None:
    """Bytes that are not HTTP get an error or a closed connection."""
    needs_no_known_texts(target)
    random = Random(SEED)
    address = urlsplit(target.url)
    good = (
        f"POST {target.base}/infer HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: ".encode()
    )
    for _ in range(max(20, count // 50)):
        body = json.dumps(target.sample).encode()
        whole = bytearray(good + str(len(body)).encode() + b"\r\nConnection: close\r\n\r\n" + body)
        for _ in range(random.randrange(1, 6)):
            whole[random.randrange(len(good) if random.random() < 0.7 else len(whole))] = random.randrange(256)
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection((address.hostname or "", address.port or 80), timeout=TIMEOUT) as raw,
        ):
            raw.sendall(whole)
            raw.shutdown(socket.SHUT_WR)
            answer = b""
            while part := raw.recv(65536):
                answer += part
            assert not answer.startswith(b"HTTP/1.1 5"), (bytes(whole), answer[:300])


def with_integers(target: Target, raw: bool) -> Any:
    """Return the sample with integers, because a changed byte cannot turn them into NaN."""
    sample = target.request()
    for tensor in sample["inputs"]:
        if tensor["datatype"] not in ("BYTES", "BOOL"):
            tensor.update(datatype="INT32", data=[1] * len(flat(tensor["data"])))
    return request(replace(target, sample=sample), raw=raw)


@pytest.mark.attack(held=True)
@pytest.mark.grpc
def test_messages(target: Target, count: int) -> None:
    """An invalid message gets an error code of the client."""
    needs_no_known_texts(target)
    assert target.grpc
    random, codes = Random(SEED), Counter[Any]()
    client = Client(target.grpc)
    method: Any = client.channel.unary_unary(f"/{SERVICE}/ModelInfer")
    for number in range(count // 3):
        raw = bytearray(with_integers(target, random.random() < 0.5).SerializeToString())
        for _ in range(random.randrange(4)):
            action, index = random.random(), random.randrange(len(raw))
            if action < 0.7:
                raw[index] = random.randrange(256)
            elif action < 0.85:
                del raw[index]
            else:
                raw[index:index] = random.randbytes(random.choice([1, 8]))
        try:
            method(bytes(raw), timeout=TIMEOUT, wait_for_ready=True)
            codes["OK"] += 1
        except grpc.RpcError as error:
            failed: Any = error
            codes[failed.code().name] += 1
            details = f"message {number} of seed {SEED}: {failed.code()} {failed.details()} to {bytes(raw)!r}"
            assert failed.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), details
    client.channel.close()
    print(dict(codes))
    assert codes["OK"]
    assert codes["INVALID_ARGUMENT"]


@pytest.mark.house
def test_schema(target: Target, count: int, tmp_path: Path) -> None:
    """Responses to the requests of schemathesis follow /openapi.json."""
    needs_no_known_texts(target)
    # It also sends deadlines of 0 and 1 ms. A busy server rejects those with 503, as the document says.
    rejections = '[checks]\nnot_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503]\n'
    (tmp_path / "schemathesis.toml").write_text(rejections, "utf-8")
    python = venv("schemathesis", SCHEMATHESIS)
    command = [str(python.with_name("schemathesis")), "run", f"{target.url}/openapi.json", "--seed", str(SEED)]
    command += ["--max-examples", str(min(200, max(10, count // 20))), "--no-color"]  # it sends 30 requests per second
    command += [
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
    ]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600 + count, check=False)
    print(finished.stdout[-2000:])
    assert finished.returncode == 0, finished.stdout[-5000:] + finished.stderr[-1000:]
