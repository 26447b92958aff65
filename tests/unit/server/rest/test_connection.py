"""Connections of clients that are slow or send too much, on a loopback port; time is passed to them by the test."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from mlmodel_server.rest.app import Application
from mlmodel_server.rest.connection import (
    DRAINING_IDLE,
    HEAD_SECONDS,
    MIN_RATE,
    PIECE,
    REQUEST_SECONDS,
    SMALLEST_PIECE,
    TURN_REQUESTS,
    WINDOW_SECONDS,
    HttpProtocol,
)
from mlmodel_server.serving.context import Limits
from mlmodel_server.serving.pipeline import Pipeline
from mlmodel_server.startup.server import KEEP_ALIVE
from tests.unit.server.doubling import serving

ROW = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.5]}]}).encode()
HEAD = b"POST /v2/models/double/infer HTTP/1.1\r\nhost: m\r\n"
SECONDS = 60.0


class Served:
    """An application on a port."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.state = pipeline, ServerState()
        config = uvicorn.Config(
            Application(pipeline), http=HttpProtocol, ws="none", lifespan="off", interface="asgi3",
            proxy_headers=False, log_config=None, access_log=False, timeout_keep_alive=KEEP_ALIVE,
        )  # fmt: skip
        config.load()
        self.config, self.port = config, 0
        self.writers: list[asyncio.StreamWriter] = []  # one that is not referenced closes its connection

    def make(self) -> HttpProtocol:
        return HttpProtocol(self.config, self.state, {})

    async def connect(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        self.writers.append(writer)
        return reader, writer

    @property
    def connections(self) -> list[HttpProtocol]:
        return [one for one in self.state.connections if isinstance(one, HttpProtocol)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():  # noqa: ASYNC110  # of sockets, which cannot be awaited
                await asyncio.sleep(0.001)

    def pass_time(self, *seconds: float) -> None:
        """Check all connections as if so much time had passed since now."""
        for later in seconds:
            for connection in self.connections:
                connection.check(asyncio.get_running_loop().time() + later)

    async def answer(self, reader: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout(SECONDS):
            return await reader.read()


@asynccontextmanager
async def served(limits: Limits | None = None) -> AsyncIterator[Served]:
    one = Served(Pipeline(serving(limits=limits)))
    one.pipeline.start(0)
    server = await asyncio.get_running_loop().create_server(one.make, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        for connection in one.connections:
            connection.transport.abort()
        await asyncio.sleep(0)
        await one.pipeline.stop()


def run(test: Callable[[Served], Awaitable[Any]], limits: Limits | None = None) -> None:
    async def whole() -> None:
        async with served(limits) as one:
            await test(one)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the server
        runner.run(whole())


def counts(one: Served) -> Any:
    return one.pipeline.serving.recorder.report()["requests"]


def test_a_head_that_does_not_arrive_gets_408_and_an_idle_connection_is_closed() -> None:
    async def test(one: Served) -> None:
        reader, _ = await one.connect(HEAD)
        silent, _ = await one.connect()
        await one.until(lambda: len(one.connections) == 2 and any(c._raw for c in one.connections))
        one.pass_time(HEAD_SECONDS - 1)
        assert len(one.connections) == 2
        one.pass_time(HEAD_SECONDS + 1)
        answer = await one.answer(reader)
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout")
        assert b"the headers did not arrive within 10 s: send them at once" in answer
        assert await one.answer(silent) == b""

    run(test)


def test_a_body_that_stalls_gets_408_and_a_slow_one_is_answered() -> None:
    async def test(one: Served) -> None:
        for body, status in ((b" " * 10, b"408"), (b" " * 100_000, b"408")):
            reader, writer = await one.connect(HEAD + b"content-length: 200000\r\n\r\n" + body)
            await one.until(lambda body=body: [c._arrived for c in one.connections] == [len(body)])  # type: ignore[misc]
            one.pass_time(1, 1 + WINDOW_SECONDS)
            answer = await one.answer(reader)
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert b"less than %d bytes per second" % MIN_RATE in answer
            assert b"connection: close" in answer
            assert b"x-mlmodel-late: true" in answer
            writer.close()
            await one.until(lambda: not one.connections)
        assert counts(one) == {"408": 2}
        assert one.pipeline.budget.used == 0

    run(test)


def test_a_body_at_the_minimum_rate_has_a_minute() -> None:
    async def test(one: Served) -> None:
        reader, writer = await one.connect(HEAD + b"content-length: 80000\r\n\r\n")
        await one.until(lambda: [c._head_done for c in one.connections] == [True])
        (connection,) = one.connections
        rate = int(MIN_RATE * (WINDOW_SECONDS + 1))
        for window in range(9):
            one.pass_time(1 + window * (WINDOW_SECONDS + 1))
            writer.write(b" " * rate)
            await one.until(lambda window=window: connection._arrived == rate * (window + 1))  # type: ignore[misc]
        assert not connection._is_cut
        one.pass_time(REQUEST_SECONDS + 1)
        assert b"the request did not arrive within 60 s" in await one.answer(reader)

    run(test)


def test_bodies_are_charged_as_they_arrive_and_the_largest_source_gives_way() -> None:
    async def test(one: Served) -> None:
        many = [HEAD + b"x-mlmodel-client: 10.0.0.9\r\ncontent-length: 8000000\r\n\r\n" + b" " * 100_000] * 8
        flood = [await one.connect(sent) for sent in many]
        await one.until(lambda: one.pipeline.budget.used >= 700_000)
        body = ROW + b" " * 200_000
        reader, _ = await one.connect(HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        assert (await one.answer(reader)).startswith(b"HTTP/1.1 200 ")
        await one.until(lambda: counts(one).get("429", 0) > 0)
        for _, writer in flood:
            writer.close()
        await one.until(lambda: one.pipeline.budget.used == 0)

    run(test, Limits(max_body_total=1_000_000))


def test_a_client_that_does_not_read_is_charged_and_disconnected() -> None:
    async def test(one: Served) -> None:
        _, writer = await one.connect()
        await one.until(lambda: len(one.connections) == 1)
        (connection,) = one.connections
        requests = b"GET /openapi.json HTTP/1.1\r\nhost: m\r\nx-mlmodel-client: 203.0.113.7\r\n\r\n" * 50
        async with asyncio.timeout(SECONDS):
            while not connection._blocked_since:
                writer.write(requests)
                await asyncio.sleep(0.001)
        assert one.pipeline.budget.used > 0
        # Behind a router all clients have one peer: the one that does not read must not be charged to the others.
        assert [*one.pipeline.budget._totals] == [b"203.0.113.7"]
        one.pass_time(1, 1 + WINDOW_SECONDS)
        await one.until(lambda: not one.connections)
        assert one.pipeline.budget.used == 0

    run(test)


def test_beyond_the_limit_the_oldest_idle_connection_is_closed_and_none_in_flight() -> None:
    async def test(one: Served) -> None:
        body = b"content-length: %d\r\n\r\n" % len(ROW) + ROW
        first, _ = await one.connect(HEAD + body)
        await one.until(lambda: counts(one) == {"200": 1})
        others = [await one.connect() for _ in range(3)]
        await one.until(lambda: len(one.connections) <= 2)
        reader, _ = await one.connect(HEAD + b"connection: close\r\n" + body)
        assert (await one.answer(reader)).startswith(b"HTTP/1.1 200 ")
        assert b"200 OK" in await one.answer(first)
        assert others

    run(test, Limits(max_connections=2))


def test_pipelined_requests_are_answered_in_order_whether_or_not_others_are_connected() -> None:
    async def test(one: Served) -> None:
        for others in (0, 1):
            if others:
                await one.connect()
            await one.until(lambda others=others: len(one.connections) == others)  # type: ignore[misc]
            rows = [ROW, b"not JSON, which is rejected at once"] * 4
            requests = [HEAD + b"content-length: %d\r\n\r\n" % len(row) + row for row in rows]
            reader, _ = await one.connect(b"".join(requests) + b"GET /v2 HTTP/1.1\r\nconnection: close\r\n\r\n")
            answers = re.findall(rb"HTTP/1.1 (\d+) ", await one.answer(reader))
            assert answers == [b"200", b"400"] * 4 + [b"200"]

    run(test)


def test_a_trailer_is_no_header() -> None:
    async def test(one: Served) -> None:
        chunks = b"%x\r\n%b\r\n0\r\nx-mlmodel-timeout-ms: none\r\n\r\n" % (len(ROW), ROW)
        sent = HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + chunks
        reader, _ = await one.connect(sent)
        assert (await one.answer(reader)).startswith(b"HTTP/1.1 200 ")

    run(test)


def test_a_turn_has_few_requests_and_a_usual_request_comes_in_one_piece() -> None:
    async def test(one: Served) -> None:
        reader, writer = await one.connect()
        await one.until(lambda: len(one.connections) == 1)
        (connection,) = one.connections
        turns: list[int] = []
        parse, feed = connection._parse, connection._feed

        def counted() -> None:
            before = connection._messages
            parse()
            turns.append(connection._messages - before)

        connection._parse = counted  # type: ignore[method-assign]
        for request in (HEAD + b"content-length: %d\r\n\r\n" % len(ROW) + ROW, b"GET /v2 HTTP/1.1\r\nhost: m\r\n\r\n"):
            connection._piece = PIECE
            turns.clear()
            writer.write(request * 200)
            async with asyncio.timeout(SECONDS):
                for _ in range(200):
                    await reader.readuntil(b"\r\n\r\n")
            first, *others = turns
            assert first <= max(TURN_REQUESTS, PIECE // len(request)) + PIECE // len(request)
            assert max(others) <= TURN_REQUESTS + SMALLEST_PIECE // len(request) + 1
        pieces: list[int] = []
        connection._feed = lambda data: pieces.append(len(data)) or feed(data)  # type: ignore[method-assign, func-returns-value]
        connection._piece = PIECE
        connection.data_received(HEAD + b"content-length: 2000\r\n\r\n" + b" " * 2000)
        assert len(pieces) == 1

    run(test)


def test_clients_that_leave_cost_nothing_and_those_that_stay_have_short_turns(caplog: pytest.LogCaptureFixture) -> None:
    clients = 5

    async def test(one: Served) -> None:
        async def honest(rounds: int) -> int:
            """Return how many requests of others were answered beside one of ours, at most."""
            answered = 0
            for _ in range(rounds):
                before = one.state.total_requests
                reader, writer = await one.connect(HEAD + b"content-length: %d\r\n\r\n" % len(ROW) + ROW)
                async with asyncio.timeout(SECONDS):
                    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
                answered = max(answered, one.state.total_requests - before - 1)
                writer.close()
            return answered

        requests = b"GET /openapi.json HTTP/1.1\r\nhost: m\r\n\r\n" * 5_000
        strangers = [await one.connect(requests) for _ in range(clients)]
        await one.until(lambda: len(one.connections) == clients and all(c._messages for c in one.connections))
        assert await honest(20) <= 6 * clients  # connection, request and response take a round of the event loop each
        await one.until(lambda: sum(bool(c._blocked_since) for c in one.connections) == clients)
        before = one.state.total_requests
        for _, writer in strangers:
            writer.transport.abort()
        assert await honest(20) <= clients
        await one.until(lambda: not any(c._blocked_since for c in one.connections))
        await one.until(lambda: not one.state.tasks)
        assert one.state.total_requests - before <= clients + 20, "what they sent is not answered any more"
        assert not caplog.records, "a client that leaves causes no error"

    run(test)


def test_a_request_that_is_not_read_yet_when_idle_connections_are_closed_is_answered() -> None:
    async def test(one: Served) -> None:
        request = HEAD + b"content-length: %d\r\n\r\n" % len(ROW) + ROW
        (reader, writer), (idle, _) = await one.connect(request), await one.connect(request)
        for answered in (reader, idle):
            await answered.readuntil(b"}]}")
        application = one.config.loaded_app
        application.drain()
        # In one step of the event loop, which reads nothing meanwhile.
        os.write(writer.get_extra_info("socket").fileno(), request)
        for connection in one.connections:
            connection.shutdown()
        answer = (await one.answer(reader)).lower()
        assert answer.startswith(b"http/1.1 200 ok")
        assert b"\r\nconnection: close\r\n" in answer
        assert await one.answer(idle) == b""

    run(test)


def test_idle_connections_and_those_of_rejected_uploads_do_not_hold_up_a_stop() -> None:
    async def test(one: Served) -> None:
        upload = b"POST /nowhere HTTP/1.1\r\nhost: m\r\ncontent-length: 100000\r\n\r\nbegun"
        (rejected, sender), (idle, writer) = (
            await one.connect(upload),
            await one.connect(b"GET /v2 HTTP/1.1\r\nhost: m\r\n\r\n"),
        )
        for answered in (rejected, idle):
            await answered.readuntil(b"}")
        one.config.loaded_app.drain()
        os.write(writer.get_extra_info("socket").fileno(), b"\r\n")  # no request
        for connection in one.connections:
            connection.shutdown()
        assert await one.answer(rejected) == b""
        await one.until(lambda: all(connection._idle_since for connection in one.connections))
        assert len(one.connections) == 1
        one.pass_time(DRAINING_IDLE + 0.1)
        assert await one.answer(idle) == b""
        sender.close()

    run(test)


def test_the_connection_of_a_rejected_upload_that_has_arrived_is_idle_then() -> None:
    async def test(one: Served) -> None:
        upload = b"POST /nowhere HTTP/1.1\r\nhost: m\r\ncontent-length: 20\r\n\r\nbegun"
        reader, writer = await one.connect(upload)
        await reader.readuntil(b"}")
        writer.write(b"." * 15)
        await one.until(lambda: one.connections[0]._idle_since > 0)
        one.pass_time(one.config.timeout_keep_alive + 1)
        assert await one.answer(reader) == b""

    run(test)
