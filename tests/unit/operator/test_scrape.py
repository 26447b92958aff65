"""The scraper reads valid responses, and treats any other as no response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, generate_latest

from mlmodel_operator.api.evidence import Counts
from mlmodel_operator.scrape import RouterStatus, Scraper, parse_counts, parse_router_status
from tests.unit.operator.runtime.support import asynchronous

LABELS = ["model", "version", "revision", "code"]


def page(counts: dict[str, int], version: str = "v1") -> bytes:
    """Return the metrics of a server pod, written by the library that it uses."""
    registry = CollectorRegistry()
    counter = Counter("mlmodel_requests", "Inference requests.", LABELS, registry=registry)
    for code, number in counts.items():
        counter.labels("m", version, "r", code).inc(number)
    return generate_latest(registry)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def servers(handlers: dict[str, Handler]) -> AsyncIterator[int]:
    """Serve on one loopback address per handler, all on the same port, as pods do."""
    runners = []
    port = 0
    try:
        for address, handler in handlers.items():
            app = web.Application()
            app.router.add_get("/{any:.*}", handler)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            runners.append(runner)
            await web.TCPSite(runner, address, port).start()
            port = runner.addresses[0][1]
        yield port
    finally:
        for runner in runners:
            await runner.cleanup()


def answer(body: bytes, status: int = 200) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        assert request.path == "/metrics"
        return web.Response(body=body, status=status)

    return handle


@asynchronous
async def test_pods_are_read_concurrently_and_one_that_hangs_costs_a_second() -> None:
    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"# x\n" * 50_000)
            await asyncio.sleep(0)

    async def away(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("http://127.0.0.2/metrics")

    handlers = {
        "127.0.0.2": answer(page({"200": 90, "404": 3, "400": 4, "500": 2, "503": 1})),
        "127.0.0.3": hang,
        "127.0.0.4": answer(b"nonsense"),
        "127.0.0.5": answer(page({"200": 1}), status=500),
        "127.0.0.6": endless,
        "127.0.0.7": away,
        "127.0.0.8": answer(page({})),
    }
    async with servers(handlers) as port:
        scraper = Scraper(server_port=port)
        names = {f"pod-{address[-1]}": address for address in handlers}
        started = time.monotonic()
        found = await scraper.pods({**names, "refused": "127.0.0.9", "no-ip": "", "bad": "evil.example/x?"})
        seconds = time.monotonic() - started
        await scraper.close()
    assert found == {
        "pod-2": Counts(100, 7, 3),
        "pod-3": None,
        "pod-4": None,
        "pod-5": None,
        "pod-6": None,
        "pod-7": None,
        "pod-8": Counts(0, 0, 0),
        "refused": None,
        "no-ip": None,
        "bad": None,
    }
    assert seconds < 3


@asynchronous
async def test_routers_are_read() -> None:
    status = '{"id": "abc", "slots": {"a": {"requests": 9, "failed": 2, "fallbacks": 1}}}'

    async def handle(request: web.Request) -> web.Response:
        assert request.path == "/status"
        return web.Response(text=status)

    async with servers({"127.0.0.1": handle}) as port:
        scraper = Scraper(router_port=port)
        found = await scraper.routers({"router": "127.0.0.1"})
        await scraper.close()
    assert found == {"router": RouterStatus("abc", {"a": Counts(9, failed=2)})}


@asynchronous
async def test_an_address_answers_or_does_not() -> None:
    async def live(request: web.Request) -> web.Response:
        assert (request.path, request.headers["x-mlmodel-version"]) == ("/v2/health/live", "stable")
        return web.Response(text="{}")

    async def none(request: web.Request) -> web.Response:
        return web.Response(status=503)

    async with servers({"127.0.0.2": live, "127.0.0.3": none}) as port:
        scraper = Scraper(service_port=port)
        found = [await scraper.answers(address) for address in ("127.0.0.2", "127.0.0.3", "127.0.0.4", "")]
        await scraper.close()
    assert found == [True, False, False, False]


@asynchronous
async def test_a_service_is_asked_at_the_port_of_the_servers_and_the_model_for_one_side() -> None:
    seen = []

    async def live(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers.get("x-mlmodel-version", "")))
        return web.Response(text="ok")

    async with servers({"127.0.0.2": live}) as port:
        scraper = Scraper(server_port=port, service_port=port)
        assert await scraper.service_answers("127.0.0.2")
        assert await scraper.answers("127.0.0.2", "candidate")
        assert not await scraper.service_answers("127.0.0.3")
        await scraper.close()
    assert seen == [("/v2/health/live", ""), ("/v2/health/live", "candidate")]


@pytest.mark.parametrize("version", ["v1", 'a"b', "a\\", 'x",code="500', "{}", "é", "line\nbreak", "a\u2028b\rc"])
def test_label_values_cannot_imitate_a_code(version: str) -> None:
    assert parse_counts(page({"200": 3}, version)) == Counts(3, 0, 0)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1.0", "1e400", "x", "", "0.5"])
def test_a_value_that_is_not_a_count_invalidates_the_response(value: str) -> None:
    good = b'mlmodel_requests_total{code="200"} 5.0\n'
    assert parse_counts(good) == Counts(5, 0, 0)
    assert parse_counts(good + f'mlmodel_requests_total{{code="500"}} {value}\n'.encode()) is None


@pytest.mark.parametrize(
    "line", ['{version="1"} 1', '{code="2xx"} 1', '{code="700"} 1', '{code="200" 1', "{} 1", '{code="200"}1']
)
def test_a_line_without_a_valid_code_invalidates_the_response(line: str) -> None:
    assert parse_counts(f"mlmodel_requests_total{line}\n".encode()) is None


def test_large_counts_and_timestamps_are_read_and_other_metrics_are_not() -> None:
    text = (
        'mlmodel_requests_total{code="200"} 1.2e+06 1700000000000\n'
        'mlmodel_requests_total_other{code="500"} 7\n'
        'x_mlmodel_requests_total{code="500"} 7\n'
    )
    assert parse_counts(text.encode()) == Counts(1_200_000, 0, 0)


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"<html>", b"[" * 5000])
def test_garbage_is_not_a_response(body: bytes) -> None:
    assert parse_counts(body) is None
    assert parse_router_status(body) is None


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "null",
        '{"id": "x"}',
        '{"id": 5, "slots": {}}',
        '{"id": "x", "slots": []}',
        '{"id": "x", "slots": {"a": 5}}',
        '{"id": "x", "slots": {"a": {"requests": 1, "fallbacks": 0}}}',
        '{"id": "x", "slots": {"a": {"requests": -1, "failed": 0, "fallbacks": 0}}}',
        '{"id": "x", "slots": {"a": {"requests": 1.5, "failed": 0, "fallbacks": 0}}}',
        '{"id": "x", "slots": {"a": {"requests": true, "failed": 0, "fallbacks": 0}}}',
        '{"id": "x", "slots": {"a": {"requests": 1e999, "failed": 0, "fallbacks": 0}}}',
    ],
)
def test_a_router_status_that_is_not_valid_is_none(body: str) -> None:
    assert parse_router_status(body.encode()) is None
