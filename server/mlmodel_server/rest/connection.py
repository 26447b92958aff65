"""The HTTP protocol: uvicorn's, with a fast path for small inference requests, and bounds on what a client can occupy.

uvicorn creates a task, an event and a request cycle for every request. A small request to a fast model needs none of
them: it is answered before the event loop waits for I/O again, together with all others of the same round. Every other
request takes the ASGI path, uvicorn's own.

A client occupies what it has sent, and for as long as it goes on sending: heads are bounded in bytes, number and time,
bodies are charged as they arrive and must keep a minimum rate, responses must be read at that rate, and a long series
of pipelined requests or tiny chunks is parsed piece by piece, so that other connections have their turns between.
"""

from __future__ import annotations

import asyncio
import fcntl
import termios
from collections.abc import Callable, Mapping, Sized
from time import perf_counter
from typing import Any, Protocol

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from mlmodel_server.engine.batching import Overloaded
from mlmodel_server.errors import RequestError, TooSlow
from mlmodel_server.rest.eviction import AT_ONCE, Standing, victims
from mlmodel_server.rest.reply import Reply, reply_of
from mlmodel_server.serving.budget import Budget, Held
from mlmodel_server.serving.exchange import failure_of
from mlmodel_server.serving.source import source_of

FAST_BODY = 64 << 10
"""Bytes; a larger body takes the ASGI path, where it can be decoded in a thread."""

HEAD_SECONDS = 10.0
"""Maximum seconds for the headers of a request, also of the first one on a new connection."""

HEAD_BYTES = 32 << 10
"""Maximum bytes of request line and headers. The router passes on at most 24 KiB."""

MAX_HEADERS = 128
"""Maximum number of headers. The router passes on at most 101, and its own."""

REQUEST_SECONDS = 60.0
"""Maximum seconds for a whole request, and for a client to read the response."""

MIN_RATE, WINDOW_SECONDS = 1024, 5.0
"""Minimum bytes per second, on average over each window of this length, in which a body arrives and a response is
read."""

FRAMING = 8
"""Maximum bytes on the wire for each byte of a chunked body; a chunk of one byte takes six."""

CHECK_SECONDS = 1.0
"""Seconds between two checks of a connection."""

SMALLEST_PIECE, PIECE, LARGEST_PIECE = 512, 4 << 10, 64 << 10
"""Bytes that are parsed before others may have their turn: the smallest number after a piece with more than
:data:`PIPELINED` requests, the largest inside a body."""

DRAINING_IDLE = 1
"""Seconds for an idle connection that is open after :data:`~mlmodel_server.startup.server.LINGER`."""

PIPELINED = 8

TURN_REQUESTS, TURN_SECONDS = 32, 0.002
"""Requests and seconds after which a connection lets others have their turn."""

NO_UPGRADE = "this port speaks HTTP/1.1 only: send the request without the header Upgrade"

CUT = "mlmodel.cut"
"""Key of the scope with the :class:`RequestError` of a request of which no more is read."""


class Answerable(Protocol):
    """A connection whose request was accepted on the fast path."""

    peer: str
    """Address of the other end, "" if it is unknown."""

    @property
    def connections(self) -> Sized:
        """All open connections of this worker."""
        ...

    def answer(self, reply: Reply) -> None:
        """Send the reply, with the default headers."""
        ...


