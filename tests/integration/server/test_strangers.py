"""Strangers beside honest clients: what one source sends, or does not send, costs the others nothing.

Attacks come from 127.0.0.2 and later addresses, honest clients have 127.0.0.1. All are bounded in count and time.

An honest request is answered if the server has not used more than 3 s of CPU time meanwhile: so a busy machine fails no
test, and a server that works for others first does.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import joblib
import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier

from hack.ports import free_port
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from tests.integration.server.processes import Server, metric, running, until

pytestmark = pytest.mark.attack

INFER = "/v2/models/tumour/infer"
POST = b"POST /v2/models/tumour/infer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
HEADERS = {"content-type": "application/json", "x-mlmodel-timeout-ms": "60000"}
ATTACKER = "127.0.0.2"
REQUESTS, FEW = 100, 30
ANSWERED = 0.99
"""Minimum share of the requests of honest clients that are answered."""

CPU_SECONDS, SECONDS = 3.0, 30.0
"""Maximum time of an honest request: of the server's CPU, and of the clock."""

FEW_FILES = (
    "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512)); "
    "runpy.run_module('mlmodel_server', run_name='__main__', alter_sys=True)"
)
"""A server with a low limit of open files."""


@pytest.fixture(scope="module")
def iris() -> Iterator[Server]:
    with running("--uri", "builtin://iris", "--workers", "1") as server:
        yield server


@pytest.fixture
def small(iris: Server) -> bytes:
    return iris.send("GET", "/v2/models/tumour/example").body


@pytest.fixture
def large(small: bytes) -> bytes:
    """A request that is not on the fast path."""
    return small + b" " * 100_000


class Honest:
    """A client that sends one request after the other."""

    def __init__(self, server: Server, source: str = "127.0.0.1") -> None:
        self.server, self.source = server, source
        self.statuses: list[int] = []
        self.slowest = 0.0
        self._connection: http.client.HTTPConnection | None = None

    def send(self, *bodies: bytes, requests: int = REQUESTS) -> Honest:
        """Send requests; 0 is the status of one that is not answered. Every tenth is on a new connection."""
        for number in range(requests):
            if number % 10 == 0:
                self._close()
            started, cpu = time.perf_counter(), self.server.cpu()
            status = self._send(bodies[number % len(bodies)])
            self.statuses.append(status if self.server.cpu() - cpu <= CPU_SECONDS else 0)
            self.slowest = max(self.slowest, time.perf_counter() - started)
        self._close()
        return self

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _send(self, body: bytes) -> int:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(
                "127.0.0.1", self.server.port, timeout=SECONDS, source_address=(self.source, 0)
            )
        try:
            self._connection.request("POST", INFER, body, HEADERS)
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._close()
            return 0
        return answer.status

    @property
    def answered(self) -> float:
        """The share of the requests that were answered."""
        return self.statuses.count(200) / len(self.statuses)


def check(what: str, *honest: Honest) -> None:
    """Print and check the share of honest requests that were answered."""
    statuses = [status for one in honest for status in one.statuses]
    share = statuses.count(200) / len(statuses)
    slowest = max(one.slowest for one in honest)
    print(f"\n| {what} | {100 * share:.0f} % of {len(statuses)} | {1000 * slowest:.0f} ms |")
    assert share >= ANSWERED, f"{what}: {statuses}"


