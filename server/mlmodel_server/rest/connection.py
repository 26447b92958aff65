"""The HTTP protocol: uvicorn's, with a fast path for small inference requests and no patience for slow clients.

uvicorn makes a task, an event and a request cycle for every request. A small request to a fast model needs none of
them: it is answered before the event loop waits for I/O again, together with all others that came in the same round.
Every other request takes uvicorn's own path, by ASGI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

FAST_BODY = 64 << 10
"""Bytes; larger bodies take the ASGI path, where they can be decoded while others are served."""

HEAD_SECONDS = 10.0
"""For the first line and the headers of a request, and for a new connection to send anything at all."""

REQUEST_SECONDS = 60.0
"""For a request to be whole, and for a client to take an answer that we could not yet send."""

CHECK_SECONDS = 5.0


class Answerable(Protocol):
    """A connection whose request was accepted on the fast path."""

    def answer(self, start: bytes, body: bytes) -> None:
        """Send status line and headers (without the default ones), and body."""
        ...


class FastPath(Protocol):
    """What the application does for the fast path."""

    fast: Mapping[bytes, Any]
    """By targets, as they stand in the request line: what may be accepted."""

    def accept(self, connection: Answerable, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """True when ``connection.answer`` was called, or will be before the event loop waits for I/O again; False when
        the request must take the ASGI path."""
        ...

    def answer_accepted(self) -> None:
        """Answer now what was accepted."""
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
        self._held: list[bytes] | None = None
        self._held_bytes = 0
        self._accepted = False
        self._began = 0.0  # when the message that is being received began; 0: none is
        self._head_done = False
        self._stuck_since = 0.0
        self._idle_since = 0.0  # when the last answer on the fast path went out; 0: a request is being served
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._defaults = b"\r\n"
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._began = self.loop.time()
        self._watch = self.loop.call_later(CHECK_SECONDS, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch:
            self._watch.cancel()
        self._held = None
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        if self._accepted:  # pipelined: answers go out in the order of the requests
            self._fast_path.answer_accepted()
        # uvicorn's own, without the scope: only requests on the ASGI path get one
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._idle_since = 0.0
        self._began, self._head_done = self.loop.time(), False

    def on_headers_complete(self) -> None:
        self._head_done = True
        if (
            self.url in self._fast_path.fast
            and (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and self._is_small()
        ):
            self._held, self._held_bytes = [], 0
        else:
            self._begin_asgi_path()

    def _is_small(self) -> bool:
        for name, value in self.headers:
            if name == b"content-length":
                return int(value) <= FAST_BODY
        return True  # in chunks: on_body counts them

    def on_body(self, body: bytes) -> None:
        if self._held is None:
            super().on_body(body)
            return
        self._held.append(body)
        self._held_bytes += len(body)
        if self._held_bytes > FAST_BODY:
            self._switch_to_asgi_path()

    def on_message_complete(self) -> None:
        self._began = 0.0
        if self._held is None:
            super().on_message_complete()
            return
        self._accepted = True
        if self._fast_path.accept(self, self.url, self.headers, b"".join(self._held)):
            self._held = None
        else:
            self._accepted = False
            self._switch_to_asgi_path()
            super().on_message_complete()

    def answer(self, start: bytes, body: bytes) -> None:
        """See :class:`Answerable`."""
        self._accepted = False
        if self.transport.is_closing():
            return
        if self._default_headers is not self.server_state.default_headers:  # another list every second
            self._default_headers = self.server_state.default_headers
            self._defaults = b"".join([b"%b: %b\r\n" % header for header in self._default_headers]) + b"\r\n"
        self.transport.write(b"".join((start, self._defaults, body)))
        self.server_state.total_requests += 1
        self._idle_since = self.loop.time()

    def _switch_to_asgi_path(self) -> None:
        held, self._held = self._held or [], None
        self._begin_asgi_path()
        for chunk in held:
            super().on_body(chunk)

    def _begin_asgi_path(self) -> None:
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)  # the scope has this very list
        super().on_headers_complete()

    def pause_writing(self) -> None:
        self._stuck_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stuck_since = 0.0
        super().resume_writing()

    def _check(self) -> None:
        now = self.loop.time()
        patience = REQUEST_SECONDS if self._head_done else HEAD_SECONDS
        if self._stuck_since and now - self._stuck_since > REQUEST_SECONDS:
            self.transport.abort()
        elif (self._began and now - self._began > patience) or (
            self._idle_since and now - self._idle_since > self.timeout_keep_alive
        ):
            self.transport.close()
        else:
            self._watch = self.loop.call_later(CHECK_SECONDS, self._check)