class FastPath(Protocol):
    """The application as the connections use it on the fast path."""

    fast_endpoints: Mapping[bytes, Any]
    """The endpoints of the fast path, by target in the request line."""
    budget: Budget
    max_connections: int

    def accept(self, connection: Answerable, target: bytes, headers: Mapping[bytes, bytes], body: bytes) -> bool:
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
        self._chunks: list[bytes] | None = None  # on the fast path: the body, and the headers by name
        self._named: dict[bytes, bytes] = {}
        self._accepted = False
        self._messages = 0  # that have begun
        self._message_start = 0.0  # when the message that is being received started; 0: none is
        self._head_done = False
        self._raw = 0  # bytes of this message on the wire, except for those that ended the message before
        self._arrived = 0  # bytes of its body
        self._charged = 0  # those of them that are in _held
        self._held: Held | None = None
        self._is_cut = False  # nothing more is read, the connection closes after the response
        self._rest = b""  # received, and not parsed yet
        self._piece = PIECE
        self._answering: RequestResponseCycle | None = None  # the last cycle that was started; later ones wait
        self._window = (0.0, 0.0, 0)  # start of the message, start of the window, bytes before it
        self._blocked_since = 0.0  # since when the client does not read; 0: it does
        self._idle_since = 0.0  # when the last response was sent; 0: a request is in flight
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._defaults = b"\r\n"
        self.peer = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        self._message_start = self.loop.time()
        self.peer = self.client[0] if self.client else ""
        if len(self.connections) > self._fast_path.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._chunks, self._rest, self._is_cut = None, b"", True
        self._release()
        self._abandon()
        super().connection_lost(exc)

    def _abandon(self) -> None:
        """Drop the requests of a client that has left. uvicorn does so for the last one that has arrived, and writes
        the response to one before it to a closed transport: an error with a traceback for each connection."""
        self.pipeline.clear()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        if len(data) <= self._piece and not self._rest:
            self._feed(data)
        elif not self._is_cut:
            self._rest += data
            self._parse()

    def _parse(self) -> None:
        """Parse what was received, piece by piece, until it is the turn of others."""
        rest, self._rest = self._rest, b""
        place, size, first, end = 0, self._piece, self._messages, perf_counter() + TURN_SECONDS
        while place < len(rest) and not self._is_cut:
            before = self._messages
            self._feed(rest[place : place + size])
            place += size
            size = min(4 * size, LARGEST_PIECE) if self._head_done and self._messages == before else self._piece
            if self.flow.read_paused or self._messages - first >= TURN_REQUESTS or perf_counter() > end:
                break
        if place < len(rest) and not self._is_cut:
            self._rest = rest[place:]
            self.transport.pause_reading()
            if not self.flow.read_paused:  # else it goes on when uvicorn can take more
                self.go_on_soon()

    def go_on_soon(self) -> None:
        """Parse the rest, or read again, once the caller has finished its step."""
        if self._rest:
            self.loop.call_soon(self._go_on)
        else:
            self.transport.resume_reading()

    def _go_on(self) -> None:
        """Parse the rest, or read again."""
        if self._is_cut or self.flow.read_paused:
            return
        if self._rest:
            self._parse()
        if not self._rest and not self.flow.read_paused and not self._is_cut:
            self.transport.resume_reading()

    def _feed(self, data: bytes) -> None:
        if self._is_cut:
            return
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        before = self._messages
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._ignore(offer.args[0], data)
        except httptools.HttpParserError:
            self._end(lambda: self.send_400_response("Invalid HTTP request received."))
        if self._message_start and not self._is_cut:
            size = len(data)
            self._raw = self._raw + size if self._messages == before else min(size, PIECE)
            self._check_size()
        if self._messages - before > PIPELINED:
            self._piece = SMALLEST_PIECE

    def _ignore(self, place: int, data: bytes) -> None:
        """Ignore the offer of another protocol, as HTTP permits, and parse what follows at ``place``."""
        while place < len(data) and not self._is_cut:
            self.parser = httptools.HttpRequestParser(self)
            data = data[place:]
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                place = offer.args[0]
            except httptools.HttpParserError:
                self._end(lambda: self.send_400_response("Invalid HTTP request received."))
            else:
                return
        self.parser = httptools.HttpRequestParser(self)

    def _check_size(self) -> None:
        """Bound the head, and charge the body, of a message that is not complete yet."""
        if not self._head_done:
            if self._raw > HEAD_BYTES:
                self._refuse(RequestError(f"the headers have more than {HEAD_BYTES} bytes: send fewer", 431))
        elif self._is_answered():
            return  # the rest of the body is read and dropped
        elif self._raw > HEAD_BYTES + FRAMING * self._arrived:
            self._cut(RequestError("the body has more bytes around its chunks than in them: send larger chunks"))
        elif self._arrived > self._charged:
            self._charge()

    def _is_answered(self) -> bool:
        """Whether the request whose body arrives has been answered: it was rejected by its headers."""
        return self._head_done and self._chunks is None and (self.cycle is None or self.cycle.response_complete)

    def _charge(self) -> None:
        if self._held is None:
            source = source_of(self.peer, dict(self.headers))
            self._held = self._fast_path.budget.hold(source)
        self._held.shed = self._shed
        size, self._charged = self._arrived - self._charged, self._arrived
        try:
            self._held.grow(size)
        except Overloaded as error:
            self._cut(error)

    def _release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held, self._charged = None, 0

    def _shed(self, error: Overloaded) -> None:
        if self._blocked_since:
            self.transport.abort()
        else:
            self._cut(error)

    def _cut(self, error: RequestError) -> None:
        """Read no more of the request whose body arrives, and let the application answer it with ``error``."""
        if self._chunks is not None:
            self._switch_to_asgi_path()
        self._is_cut = True
        self._release()
        if self.cycle.response_started:
            self.transport.close()
            return
        self.scope[CUT] = error  # type: ignore[literal-required]
        self.cycle.more_body = self.cycle.keep_alive = False
        self.cycle.message_event.set()

    def _refuse(self, error: RequestError) -> None:
        """Answer a request whose headers are not complete or too many, and close the connection."""
        reply = reply_of(failure_of(error))
        start = reply.start() + (b"" if error.status == 408 else b"connection: close\r\n")
        self._end(lambda: self.transport.write(b"".join((start, self._default_lines(), reply.body))))

    def _end(self, answer: Callable[[], None]) -> None:
        """Answer, unless a request before is still in flight, and close the connection."""
        self._is_cut = True
        if self._accepted:
            self._fast_path.answer_accepted()
        if self.cycle is not None and not self.cycle.response_complete:
            self.pipeline.clear()
            self.cycle.keep_alive = False
            return
        answer()
        self.transport.close()

    def shutdown(self) -> None:
        """Close the connection when it is idle. A request that arrives now, or has arrived and is not read yet, is
        answered first, and its response closes the connection: every response does while the server drains."""
        self.timeout_keep_alive = DRAINING_IDLE  # of one that stays open
        is_arriving = self._rest or (self._message_start and self._raw and not self._is_answered())
        if not is_arriving and not self.transport.is_closing() and not self._has_unread():
            super().shutdown()

    def _has_unread(self) -> bool:
        """Whether the kernel has bytes of this connection, which would reset it when it is closed."""
        socket = self.transport.get_extra_info("socket")
        return socket is not None and any(fcntl.ioctl(socket.fileno(), termios.FIONREAD, bytes(4)))

    def _make_room(self) -> None:
        """Close connections that wait. If none does, close this one: all others are being answered."""
        others = (connection.standing() for connection in self.connections if connection is not self)  # type: ignore[union-attr]
        closed = victims((standing for standing in others if standing), AT_ONCE)
        for connection in closed or [self]:
            self.connections.discard(connection)
            connection.transport.abort()

    def standing(self) -> Standing[HttpProtocol] | None:
        """Return since when no request is answered on this connection; None if one is."""
        if self._blocked_since:
            return Standing(self, self.peer, False, self._blocked_since)
        if self._accepted or self.transport.is_closing():
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return Standing(self, self.peer, False, self._message_start) if self.cycle.more_body else None
        if self._message_start:
            return Standing(self, self.peer, not self._raw, self._message_start)
        return Standing(self, self.peer, True, self._idle_since)

    def on_message_begin(self) -> None:
        if self._accepted:  # pipelined: responses are sent in the order of the requests
            self._fast_path.answer_accepted()
        # as in uvicorn, but without the scope: only requests on the ASGI path get one
        self.url = b""
        self.headers = []
        self._idle_since = 0.0
        self._messages += 1
        self._arrived = self._charged = self._raw = 0
        self._message_start, self._head_done = self.loop.time(), False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:  # not of a trailer: what it says is known too late to be checked
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._head_done = True
        if self._is_cut:
            return
        headers, parser = self.headers, self.parser
        named = dict(headers)
        if len(headers) > MAX_HEADERS:
            self._refuse(RequestError(f"the request has more than {MAX_HEADERS} headers: send fewer", 431))
        elif (
            self.url in self._fast_path.fast_endpoints
            and (self.cycle is None or self.cycle.response_complete)
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and b"expect" not in named
            and not self.flow.write_paused
            and int(named.get(b"content-length", 0)) <= FAST_BODY  # of a chunked body, on_body counts the bytes
        ):
            self._chunks, self._named = [], named
        else:
            self._start_asgi_path()

    def _declares_body(self) -> bool:
        headers = dict(self.headers)
        return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

    def on_body(self, body: bytes) -> None:
        if self._is_cut:
            return
        self._arrived += len(body)
        if self._chunks is None:
            super().on_body(body)
            return
        self._chunks.append(body)
        if self._arrived > FAST_BODY:
            self._switch_to_asgi_path()

    def on_message_complete(self) -> None:
        self._message_start = 0.0
        if self._is_cut:
            return
        if not self._arrived and self.parser.should_upgrade() and self._declares_body():
            self._cut(RequestError(NO_UPGRADE))  # the parser takes its body for the other protocol
            return
        if self._held is not None and not self._blocked_since:
            self._release()  # from now on the pipeline holds it
        chunks = self._chunks
        if chunks is None:
            if self.cycle.response_complete:
                self._idle_since = self.loop.time()
            super().on_message_complete()
            return
        self._accepted = True
        if self._fast_path.accept(self, self.url, self._named, b"".join(chunks)):
            self._chunks = None
        else:
            self._accepted = False
            self._switch_to_asgi_path()
            super().on_message_complete()

    def answer(self, reply: Reply) -> None:
        """See :class:`Answerable`."""
        self._accepted = False
        if self.transport.is_closing():
            return
        if self._default_headers is not self.server_state.default_headers:
            self._default_lines()
        self.transport.write(b"".join((reply.start(), self._defaults, reply.body)))
        self.server_state.total_requests += 1
        self._idle_since = self.loop.time()
        if self._held is not None and not self._blocked_since:
            self._release()

    def _default_lines(self) -> bytes:
        """Return the default headers, with the empty line after all headers."""
        if self._default_headers is not self.server_state.default_headers:  # a new list every second
            self._default_headers = self.server_state.default_headers
            self._defaults = b"".join([b"%b: %b\r\n" % header for header in self._default_headers]) + b"\r\n"
        return self._defaults

    def on_response_complete(self) -> None:
        self._idle_since = 0.0 if self._message_start else self.loop.time()
        if not self._blocked_since:
            self._release()
        ends = self._is_cut and not self.pipeline
        super().on_response_complete()
        if ends:
            self.transport.close()

    def _switch_to_asgi_path(self) -> None:
        chunks, self._chunks = self._chunks or [], None
        self._start_asgi_path()
        for chunk in chunks:
            super().on_body(chunk)

    def _start_asgi_path(self) -> None:
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        self.headers.extend(headers)  # the scope has this same list
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        self._blocked_since = self.loop.time()
        super().pause_writing()
        size = self.transport.get_write_buffer_size()
        self._window = (self._blocked_since, self._blocked_since, size)
        if self._held is None:
            # Of the response that is being written: the headers of the next request may have arrived.
            cycle = self._answering
            headers = self.headers if cycle is None or cycle.response_complete else cycle.scope["headers"]
            self._held = self._fast_path.budget.hold(source_of(self.peer, dict(headers)))
        self._held.shed = self._shed
        self._held.force(size)

    def resume_writing(self) -> None:
        self._blocked_since = 0.0
        self._release()
        super().resume_writing()

    def check(self, now: float) -> None:
        """Close the connection if it is idle for too long; bound the time of what arrives and of what is read. Call
        this every :data:`CHECK_SECONDS`."""
        if self._blocked_since:
            self._check_reader(now)
        elif self._is_cut:
            return
        elif self._message_start and not self._head_done:
            self._check_head(now)
        elif self._message_start:
            self._check_body(now)
        elif self._idle_since and now - self._idle_since > self.timeout_keep_alive:
            self.transport.close()

    def _check_head(self, now: float) -> None:
        if now - self._message_start <= HEAD_SECONDS:
            return
        if self._raw:
            self._refuse(TooSlow(f"the headers did not arrive within {HEAD_SECONDS:.0f} s: send them at once"))
        else:
            self.transport.close()

    def _check_body(self, now: float) -> None:
        message, since, before = self._window
        if (
            message != self._message_start or self.flow.read_paused or self._rest
        ):  # while we do not read, nothing arrives
            self._window = (self._message_start, now, self._arrived)
        elif now - self._message_start > REQUEST_SECONDS:
            self._cut(TooSlow(f"the request did not arrive within {REQUEST_SECONDS:.0f} s: send fewer rows"))
        elif now - since >= WINDOW_SECONDS:
            self._window = (message, now, self._arrived)
            if self._arrived - before < MIN_RATE * WINDOW_SECONDS:
                self._cut(TooSlow(f"the body arrives at less than {MIN_RATE} bytes per second: send it at once"))

    def _check_reader(self, now: float) -> None:
        left = self.transport.get_write_buffer_size()
        if self._held is not None:
            self._held.shrink(left)
        _, since, before = self._window
        if now - self._blocked_since > REQUEST_SECONDS:
            self.transport.abort()
        elif now - since >= WINDOW_SECONDS:
            self._window = (self._blocked_since, now, left)
            if before - left < MIN_RATE * WINDOW_SECONDS:
                self.transport.abort()


class _Flow(FlowControl):
    """uvicorn's, but before it reads again, the connection parses what it has received."""

    def __init__(self, transport: asyncio.Transport, connection: HttpProtocol) -> None:
        super().__init__(transport)
        self._connection = connection

    def resume_reading(self) -> None:
        if self.read_paused and len(self._connection.pipeline) <= 1:  # the one that is started now
            self.read_paused = False
            self._connection.go_on_soon()
