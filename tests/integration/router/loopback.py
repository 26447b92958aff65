"""A small HTTP/1.1 server that fails on request, and a client that reports every failure, to test a proxy between them.

They use asyncio streams and not an HTTP library, because the tests need what libraries hide: a connection reset, half a
response, a keep-alive connection that closes just when it is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Message:
    """A request or a response: ``start`` is its first line without the version, header names are lower case."""

    start: str
    headers: dict[str, str]
    body: bytes

    @property
    def status(self) -> int:
        """The status code, if this is a response."""
        return int(self.start.split(" ", 1)[0])

    @property
    def path(self) -> str:
        """The path, if this is a request."""
        return self.start.split(" ")[1]


async def read_message(reader: asyncio.StreamReader) -> Message:
    """Read one message with its body, chunked or not. Raises ``IncompleteReadError`` at the end of the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, value in pairs}
    start = head[0].removeprefix("HTTP/1.1 ").removesuffix(" HTTP/1.1")
    if headers.get("transfer-encoding") != "chunked":
        return Message(start, headers, await reader.readexactly(int(headers.get("content-length", 0))))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return Message(start, headers, body)


@dataclass
class Reply:
    """The response of a revision to one request; by default 200 at once, with keep-alive."""

    status: int = 200
    headers: tuple[str, ...] = ()
    seconds: float = 0.0
    hold: asyncio.Event | None = None  # the response waits for it
    raw: bytes | None = None  # sent instead of a response, then the connection is closed
    reset: bool = False  # the connection is reset without a response
    close: bool = False  # the connection is closed after the response, without `connection: close` in it


class Revision:
    """A server on ``(address, port)`` that answers with its name and records every request."""

    def __init__(self, name: str, address: str, port: int, behave: Callable[[Message], Reply] | Reply | None = None):
        self.name, self.address, self.port = name, address, port
        fixed = behave if isinstance(behave, Reply) else Reply()
        self.behave: Callable[[Message], Reply] = behave if callable(behave) else lambda _: fixed
        self.requests: list[Message] = []
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> Revision:
        self._server = await asyncio.start_server(self._accept, self.address, self.port, backlog=1024)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._closed = True
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:  # accepted during the stop; the exit of a process would reset it too
            writer.transport.abort()
            return
        self.connections += 1
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # also if it is cancelled before its start

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await read_message(reader)
                self.requests.append(request)
                reply = self.behave(request)
                await asyncio.sleep(reply.seconds)
                if reply.hold is not None:
                    await reply.hold.wait()
                if reply.reset:
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                if reply.raw is not None:
                    writer.write(reply.raw)
                    return
                body = self.name.encode()
                lines = [f"HTTP/1.1 {reply.status} Status", f"content-length: {len(body)}", *reply.headers, "", ""]
                writer.write("\r\n".join(lines).encode() + body)
                if reply.close or request.headers.get("connection") == "close":
                    return


class Client:
    """One connection to ``(host, port)``, opened when needed, from the loopback address ``source``."""

    def __init__(self, address: tuple[str, int], source: str = "127.0.0.1"):
        self.address, self.source = address, source
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(
        self, path: str = "/v2/models/m/infer", headers: dict[str, str] | None = None, body: bytes = b"{}"
    ) -> Message:
        """Send one POST and return the response. Raises ``ConnectionError`` or ``IncompleteReadError`` without one."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"POST {path} HTTP/1.1\r\nhost: m\r\ncontent-length: {len(body)}\r\n{lines}\r\n"
        return await self.send(head.encode() + body)

    async def get(self, path: str) -> Message:
        """Send one GET and return the response."""
        return await self.send(f"GET {path} HTTP/1.1\r\nhost: m\r\n\r\n".encode())

    async def send(self, data: bytes) -> Message:
        """Send these bytes and return the response."""
        if self._stream is None:
            self._stream = await asyncio.open_connection(*self.address, local_addr=(self.source, 0))
        reader, writer = self._stream
        writer.write(data)
        answer = await read_message(reader)
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._stream is not None:
            self._stream[1].close()
            self._stream = None


async def http2(
    address: tuple[str, int],
    path: bytes,
    *,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    body: bytes | None,
    seconds: float = 10,
) -> bytes:
    """Send one POST over HTTP/2, without a look at what is in it, and return all that comes back until the response or
    the connection ends, or nothing came for some ``seconds``. Without a ``body``, it is announced and never sent."""

    def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"m"), *headers)
    # Literal fields, neither indexed nor compressed; each text has less than 127 bytes.
    block = b"".join(bytes([0, len(name)]) + name + bytes([len(value)]) + value for name, value in fields)
    reader, writer = await asyncio.open_connection(*address)
    data = b"" if body is None else frame(0, 1, 1, body)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + frame(1, 4, 1, block) + data)
    answer = b""
    with contextlib.closing(writer), contextlib.suppress(TimeoutError, ConnectionError):
        while not _ends(answer, sent=body is not None):
            if not (data := await asyncio.wait_for(reader.read(10_000), seconds)):
                break
            answer += data
    return answer


def _ends(data: bytes, *, sent: bool) -> bool:
    """Whether frames of HTTP/2 end stream 1: a reset, or the last of headers or data once the request is ``sent``."""
    while len(data) >= 9 + (size := int.from_bytes(data[:3], "big")):
        kind, flags, stream = data[3], data[4], int.from_bytes(data[5:9], "big")
        if stream == 1 and (kind == 3 or (sent and kind in (0, 1) and flags & 1)):
            return True
        data = data[9 + size :]
    return False


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Check a condition often until it is true; fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


@dataclass
class Load:
    """Continuous requests on keep-alive and on new connections during an action."""

    clients: list[Client]
    pause: float = 0.002
    keep_alive: bool = True  # for every other client; the others, or with False all, open a connection per request
    answers: list[Message] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _sent: Counter[int] = field(default_factory=Counter)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)
    _drivers: list[asyncio.Future[None]] = field(default_factory=list)

    async def during(self, action: Awaitable[None]) -> None:
        """Run the load until ``action`` is done."""

        async def drive(number: int, client: Client, fresh: bool) -> None:
            while not self._stopped.is_set():
                self._sent[number] += 1
                try:
                    answer = await client.post()
                except (ConnectionError, asyncio.IncompleteReadError) as error:
                    self.failures.append(repr(error))
                    client.close()
                else:
                    self.answers.append(answer)
                    if answer.status != 200:
                        self.failures.append(f"{answer.status} {answer.body!r}")
                if fresh:
                    client.close()
                await asyncio.sleep(self.pause)

        self._drivers = [
            asyncio.ensure_future(drive(i, client, fresh=not self.keep_alive or i % 2 == 1))
            for i, client in enumerate(self.clients)
        ]
        try:
            await action
        finally:
            await self.stop()

    async def progress(self, answers: int) -> None:
        """Wait for this number of further answers."""
        end = len(self.answers) + answers
        await until(lambda: len(self.answers) >= end)

    async def turn(self) -> None:
        """Wait until each client has the outcome of a request that it sends from now on."""
        before = Counter(self._sent)
        await until(lambda: all(self._sent[i] >= before[i] + 2 for i in range(len(self.clients))))

    async def stop(self) -> None:
        """Stop the load after the requests in flight: before a server stops for good."""
        self._stopped.set()
        await asyncio.gather(*self._drivers)
        for client in self.clients:
            client.close()


def versions(answers: list[Message]) -> Iterator[str]:
    """Return the name of the revision that answered each request."""
    return (answer.body.decode() for answer in answers)