@contextlib.contextmanager
def sockets(port: int, count: int, source: str = ATTACKER, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open connections from a source, and send something on each."""
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            opened.append(socket.create_connection(("127.0.0.1", port), timeout=SECONDS, source_address=(source, 0)))
            if sent:
                with contextlib.suppress(OSError):
                    opened[-1].sendall(sent)
        yield opened
    finally:
        for one in opened:
            one.close()


@contextlib.contextmanager
def meanwhile(work: Callable[[threading.Event], object], threads: int = 1) -> Iterator[None]:
    """Run ``work`` in threads until the end of the context; it gets an event that is set then."""
    end = threading.Event()
    started = [threading.Thread(target=work, args=(end,), daemon=True) for _ in range(threads)]
    for thread in started:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in started:
            thread.join(10)


def response_of(opened: socket.socket) -> bytes:
    opened.settimeout(SECONDS)
    received = b""
    with contextlib.suppress(OSError):
        while part := opened.recv(65536):
            received += part
    return received


def test_half_sent_bodies_take_only_what_was_sent(iris: Server, small: bytes, large: bytes) -> None:
    begun = POST + b"content-length: 8388608\r\n\r\n" + b" " * 100
    with sockets(iris.port, 17, sent=begun):
        check("17 bodies of which 100 bytes were sent", Honest(iris).send(small, large))
    begun = POST + b"transfer-encoding: chunked\r\n\r\n5\r\n     \r\n"
    with sockets(iris.port, 100, sent=begun):
        check("100 chunked bodies without an end", Honest(iris).send(small, large))


def test_a_source_that_fills_the_memory_gives_way(iris: Server, small: bytes, large: bytes) -> None:
    begun = POST + b"content-length: 8388608\r\n\r\n" + b" " * (8 << 20 >> 1)
    with sockets(iris.port, 40, sent=begun):  # 160 MiB
        check("40 bodies of which 4 MiB were sent", Honest(iris).send(small, large))
    assert metric(iris, "mlmodel_requests_in_flight") == 0


def test_idle_connections_do_not_exhaust_the_files(small: bytes, large: bytes) -> None:
    with running("--uri", "builtin://iris", "--workers", "1", program=("-c", FEW_FILES)) as server:
        kept = Honest(server)
        kept.send(small, requests=1)
        with sockets(server.port, 1000):
            check("1000 idle connections, 512 files", kept.send(small, large))
            assert metric(server, "process_open_fds") < 512
        with sockets(server.port, 1000, sent=POST):
            check("1000 connections with half a head, 512 files", Honest(server).send(small, large))
        assert "Traceback" not in server.stop()


def test_heads_that_drip_delay_nobody_and_are_bounded(iris: Server, small: bytes, large: bytes) -> None:
    with sockets(iris.port, 200, sent=POST) as opened:

        def drip(end: threading.Event) -> None:
            while not end.wait(0.05):
                for one in opened:
                    with contextlib.suppress(OSError):
                        one.send(b"x")

        with meanwhile(drip):
            check("200 heads that drip", Honest(iris).send(small, large))
    for sent in (POST + b"a: " + b"x" * 70_000, POST + b"a: b\r\n" * 1000 + b"\r\n"):
        with sockets(iris.port, 1, sent=sent) as (one,):
            assert response_of(one).startswith(b"HTTP/1.1 431 ")


def test_chunks_of_one_byte_leave_others_their_turns(iris: Server, small: bytes, large: bytes) -> None:
    chunks = b"1\r\n \r\n" * 40_000
    with sockets(iris.port, 8, sent=POST + b"transfer-encoding: chunked\r\n\r\n") as opened:

        def send(end: threading.Event) -> None:
            while not end.is_set():
                for one in opened:
                    with contextlib.suppress(OSError):
                        one.settimeout(0.1)
                        one.send(chunks)

        with meanwhile(send):
            check("8 bodies in chunks of one byte", Honest(iris).send(small, large, requests=FEW))


def test_framing_without_content_is_rejected(iris: Server) -> None:
    chunked = POST + b"transfer-encoding: chunked\r\n\r\n"
    for sent in (chunked + b"1;" + b"x" * 70_000, chunked + b"1\r\n \r\n0\r\na: " + b"x" * 70_000):
        with sockets(iris.port, 1, sent=sent) as (one,):
            assert b"send larger chunks" in response_of(one)


def test_clients_that_do_not_read_keep_nothing_from_others(iris: Server, small: bytes, large: bytes) -> None:
    requests = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 20_000
    with sockets(iris.port, 20) as opened:
        for one in opened:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.setblocking(False)
            with contextlib.suppress(OSError):
                one.send(requests)
        check("20 clients that send and never read", Honest(iris).send(small, large))
    check("20 clients that have left without reading", Honest(iris).send(small, large))
    assert not iris.later.lines, "what a client does or leaves undone fills no log"


def test_pipelined_requests_leave_others_their_turns(iris: Server, small: bytes, large: bytes) -> None:
    flood = (POST + b"content-length: %d\r\n\r\n" % len(small) + small) * 500
    with sockets(iris.port, 8) as opened:

        def send(end: threading.Event) -> None:
            while not end.is_set():
                for one in opened:
                    one.settimeout(0.02)
                    with contextlib.suppress(OSError):
                        one.send(flood)
                    with contextlib.suppress(OSError):
                        one.recv(1 << 20)

        with meanwhile(send):
            check("8 connections with 500 pipelined requests", Honest(iris).send(small, large, requests=FEW))


def test_pipelined_requests_are_answered_in_order(iris: Server, small: bytes, large: bytes) -> None:
    def request(number: int) -> bytes:
        body = json.dumps({**json.loads(small), "id": str(number)}).encode()
        body += b" " * (100_000 if number % 7 == 0 else 0)  # another path through the server
        return POST + b"content-length: %d\r\n\r\n" % len(body) + body

    sent = b"".join(map(request, range(100))) + b"GET /v2 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    with sockets(iris.port, 1, sent=sent) as (one,):
        received = response_of(one)
    assert received.count(b"HTTP/1.1 200 OK") == 101
    places = [received.index(b'"id":"%d"' % number) for number in range(100)]
    assert places == sorted(places)


def test_offers_of_other_protocols_are_ignored_and_trailers_are_no_headers(iris: Server, small: bytes) -> None:
    for name in (b"h2c", b"websocket"):
        offer = b"upgrade: %b\r\nconnection: upgrade\r\n" % name
        get = b"GET /v2 HTTP/1.1\r\nhost: localhost\r\n" + offer + b"\r\n"
        with sockets(
            iris.port, 1, sent=get * 3 + b"GET /v2 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        ) as (one,):
            assert response_of(one).count(b"HTTP/1.1 200 OK") == 4
        sent = POST + offer + b"content-length: %d\r\n\r\n" % len(small) + small
        with sockets(iris.port, 1, sent=sent) as (one,):
            assert b"send the request without the header Upgrade" in response_of(one)
    with sockets(iris.port, 1, sent=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)) as (one,):
        assert response_of(one).startswith(b"HTTP/1.1 400 ")
    chunk = b"%x\r\n%b\r\n0\r\nx-mlmodel-timeout-ms: none\r\n\r\n" % (len(small), small)
    with sockets(iris.port, 1, sent=POST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + chunk) as (
        one,
    ):
        assert response_of(one).startswith(b"HTTP/1.1 200 "), "a trailer with a wrong deadline says nothing"


def test_who_waits_for_100_continue_occupies_nothing(iris: Server, small: bytes, large: bytes) -> None:
    begun = POST + b"expect: 100-continue\r\ncontent-length: 8388608\r\n\r\n"
    with sockets(iris.port, 100, sent=begun) as opened:
        check("100 requests that wait for 100 Continue", Honest(iris).send(small, large))
        assert opened[0].recv(100).startswith(b"HTTP/1.1 100 ")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, int]]:
    """A model of several milliseconds, with a short queue; and its port for gRPC."""
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 4))
    file = tmp_path_factory.mktemp("slow") / "model.joblib"
    joblib.dump(ExtraTreesClassifier(n_estimators=150, random_state=0).fit(x, x[:, 0] > 0), file)
    port = free_port()
    options = ("--workers", "1", "--compile", "off", "--queue", "16", "--batch-rows", "1", "--timeout", "60")
    with running("--uri", str(file), *options, "--grpc-port", str(port)) as server:
        yield server, port


def test_a_flood_of_one_source_leaves_the_others_their_share(slow: tuple[Server, int]) -> None:
    server, _ = slow
    body = server.send("GET", "/v2/models/tumour/example").body
    request = POST + b"content-length: %d\r\n\r\n" % len(body) + body
    with sockets(server.port, 40) as opened:

        def flood(end: threading.Event) -> None:
            for one in opened:
                one.settimeout(0.001)
            while not end.wait(0.01):
                for one in opened:
                    with contextlib.suppress(OSError):
                        one.send(request)
                    with contextlib.suppress(OSError):
                        one.recv(65536)

        with meanwhile(flood):
            until(lambda: metric(server, "mlmodel_shed_total", reason="queue_full") > 0, "the queue is full")
            honest = [Honest(server, f"127.0.0.{number}") for number in (1, 3, 4)]
            threads = [threading.Thread(target=one.send, args=(body,), kwargs={"requests": 20}) for one in honest]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20 * SECONDS)
    check("a flood on 40 connections beside 3 honest sources", *honest)


async def _calls(server: Server, port: int, count: int) -> list[bool]:
    """Return whether each of ``count`` honest calls was answered, as for :class:`Honest`."""
    message = pb.ModelInferRequest(model_name="tumour")
    message.inputs.add(name="input-0", datatype="FP64", shape=[1, 4]).contents.fp64_contents.extend([0.1] * 4)
    raw, answered = message.SerializeToString(), []
    for _ in range(count // 10):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            for _ in range(10):
                cpu = server.cpu()
                try:
                    await infer(raw, timeout=SECONDS)
                except grpc.aio.AioRpcError as error:
                    print(error.code(), error.details())
                    answered.append(False)
                else:
                    answered.append(server.cpu() - cpu <= CPU_SECONDS)
    return answered


def check_calls(what: str, slow: tuple[Server, int], count: int = 50) -> None:
    started = time.perf_counter()
    answered = asyncio.run(_calls(*slow, count))
    took = (time.perf_counter() - started) / count
    print(f"\n| gRPC: {what} | {100 * sum(answered) / count:.0f} % of {count} | mean {1000 * took:.0f} ms |")
    assert sum(answered) / count >= ANSWERED


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)


def call(path: bytes, stream: int, data: bytes = b"", *, more: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """Return the frames that begin a call, without its end."""
    fields = (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"m"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"), *more,
    )  # fmt: skip
    block = b"".join(bytes([0, len(name)]) + name + bytes([len(value)]) + value for name, value in fields)
    return frame(1, 4, stream, block) + (frame(0, 0, stream, data) if data else b"")


def test_half_sent_grpc_messages_take_nothing_of_others(slow: tuple[Server, int]) -> None:
    _, port = slow
    path, begun = b"/inference.GRPCInferenceService/ModelInfer", b"\0" + (8_000_000).to_bytes(4, "big") + bytes(1000)
    sent = PREFACE + b"".join(call(path, 2 * number + 1, begun) for number in range(50))
    with sockets(port, 40, sent=sent):
        check_calls("2000 half-sent messages", slow)
    with sockets(port, 40, sent=PREFACE + b"".join(call(path, 2 * number + 1) for number in range(50))):
        check_calls("2000 calls without a message", slow)


def test_grpc_calls_that_come_at_once_displace_none_of_others(slow: tuple[Server, int]) -> None:
    _, port = slow
    path, begun = b"/inference.GRPCInferenceService/ModelInfer", b"\0" + (8_000_000).to_bytes(4, "big")
    sent = PREFACE + b"".join(call(path, 2 * number + 1, begun) for number in range(120))
    for _ in range(3):
        with sockets(port, 40, sent=sent):
            check_calls("4800 half-sent messages at once", slow, 10)


def test_many_grpc_streams_take_nothing_of_others(slow: tuple[Server, int]) -> None:
    _, port = slow
    watch = bytes(5)  # an empty message
    sent = PREFACE + b"".join(call(b"/grpc.health.v1.Health/Watch", 2 * n + 1, watch) for n in range(50))
    with sockets(port, 20, sent=sent):
        check_calls("1000 streams of the health service", slow)
    sent = PREFACE + b"".join(
        call(b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", 2 * n + 1) for n in range(50)
    )
    with sockets(port, 20, sent=sent):
        check_calls("1000 streams of reflection", slow)


def test_idle_grpc_connections_keep_nobody_out(slow: tuple[Server, int]) -> None:
    _, port = slow
    with sockets(port, 500):
        check_calls("500 connections without a byte", slow)


def test_a_grpc_message_that_stalls_gets_a_code_and_no_version_is_blamed() -> None:
    port, path = free_port(), b"/inference.GRPCInferenceService/ModelInfer"
    options = ("--workers", "1", "--timeout", "3", "--grpc-port", str(port))
    with (
        running("--uri", "builtin://iris", *options),
        sockets(port, 1, sent=PREFACE + call(path, 1)) as (one,),
    ):
        received = b""
        one.settimeout(SECONDS)
        while b"x-mlmodel-late" not in received and (part := one.recv(65536)):
            received += part
    assert b"did not arrive within 3 s" in received, received


def test_the_memory_for_requests_is_in_the_log(iris: Server) -> None:
    line = next(line for line in iris.log if 'msg="limits of a worker"' in line)
    assert 4 << 20 <= int(line.split("bytes=")[1].split()[0]) <= 128 << 20
