"""The client of copies: a kept connection, a deadline for the whole request, and what went wrong."""

from __future__ import annotations

import socket as sockets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from mlmodel_server.rehearsal import client
from mlmodel_server.rehearsal.client import Broken, Client, Greeting, Late, Unknown, Unreachable

SECONDS = 60.0
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Answer = Callable[[sockets.socket, bytes], None]


class Server:
    """Answers each request on each connection with a function; one connection at a time."""

    def __init__(self) -> None:
        self.listening = sockets.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.answer: Answer = lambda socket, _: socket.sendall(OK)
        self.end = b"\r\n\r\nbody"
        self.connections = 0
        self.requests: list[bytes] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                socket, _ = self.listening.accept()
                self.connections += 1
                with socket, suppress(OSError):
                    while request := self._request(socket):
                        self.requests.append(request)
                        self.answer(socket, request)

    def _request(self, socket: sockets.socket) -> bytes:
        data = b""
        while self.end not in data:
            part = socket.recv(65536)
            if not part:
                return b""
            data += part
        return data


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.listening.shutdown(sockets.SHUT_RDWR)
    made.listening.close()


def post(client: Client, seconds: float = SECONDS) -> tuple[int, bytes | None]:
    return client.post("/rehearsal", {b"x-mlmodel-copy": b"1 a"}, b"body", seconds)


def test_one_connection_for_all_requests(server: Server) -> None:
    client = Client("127.0.0.1", server.port)
    for _ in range(5):
        assert post(client) == (200, b"ok")
    assert server.connections == 1
    assert b"\r\nx-mlmodel-copy: 1 a\r\n" in server.requests[0]
    assert server.requests[0].startswith(b"POST /rehearsal HTTP/1.1\r\n")
    client.close()


def test_a_connection_that_the_server_closed_while_idle_is_replaced(server: Server) -> None:
    closed = threading.Event()

    def once(socket: sockets.socket, _: bytes) -> None:
        socket.sendall(OK)
        socket.shutdown(sockets.SHUT_RDWR)
        closed.set()

    client = Client("127.0.0.1", server.port)
    server.answer = once
    for _ in range(3):
        assert post(client) == (200, b"ok")
        assert closed.wait(SECONDS)
        closed.clear()
    assert server.connections == 3


def test_a_connection_that_was_idle_for_long_is_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Client("127.0.0.1", server.port)
    post(kept)
    monkeypatch.setattr(client, "IDLE_SECONDS", 0.0)
    post(kept)
    assert server.connections == 2
    kept.close()


def test_connection_close_is_obeyed(server: Server) -> None:
    client = Client("127.0.0.1", server.port)
    server.answer = lambda socket, _: socket.sendall(OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    for _ in range(2):
        assert post(client) == (200, b"ok")
    assert server.connections == 2


def test_no_connection() -> None:
    with sockets.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    for host in ("127.0.0.1", "no-such-host.invalid", "a" * 64 + ".b", "a..b"):
        with pytest.raises(Unreachable):
            post(Client(host, port))


@pytest.mark.parametrize(
    "answer",
    [
        lambda socket, _: socket.shutdown(sockets.SHUT_RDWR),
        lambda socket, _: socket.sendall(b"hello\r\n\r\n"),
        lambda socket, _: (socket.sendall(OK[:-1]), socket.shutdown(sockets.SHUT_RDWR)),
        lambda socket, _: socket.sendall(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000),
    ],
    ids=["no response", "not HTTP", "half a body", "too many headers"],
)
def test_broken_after_it_was_sent(server: Server, answer: Answer) -> None:
    client = Client("127.0.0.1", server.port)
    server.answer = answer
    with pytest.raises(Broken):
        post(client)
    server.answer = lambda socket, _: socket.sendall(OK)
    assert post(client) == (200, b"ok"), "the next one gets another connection"
    assert len(server.requests) == 2, "nothing was sent twice"


def slowly(data: bytes) -> Answer:
    def answer(socket: sockets.socket, _: bytes) -> None:
        for byte in data:
            socket.sendall(bytes([byte]))
            if threading.Event().wait(0.05):
                break

    return answer


@pytest.mark.parametrize(
    "answer",
    [lambda socket, _: socket.recv(1), slowly(OK[:-1] + b"x" * 1000), slowly(b"HTTP/1.1 200 OK\r\n" + b"a" * 1000)],
    ids=["nothing", "a slow body", "slow headers"],
)
def test_late(server: Server, answer: Answer) -> None:
    client = Client("127.0.0.1", server.port)
    server.answer = answer
    started = time.monotonic()
    with pytest.raises(Late):
        client.post("/rehearsal", {}, b"body", 0.3)
    assert time.monotonic() - started < 20, "the others take 50 s or more"


def test_a_large_response_is_not_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_RESPONSE", 1000)
    server.answer = lambda socket, _: socket.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + b"x" * 5000)
    made = Client("127.0.0.1", server.port)
    assert post(made) == (200, None)
    server.answer = lambda socket, _: socket.sendall(OK)
    assert post(made) == (200, b"ok")
    assert server.connections == 2


def greeting(answer: bytes = b"ok") -> Greeting:
    return Greeting("/rehearsal", {b"x-mlmodel-copy": b"2 b"}, answer)


@pytest.fixture
def greeted(server: Server) -> Server:
    """A server whose requests may have no body."""
    server.end = b"\r\n\r\n"
    return server


def test_a_server_that_does_not_know_the_answer_gets_no_request(greeted: Server) -> None:
    """The name of a candidate that has gone may lead to a server outside of the cluster."""
    for answer in (
        OK,
        OK.replace(b"200 OK", b"404 No"),
        b"nonsense\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nyes",
    ):
        greeted.answer = lambda socket, _, answer=answer: socket.sendall(answer)  # type: ignore[misc]
        with pytest.raises(Unknown):
            post(Client("127.0.0.1", greeted.port, lambda: greeting(b"yes")))
    assert greeted.requests
    assert not any(b"body" in request or b"1 a" in request for request in greeted.requests)


def test_without_a_greeting_nothing_is_sent(greeted: Server) -> None:
    with pytest.raises(Unknown):
        post(Client("127.0.0.1", greeted.port, lambda: None))
    assert not greeted.requests


def test_each_connection_begins_with_the_greeting(greeted: Server) -> None:
    client = Client("127.0.0.1", greeted.port, greeting)
    for _ in range(3):
        assert post(client) == (200, b"ok")
    assert [b"2 b" in request for request in greeted.requests] == [True, False, False, False]
    client.close()
    assert post(client) == (200, b"ok")
    assert [b"2 b" in request for request in greeted.requests][4:] == [True, False]


def test_a_known_server_that_hangs_or_breaks_has_failed(greeted: Server) -> None:
    client = Client("127.0.0.1", greeted.port, greeting)
    post(client)
    client.close()
    greeted.answer = lambda *_: None
    with pytest.raises(Late):
        post(client, 0.05)
    greeted.answer = lambda socket, _: socket.shutdown(sockets.SHUT_RDWR)
    with pytest.raises(Broken):
        post(client)
