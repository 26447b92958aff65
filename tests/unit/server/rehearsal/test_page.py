"""The page of counts: small, bounded, and never blocked by a client."""

from __future__ import annotations

import json
import socket as sockets
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from mlmodel_server.rehearsal import page
from mlmodel_server.rehearsal.page import CONNECTIONS, REQUEST_BYTES, Page
from mlmodel_server.startup.server import listen

SECONDS = 60.0


class Running:
    """A page in a thread."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.content = b'{"pairs": 1}'
        self.error: Exception | None = None
        self._listening = listen(host, 0)
        self.port = self._listening.getsockname()[1]
        self._page = Page(self._listening, self._make)
        self._stopping = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _make(self, path: bytes) -> bytes | None:
        if self.error:
            raise self.error
        return self.content if path == b"/" else None

    def _run(self) -> None:
        while not self._stopping:
            self._page.step(SECONDS)

    def stop(self) -> None:
        self._stopping = True
        self.connect().close()  # wakes it
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        self._listening.close()

    def connect(self, host: str = "127.0.0.1") -> sockets.socket:
        return sockets.create_connection((host, self.port), SECONDS)

    def get(self, path: str = "/", method: str = "GET", host: str = "127.0.0.1") -> tuple[int, Any]:
        connection = HTTPConnection(host, self.port, timeout=SECONDS)
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A page that ends a connection for being slow only after the end of the test."""
    monkeypatch.setattr(page, "SECONDS", 10 * SECONDS)
    made = Running()
    yield made
    made.stop()


def received(socket: sockets.socket) -> bytes:
    """All bytes until the server closes the connection."""
    data = b""
    while part := socket.recv(65536):
        data += part
    return data


def test_it_answers_with_json(running: Running) -> None:
    for _ in range(3):
        assert running.get() == (200, {"pairs": 1})


def test_over_ipv4_and_ipv6() -> None:
    if not sockets.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    made = Running("")
    try:
        assert made.get()[0] == made.get(host="::1")[0] == 200
    finally:
        made.stop()


@pytest.mark.parametrize("request_", ["GET /a", "GET //", "GET /?a=1", "POST /", "DELETE /", "GET /metrics"])
def test_anything_else_is_not_found(running: Running, request_: str) -> None:
    method, path = request_.split()
    assert running.get(path, method)[0] == 404


@pytest.mark.parametrize(
    "request_", [b"hello\r\n\r\n", b"GET /\r\n\r\n", b"x" * REQUEST_BYTES, b"GET / HTTP/2\r\n\r\n"]
)
def test_what_is_not_http_is_rejected(running: Running, request_: bytes) -> None:
    with running.connect() as socket:
        socket.sendall(request_)
        assert received(socket).startswith(b"HTTP/1.1 400 ")


def test_a_request_may_arrive_in_parts_and_a_large_page_leaves_in_parts(running: Running) -> None:
    running.content = b'"' + b"x" * (8 << 20) + b'"'
    with running.connect() as socket:
        for byte in b"GET / HTTP/1.1\r\n\r\n":
            socket.send(bytes([byte]))
        head, _, body = received(socket).partition(b"\r\n\r\n")
    assert b"content-length: %d\r\n" % len(running.content) in head + b"\r\n"
    assert body == running.content


def test_clients_that_wait_keep_nobody_out(running: Running) -> None:
    silent = [running.connect() for _ in range(3 * CONNECTIONS)]
    assert running.get()[0] == 200
    assert received(silent[0]) == b"", "the oldest connections are closed"
    for socket in silent:
        socket.close()


def test_a_slow_client_is_disconnected(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "SECONDS", 0.2)
    running.content = b"x" * (16 << 20)
    with running.connect() as silent, running.connect() as reader:
        reader.sendall(b"GET / HTTP/1.1\r\n\r\n")  # and it reads nothing
        assert silent.recv(1) == b""
        monkeypatch.setattr(page, "SECONDS", SECONDS)
        assert running.get("/a")[0] == 404


def test_a_client_that_resets_its_connection_ends_nothing(running: Running) -> None:
    for _ in range(20):
        socket = running.connect()
        socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
        socket.close()
    assert running.get()[0] == 200


def test_an_error_is_answered_and_logged_without_its_text(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    running.error = ValueError("a value of a request")
    assert running.get() == (500, {"error": "internal error"})
    assert "a value" not in caplog.text
    running.error = None
    assert running.get()[0] == 200


def test_it_answers_at_once_and_not_at_the_next_look() -> None:
    made = Running()
    made.get()
    took = []
    for _ in range(20):
        started = time.monotonic()
        made.get()
        took.append(time.monotonic() - started)
    made.stop()
    assert sorted(took)[10] < SECONDS / 4, "the next look is after a whole one"
