"""The scraper reads valid responses, and treats any other as no response."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from mlmodel_operator import scrape
from mlmodel_operator.api.evidence import Again, Agreement, Counts, Dropped, Outcomes, Pairs, Sides
from mlmodel_operator.observe import read_rehearsing
from mlmodel_operator.rollout.session import shown
from mlmodel_operator.scrape import PairsPage, RouterStatus, Scraper, parse_page, parse_router_status
from mlmodel_server.rehearsal.target import Target
from tests.integration.operator.attack import LIES, liars
from tests.unit.operator.runtime.support import asynchronous

GOOD = {
    "boot": "00000000000000ab",
    "id": "abc",
    "candidate": "91e4b519",
    "stable_ms": 12,
    "weights": {
        "25": {
            "candidate": {"requests": 412, "failed": 3, "shared": 1},
            "stable": {"requests": 1236, "failed": 1, "left": 9},
        },
        "5": {
            "candidate": {"requests": 5, "failed": 0, "shared": 0},
            "stable": {"requests": 95, "failed": 0, "left": 0},
        },
    },
    "uncounted": {"large": 12, "chosen": 3, "sticky": 5, "matched": 2, "crowd": 7, "other": 40},
}
STATUS = RouterStatus(
    "00000000000000ab",
    "abc",
    "91e4b519",
    12,
    {25: Sides(Counts(412, 3, 1), Counts(1236, 1, left=9)), 5: Sides(Counts(5), Counts(95))},
    {"large": 12, "chosen": 3, "sticky": 5, "matched": 2, "crowd": 7, "other": 40},
)


def test_the_state_of_the_files_of_secrets_is_read_and_may_be_absent() -> None:
    assert parse_router_status(page(tls="former", keys="current")) == replace(STATUS, tls="former", keys="current")
    assert parse_router_status(page(tls="", keys="closed")) == replace(STATUS, keys="closed")
    for wrong in ("expired", None, 1, ["current"], "current\n"):
        assert parse_router_status(page(tls=wrong)) is None


def page(**changes: object) -> bytes:
    """Return the status page of a router."""
    return json.dumps(GOOD | changes).encode()


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
        assert request.path == "/status"
        return web.Response(body=body, status=status)

    return handle


@asynchronous
async def test_routers_are_read_concurrently_and_those_that_hang_cost_the_time_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scrape, "_SECONDS", 3.0)  # so that the others answer in time on a busy machine, too

    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(300)
        return web.Response()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"# x\n" * 50_000)
            await asyncio.sleep(0)

    async def away(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("http://127.0.0.2/status")

    handlers = {
        "127.0.0.2": answer(page()),
        "127.0.0.3": hang,
        "127.0.0.4": answer(b"nonsense"),
        "127.0.0.5": answer(page(), status=500),
        "127.0.0.6": endless,
        "127.0.0.7": away,
        "127.0.0.8": answer(page(candidate="", weights={})),
        "127.0.0.10": answer(page() + b" " * 16384),
    }
    hanging = {f"127.0.1.{number}": hang for number in range(1, 11)}
    async with servers(handlers | hanging) as port:
        scraper = Scraper()
        names = {f"pod-{address[8:]}": address for address in handlers} | {ip: ip for ip in hanging}
        started = time.monotonic()
        found = await scraper.routers(
            {
                name: (address, port)
                for name, address in {
                    **names,
                    "refused": "127.0.0.9",
                    "no-ip": "",
                    "bad": "evil.example/x?",
                }.items()
            }
        )
        seconds = time.monotonic() - started
        await scraper.close()
    assert found == {
        "pod-2": STATUS,
        "pod-3": None,
        "pod-4": None,
        "pod-5": None,
        "pod-6": None,
        "pod-7": None,
        "pod-8": replace(STATUS, candidate="", weights={}),
        "pod-10": None,
        "refused": None,
        "no-ip": None,
        "bad": None,
        **dict.fromkeys(hanging),
    }
    assert seconds < 20, "each may take three, and all are read at once"


@asynchronous
async def test_all_lying_pods_of_a_model_together_cost_a_second() -> None:
    # An honest pod beside them would compete with the lies for this event loop: see tests/integration/operator.
    async with servers({"127.0.0.2": answer(page())}) as port, liars(8 * len(LIES), (port,)) as addresses:
        scraper = Scraper()
        started = time.monotonic()
        found = await scraper.routers({address: (address, port) for address in addresses})
        seconds = time.monotonic() - started
        await scraper.close()
    assert found == dict.fromkeys(addresses)
    assert seconds < 10, "each may take a second, and all are read at once"


@asynchronous
async def test_a_pod_gets_no_cookie_back_and_its_compressed_page_is_not_unpacked() -> None:
    cookies = []

    async def handle(request: web.Request) -> web.Response:
        cookies.append(dict(request.cookies))
        response = web.Response(body=gzip.compress(page()), headers={"Content-Encoding": "gzip"})
        response.set_cookie("pod", "x" * 1000)
        return response

    async with servers({"127.0.0.2": handle}) as port:
        scraper = Scraper()
        found = [await scraper.routers({"pod": ("127.0.0.2", port)}) for _ in range(2)]
        await scraper.close()
    assert found == [{"pod": None}, {"pod": None}]
    assert cookies == [{}, {}]


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


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"<html>", b"[" * 3000, b"[]", b"null", b"{}"])
def test_garbage_is_not_a_response(body: bytes) -> None:
    assert parse_router_status(body) is None


@pytest.mark.attack(held=True)
def test_a_page_above_16_kib_is_not_read() -> None:
    assert parse_router_status(page() + b" " * (16384 - len(page()))) == STATUS
    assert parse_router_status(page() + b" " * (16385 - len(page()))) is None


def test_a_page_with_all_weights_is_read() -> None:
    counts = {"requests": 2_000_000, "failed": 20_000}
    sides = {"candidate": {**counts, "shared": 10_000}, "stable": {**counts, "left": 200_000}}
    status = parse_router_status(json.dumps({**GOOD, "weights": {str(n): sides for n in range(1, 101)}}).encode())
    assert status is not None
    assert len(status.weights) == 100


@pytest.mark.parametrize("field", GOOD)
def test_a_page_without_one_of_its_fields_is_not_valid(field: str) -> None:
    assert parse_router_status(json.dumps({key: value for key, value in GOOD.items() if key != field}).encode()) is None


def side(**changes: object) -> dict[str, object]:
    """Return the counts of one weight."""
    return {
        "candidate": {"requests": 9, "failed": 2, "shared": 1, **changes},
        "stable": {"requests": 9, "failed": 0, "left": 4},
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"boot": "x"},
        {"boot": 7},
        {"id": 5},
        {"candidate": None},
        {"stable_ms": -1},
        {"stable_ms": 1.5},
        {"weights": []},
        {"weights": {"0": side()}},
        {"weights": {"101": side()}},
        {"weights": {"05": side()}},
        {"weights": {"x": side()}},
        {"weights": {"5": 5}},
        {"weights": {"5": {"candidate": {"requests": 1, "failed": 0, "shared": 0}}}},
        {"weights": {"5": side(requests=-1)}},
        {"weights": {"5": side(requests=1.5)}},
        {"weights": {"5": side(requests=True)}},
        {"weights": {"5": side(requests=1e999)}},
        {"weights": {"5": side(requests=2**60)}},
        {"weights": {"5": side(failed=10)}},
        {"weights": {"5": side(shared=3)}},
        {"weights": {"5": side() | {"stable": {"requests": 9, "failed": 0}}}},
        {"weights": {"5": side() | {"stable": {"requests": 9, "failed": 0, "left": -1}}}},
        {"uncounted": {"large": 1}},
        {"uncounted": {**GOOD["uncounted"], "other": "1"}},  # type: ignore[dict-item]
    ],
)
def test_a_router_status_that_is_not_valid_is_none(changes: dict[str, object]) -> None:
    assert parse_router_status(page(**changes)) is None


def test_the_page_of_a_router_of_the_release_before_is_valid_during_an_upgrade() -> None:
    before = {"large": 12, "chosen": 3, "crowd": 7, "other": 40}
    assert parse_router_status(page(uncounted=before)) == replace(STATUS, uncounted=before)
    assert parse_router_status(page(uncounted=before | {"sticky": -1})) is None


def test_the_counts_of_the_other_tests_are_valid() -> None:
    found = parse_router_status(page(weights={"5": side()}))
    assert found is not None
    assert found.weights == {5: Sides(Counts(9, 2, 1), Counts(9, left=4))}


# ------------------------------------------------------------------------------------------------ pages of a rehearsal

GOOD_PAGE = {
    "boot": "00000000000000cd",
    "revision": "5f1c2e9a",
    "candidate": "91e4b519",
    "seconds": 812,
    "seen": 5000,
    "kept": 1000,
    "left": 400,
    "asked": 610,
    "dropped": {"candidate": 7, "own": 3},
    "pairs": {"both": 580, "candidate_failed": 11, "own_failed": 2, "both_failed": 7},
    "again": {"both": 60, "differ": 1},
    "agree": {"rows": 580, "same": 570, "outside": 1, "candidate_mode": 300, "own_mode": 310, "form": 2},
    "gaps": {"-20": 500, "3": 80},
    "gaps_again": {"-20": 60},
    "ratios": {"-2": 90, "0": 400, "100": 1},
    "ratios_again": {"0": 50},
    "times": {"0": 1, "80": 570, "200": 9},
    "own_times": {"79": 580},
}
PAGE = PairsPage(
    "00000000000000cd",
    "5f1c2e9a",
    "91e4b519",
    Pairs(
        seen=5000,
        kept=1000,
        left=400,
        asked=610,
        dropped=Dropped(7, 3),
        pairs=Outcomes(580, 11, 2, 7),
        again=Again(60, 1),
        agree=Agreement(580, 570, 1, 300, 310, 2),
        gaps={"-20": 500, "3": 80},
        gaps_again={"-20": 60},
        ratios={"-2": 90, "0": 400, "100": 1},
        ratios_again={"0": 50},
        times={"0": 1, "80": 570, "200": 9},
        own_times={"79": 580},
    ),
)


def pairs_page(**changes: object) -> bytes:
    """Return the page of a pod of stable."""
    return json.dumps(GOOD_PAGE | changes).encode()


@asynchronous
async def test_pages_are_read_from_the_port_of_the_rehearsal() -> None:
    async def handle(request: web.Request) -> web.Response:
        assert request.path == "/"
        return web.Response(body=pairs_page())

    async with servers({"127.0.0.2": handle, "127.0.0.3": answer_at_root(b"{}")}) as port:
        scraper = Scraper(rehearsal_port=port)
        found = await scraper.pages({"good": "127.0.0.2", "bad": "127.0.0.3", "refused": "127.0.0.4", "no-ip": ""})
        await scraper.close()
    assert found == {"good": PAGE, "bad": None, "refused": None, "no-ip": None}


def answer_at_root(body: bytes) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=body)

    return handle


def test_a_page_without_a_candidate_and_one_with_more_fields_are_read() -> None:
    assert parse_page(pairs_page(candidate="")) == replace(PAGE, candidate="")
    assert parse_page(pairs_page(new={"a": 1})) == PAGE


def test_a_page_says_of_which_rehearsal_it_is_and_one_of_an_older_release_does_not() -> None:
    for page, session in (
        (GOOD_PAGE, ""),
        (GOOD_PAGE | {"session": ""}, ""),
        (GOOD_PAGE | {"session": "00000000000000cd"}, "00000000000000cd"),
    ):
        found = parse_page(json.dumps(page).encode())
        assert found is not None
        assert found.session == session
    for wrong in ("x" * 16, "0" * 15, 7, None, ["0" * 16]):
        assert parse_page(json.dumps(GOOD_PAGE | {"session": wrong}).encode()) is None


@pytest.mark.parametrize(
    ("session", "is_counted"), [("00000000000000cd", True), ("00000000000000ce", False), ("", True)]
)
def test_a_page_of_another_rehearsal_rehearses_nothing(session: str, is_counted: bool) -> None:
    page = PairsPage("00000000000000ab", "aaaa", "bbbb", Pairs(seen=7), session)
    found = read_rehearsing("pod", "aaaa", "00000000000000cd", page, None)
    assert (found.candidate, found.pairs.seen) == (("bbbb", 7) if is_counted else ("", 0))
    assert found.is_named == bool(session and is_counted)


def test_both_programs_name_a_rehearsal_alike() -> None:
    assert shown("0" * 64) == Target("bbbb", "0" * 64, b"").session


def test_a_page_with_every_bin_fits() -> None:
    ratios = {str(number): 10_000 for number in range(-100, 101)}
    times = {str(number): 10_000 for number in range(201)}
    gaps = {str(number): 10_000 for number in range(-20, 21)}
    body = pairs_page(ratios=ratios, ratios_again=ratios, times=times, own_times=times, gaps=gaps, gaps_again=gaps)
    assert len(body) <= 16384
    found = parse_page(body)
    assert found is not None
    assert found.pairs.ratios == ratios


@pytest.mark.parametrize("field", [name for name in GOOD_PAGE if name != "seconds"])
def test_a_page_of_a_pod_without_one_of_its_fields_is_not_valid(field: str) -> None:
    assert parse_page(json.dumps({key: value for key, value in GOOD_PAGE.items() if key != field}).encode()) is None


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "changes",
    [
        {"boot": "x"},
        {"revision": ""},
        {"revision": "../x"},
        {"candidate": None},
        {"candidate": "A"},
        {"candidate": "a" * 64},
        {"seen": -1},
        {"kept": 1.5},
        {"left": True},
        {"asked": 2**60},
        {"dropped": {"candidate": 1}},
        {"pairs": {"both": 1, "candidate_failed": 0, "own_failed": 0}},
        {"pairs": []},
        {"again": {"both": 1, "differ": 2}},
        {"agree": {**GOOD_PAGE["agree"], "same": 580}},  # type: ignore[dict-item]
        {"agree": {**GOOD_PAGE["agree"], "own_mode": 581}},  # type: ignore[dict-item]
        {"gaps": {"21": 1}},
        {"ratios": {"-101": 1}},
        {"ratios": {"05": 1}},
        {"times": {"-1": 1}},
        {"times": {"201": 1}},
        {"own_times": {"x": 1}},
        {"own_times": {"5": -1}},
        {"own_times": {"5": 2**54}},
        {"own_times": 5},
    ],
)
def test_a_page_of_a_pod_that_is_not_valid_is_none(changes: dict[str, object]) -> None:
    assert parse_page(pairs_page(**changes)) is None


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"<html>", b"[" * 3000, b"[]", b"null", b"{}"])
def test_garbage_is_not_a_page(body: bytes) -> None:
    assert parse_page(body) is None


@pytest.mark.attack(held=True)
def test_a_page_of_a_pod_above_16_kib_is_not_read() -> None:
    assert parse_page(pairs_page() + b" " * (16384 - len(pairs_page()))) == PAGE
    assert parse_page(pairs_page() + b" " * (16385 - len(pairs_page()))) is None
