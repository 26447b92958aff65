"""A small HTTP server for the pages that the operator reads. One thread, bounded in every respect."""

from __future__ import annotations

import logging
import selectors
import socket as sockets
import time
from collections.abc import Callable
from contextlib import suppress

CONNECTIONS = 16
"""Maximum number of connections; one more closes the oldest, so nothing keeps the operator out."""

REQUEST_BYTES = 4096
"""Maximum size of a request."""

SECONDS = 2.0
"""Maximum duration of a connection."""

SHARE = 0.1
"""Maximum share of one CPU."""

logger = logging.getLogger(__name__)


class _Connection:
    def __init__(self, socket: sockets.socket, end: float) -> None:
        self.socket, self.end = socket, end
        self.received = b""
        self.waiting: memoryview | None = None
        """What is not sent yet; None before the request is complete."""


class Page:
    """Answers ``GET`` with JSON, and an unknown path with 404. It does not wait for a slow client."""

    def __init__(self, listening: sockets.socket, content: Callable[[bytes], bytes | None]) -> None:
        """``content`` returns the page at a path, None for an unknown one, without waiting for anything."""
        self._listening, self._content = listening, content
        listening.setblocking(False)
        self._connections: dict[object, _Connection] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until the process exits."""
        while True:
            self.step(None)
            # It has the usual priority, so that the operator gets an answer while every CPU is busy.
            time.sleep(self._used * (1 / SHARE - 1))

    def step(self, seconds: float | None) -> None:
        """Wait for events, at most for these seconds, and handle them."""
        ends = [connection.end - time.monotonic() for connection in self._connections.values()]
        limits = [max(0.0, limit) for limit in (*ends, seconds) if limit is not None]
        events = self._selector.select(min(limits, default=None))
        started = time.thread_time()
        for key, _ in events:
            if key.fileobj is self._listening:
                self._accept()
            elif connection := self._connections.get(key.fileobj):  # else it was closed
                self._handle(connection)
        now = time.monotonic()
        for connection in [held for held in self._connections.values() if held.end <= now]:
            self._close(connection)
        self._used = time.thread_time() - started

    def _accept(self) -> None:
        try:
            socket, _ = self._listening.accept()
            socket.setblocking(False)
        except OSError:  # the client has gone, or the process has no file descriptor left
            return
        if len(self._connections) >= CONNECTIONS:
            self._close(next(iter(self._connections.values())))
        self._connections[socket] = _Connection(socket, time.monotonic() + SECONDS)
        self._selector.register(socket, selectors.EVENT_READ)

    def _handle(self, connection: _Connection) -> None:
        try:
            self._send(connection) if connection.waiting else self._receive(connection)
        except BlockingIOError:
            pass
        except OSError:
            self._close(connection)

    def _receive(self, connection: _Connection) -> None:
        data = connection.socket.recv(REQUEST_BYTES)
        if not data:
            self._close(connection)
        elif connection.waiting is None:  # else it is answered, and only its end is awaited
            connection.received += data
            if b"\r\n\r\n" in connection.received or len(connection.received) >= REQUEST_BYTES:
                connection.waiting = memoryview(self._response(connection.received))
                self._send(connection)

    def _send(self, connection: _Connection) -> None:
        assert connection.waiting is not None
        with suppress(BlockingIOError):
            connection.waiting = connection.waiting[connection.socket.send(connection.waiting) :]
        if connection.waiting:
            self._selector.modify(connection.socket, selectors.EVENT_WRITE)
            return
        # Closing a socket with unread data resets the connection, and the client could lose the response.
        self._selector.modify(connection.socket, selectors.EVENT_READ)
        connection.socket.shutdown(sockets.SHUT_WR)

    def _response(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b" ")
        path, _, version = rest.partition(b"\r\n")[0].partition(b" ")
        if b"\r\n\r\n" not in request or not version.startswith(b"HTTP/1."):
            return _encoded("400 Bad Request", b'{"error": "this is not a request of HTTP/1.1"}')
        try:
            content = self._content(path) if method == b"GET" else None
            if content is None:
                known = b'{"error": "this port has only GET /, GET /figures and GET /labels/BIN"}'
                return _encoded("404 Not Found", known)
            return _encoded("200 OK", content)
        except Exception as error:  # a bug; the text of the error may quote data
            logger.error("page for the operator failed", extra={"error": type(error).__name__})
            return _encoded("500 Internal Server Error", b'{"error": "internal error"}')

    def _close(self, connection: _Connection) -> None:
        del self._connections[connection.socket]
        self._selector.unregister(connection.socket)
        connection.socket.close()


def _encoded(status: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        "cache-control: no-store\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
