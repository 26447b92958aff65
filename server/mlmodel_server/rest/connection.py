"""The HTTP protocol: uvicorn's, with a fast path for small inference requests and timeouts for slow clients.

uvicorn creates a task, an event and a request cycle for every request. A small request to a fast model needs none of
them: it is answered before the event loop waits for I/O again, together with all others of the same round. Every other
request takes the ASGI path, uvicorn's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

FAST_BODY = 64 << 10
"""Bytes; a larger body takes the ASGI path, where it can be decoded in a thread."""

HEAD_SECONDS = 10.0
"""Maximum seconds for the headers of a request, also of the first one on a new connection."""

REQUEST_SECONDS = 60.0
"""Maximum seconds for a whole request, and for a client to read the response."""

CHECK_SECONDS = 5.0
"""Seconds between two checks of a connection."""


class Answerable(Protocol):
    """A connection whose request was accepted on the fast path."""

    peer: str
    """Address of the other end, "" if it is unknown."""

    def answer(self, start: bytes, body: bytes) -> None:
        """Send the start (status line, headers without the default ones) and the body."""
        ...


class FastPath(Protocol):
    """The application as the connections use it on the fast path."""

    fast_endpoints: Mapping[bytes, Any]
    """The endpoints of the fast path, by target in the request line."""

    def accept(self, connection: Answerable, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Return True if ``connection.answer`` was called, or will be before the event loop waits for I/O again, and
        False if the request must take the ASGI path."""
        ...

    def answer_accepted(self) -> None:
        """Answer all accepted requests now."""
        ...


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._fast_path: FastPath = config.loaded_app
        self._chunks: list[bytes] | None = None
        self._chunk_bytes = 0
        self._accepted = False
        self.peer = ""
        self._message_start = 0.0  # when the message that is being received started; 0: none is
        self._head_done = False
        self._blocked_since = 0.0  # since when the client does not read; 0: it does
        self._idle_since = 0.0  # when the last response on the fast path was sent; 0: a request is in flight
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._defaults = b"\r\n"
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""
        self._message_start = self.loop.time()
        self._timer = self.loop.call_later(CHECK_SECONDS, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        self._chunks = None
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        if self._accepted:  # pipelined: responses are sent in the order of the requests
            self._fast_path.answer_accepted()
        # as in uvicorn, but without the scope: only requests on the ASGI path get one
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._idle_since = 0.0
        self._message_start, self._head_done = self.loop.time(), False

    def on_headers_complete(self) -> None:
        self._head_done = True
        if (
            self.url in self._fast_path.fast_endpoints
            and (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and self._is_small()
        ):
            self._chunks, self._chunk_bytes = [], 0
        else:
            self._start_asgi_path()

    def _is_small(self) -> bool:
        for name, value in self.headers:
            if name == b"content-length":
                return int(value) <= FAST_BODY
        return True  # chunked: on_body counts the bytes

    def on_body(self, body: bytes) -> None:
        if self._chunks is None:
            super().on_body(body)
            return
        self._chunks.append(body)
        self._chunk_bytes += len(body)
        if self._chunk_bytes > FAST_BODY:
            self._switch_to_asgi_path()

    def on_message_complete(self) -> None:
        self._message_start = 0.0
        if self._chunks is None:
            super().on_message_complete()
            return
        self._accepted = True
        if self._fast_path.accept(self, self.url, self.headers, b"".join(self._chunks)):
            self._chunks = None
        else:
            self._accepted = False
            self._switch_to_asgi_path()
            super().on_message_complete()

    def answer(self, start: bytes, body: bytes) -> None:
        """See :class:`Answerable`."""
        self._accepted = False
        if self.transport.is_closing():
            return
        if self._default_headers is not self.server_state.default_headers:  # a new list every second
            self._default_headers = self.server_state.default_headers
            self._defaults = b"".join([b"%b: %b\r\n" % header for header in self._default_headers]) + b"\r\n"
        self.transport.write(b"".join((start, self._defaults, body)))
        self.server_state.total_requests += 1
        self._idle_since = self.loop.time()

    def _switch_to_asgi_path(self) -> None:
        chunks, self._chunks = self._chunks or [], None
        self._start_asgi_path()
        for chunk in chunks:
            super().on_body(chunk)

    def _start_asgi_path(self) -> None:
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)  # the scope has this same list
        super().on_headers_complete()

    def pause_writing(self) -> None:
        self._blocked_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._blocked_since = 0.0
        super().resume_writing()

    def _check(self) -> None:
        now = self.loop.time()
        limit = REQUEST_SECONDS if self._head_done else HEAD_SECONDS
        if self._blocked_since and now - self._blocked_since > REQUEST_SECONDS:
            self.transport.abort()
        elif (self._message_start and now - self._message_start > limit) or (
            self._idle_since and now - self._idle_since > self.timeout_keep_alive
        ):
            self.transport.close()
        else:
            self._timer = self.loop.call_later(CHECK_SECONDS, self._check)
