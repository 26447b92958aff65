"""Whatever is sent, the server answers it: never with a status of the 500s, and it lives on."""

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
    """How many requests to send; the seed is printed with them."""
    number: int = pytestconfig.getoption("fuzz", 300)
    print(f"{number} requests, seed {SEED}")
    return number


@pytest.fixture(autouse=True)
def alive(target: Target) -> Iterator[None]:
    """The server answers after a test as it did before."""
    before = target.outputs(target.infer(target.sample))
    yield
    assert target.outputs(target.infer(target.sample)) == before


def needs_no_known_texts(target: Target) -> None:
    """A model may fail on a text that it has never seen, which is a 500 and no fault of the protocol; ours does not."""
    if not target.pid and any(tensor["datatype"] == "BYTES" for tensor in target.metadata["inputs"]):
        pytest.skip("the model takes text, and may fail on what it does not know")


def memory(target: Target) -> int:
    """Bytes that our server's processes hold for themselves."""
    total = 0
    for process in [target.pid, *_children(target.pid)]:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))
    return total


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_requests(target: Target, count: int) -> None:
    """A request that is wrong in any way gets an error of the 400s that is JSON."""
    needs_no_known_texts(target)
    random, statuses = Random(SEED), Counter[int]()
    connection = http.client.HTTPConnection(urlsplit(target.url).netloc, timeout=TIMEOUT)
    before = 0
    for number in range(count):
        if number == count // 10 and target.pid:
            before = memory(target)  # after a tenth: what is loaded at first use is there
        sent = mutated(random, target)
        connection.request("POST", sent.path, sent.body, sent.headers)
        answer = connection.getresponse()
        body = answer.read()
        told = f"request {number} of seed {SEED}: {answer.status} {body[:200]!r} to {sent.body[:2000]!r} {sent.headers}"
        assert answer.status < 500, told
        if answer.status != 200:
            assert json.loads(body).keys() == {"error"}, told
        statuses[answer.status] += 1
    connection.close()
    print(dict(statuses))
    assert statuses[200] > count / 100, "some of the requests are good"
    assert statuses[400] > count / 10, "many of the requests are bad"
    if target.pid:
        grown = memory(target) - before
        print(f"memory grew by {grown / 2**20:.1f} MiB")
        assert grown < GROWTH


def test_bytes(target: Target, count: int) -> None:
    """What is no HTTP is answered with an error or a closed connection."""
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


def whole_numbers(target: Target, raw: bool) -> Any:
    """The sample with integers instead, which no change of a byte turns into NaN."""
    sample = target.request()
    for tensor in sample["inputs"]:
        if tensor["datatype"] not in ("BYTES", "BOOL"):
            tensor.update(datatype="INT32", data=[1] * len(flat(tensor["data"])))
    return request(replace(target, sample=sample), raw=raw)


@pytest.mark.grpc
def test_messages(target: Target, count: int) -> None:
    """A message that is wrong in any way is an error of the client."""
    needs_no_known_texts(target)
    assert target.grpc
    random, codes = Random(SEED), Counter[Any]()
    client = Client(target.grpc)
    method: Any = client.channel.unary_unary(f"/{SERVICE}/ModelInfer")
    for number in range(count // 3):
        raw = bytearray(whole_numbers(target, random.random() < 0.5).SerializeToString())
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
            told = f"message {number} of seed {SEED}: {failed.code()} {failed.details()} to {bytes(raw)!r}"
            assert failed.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), told
    client.channel.close()
    print(dict(codes))
    assert codes["OK"]
    assert codes["INVALID_ARGUMENT"]


@pytest.mark.house
def test_schema(target: Target, count: int, tmp_path: Path) -> None:
    """What schemathesis makes of /openapi.json is answered as it describes."""
    needs_no_known_texts(target)
    python = venv("schemathesis", SCHEMATHESIS)
    command = [str(python.with_name("schemathesis")), "run", f"{target.url}/openapi.json", "--seed", str(SEED)]
    command += ["--max-examples", str(min(200, max(10, count // 20))), "--no-color"]  # it makes 30 requests a second
    command += [
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
    ]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600 + count, check=False)
    print(finished.stdout[-2000:])
    assert finished.returncode == 0, finished.stdout[-5000:] + finished.stderr[-1000:]
