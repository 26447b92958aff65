"""The router: HAProxy with the shipped configuration, between sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hack import haproxy
from hack.ports import free_port
from mlmodel_operator.api.status import Slot
from mlmodel_operator.resources import router_files
from mlmodel_operator.rollout import routes as routes_module
from mlmodel_operator.rollout.routes import Routes
from mlmodel_operator.rollout.sides import Sides
from tests.integration.router.loopback import Client, Load, Message, Reply, Revision, http2, read_message, versions
from tests.integration.router.routers import (
    ADDRESSES,
    NO_FILES,
    STABLE_A,
    UNCOUNTED,
    Router,
    canary,
    candidate,
    failing,
    stable,
)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """The port of the revisions, instead of 8080, which may be in use."""
    chosen = free_port(*ADDRESSES.values(), "127.0.0.13")
    monkeypatch.setattr(routes_module, "SERVER_PORT", chosen)
    return chosen


@dataclass
class Setup:
    """A router and the revisions a and b."""

    router: Router
    a: Revision
    b: Revision

    async def send(self, count: int, clients: int = 8, path: str = "/v2/models/m/infer") -> list[Message]:
        """Send ``count`` requests over ``clients`` concurrent keep-alive connections."""
        answers: list[Message] = []
        todo = iter(range(count))

        async def drive() -> None:
            client = Client(self.router.traffic)
            for _ in todo:
                answers.append(await client.post(path))
            client.close()

        await asyncio.gather(*(drive() for _ in range(clients)))
        return answers


Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, port: int, version: str) -> Run:
    """``run(scenario, …)`` sets up a router and revisions, and awaits ``scenario(setup)``."""

    def start(
        scenario: Callable[[Setup], Coroutine[Any, Any, None]],
        routes: Routes | None = STABLE_A,
        a: Reply | Callable[[Message], Reply] | None = None,
        b: Reply | Callable[[Message], Reply] | None = None,
        changes: dict[str, str] | None = None,
        listening: bool = True,
        supervised: bool = False,
    ) -> None:
        async def main() -> None:
            async with AsyncExitStack() as stack:
                first = await stack.enter_async_context(Revision("a", ADDRESSES["a"], port, a))
                second = Revision("b", ADDRESSES["b"], port, b)
                if listening:
                    await stack.enter_async_context(second)
                router = await stack.enter_async_context(
                    Router(tmp_path / "router", changes or {}, version=version, supervised=supervised)
                )
                if routes is not None:
                    await router.route(routes)
                await scenario(Setup(router, first, second))

        asyncio.run(main())

    return start


def test_without_routes_the_response_is_503_with_retry_after(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        answer = (await setup.send(1))[0]
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert "not serving yet" in json.loads(answer.body)["error"]
        assert (await setup.router.get("/ready")).status == 503
        page = await setup.router.counts()
        assert len(page.pop("boot")) == 16
        assert page == {"id": "", "candidate": "", "stable_ms": 0, "weights": {}, "uncounted": UNCOUNTED} | NO_FILES
        await setup.router.route(Routes())
        await setup.router.until(setup.router.is_ready)
        assert (await setup.send(1))[0].status == 503
        await setup.router.route(STABLE_A)
        assert (await setup.send(1))[0].status == 200

    run(scenario, routes=None)


def test_a_new_router_is_ready_when_a_server_accepts_its_connections(run: Run) -> None:
    """As behind a network that permits the connections of a new pod some time after its start."""

    async def scenario(setup: Setup) -> None:
        answer = await setup.router.get("/ready")
        assert (answer.status, answer.body) == (503, b"no server of the model accepts a connection yet")
        async with setup.b:
            await setup.router.until(setup.router.is_ready)
            assert (await setup.send(1))[0].status == 200
        # Only once: an outage of the model must not take its address away, where clients get an error to read.
        assert (await setup.send(1))[0].status == 503
        assert await setup.router.is_ready()

    run(scenario, routes=Routes(ADDRESSES, stable="b"), listening=False)


def test_a_new_router_is_ready_while_the_candidate_stands_in_for_a_stable_that_is_down(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        await setup.router.until(setup.router.is_ready)
        assert (await setup.send(1))[0].body == b"a"

    run(scenario, Routes(ADDRESSES, "b", "a", 100, "a0a0a0a0", 10_000, 10_000), listening=False)


def test_a_router_that_is_started_again_in_its_pod_is_ready_while_no_server_accepts_a_connection(
    tmp_path: Path, port: int, version: str
) -> None:
    """Its network permits connections since the first start: first the whole container, then killed processes."""

    async def scenario() -> None:
        router = Router(tmp_path, version=version, supervised=True)

        async def are_ready() -> bool:
            with contextlib.suppress(ConnectionError):
                pages = [await router.get("/ready", page) for page in (router.status, router.second)]
                return all(page.status == 200 for page in pages)
            return False

        async with Revision("a", ADDRESSES["a"], port), router:
            await router.route(STABLE_A)
            await router.until(are_ready)
        async with router:
            await router.until(are_ready)
            victims = router.processes()
            for victim in victims:
                os.kill(victim, signal.SIGKILL)

            async def restarted() -> bool:
                now = router.processes()
                return len(now) == 2 and not set(now) & set(victims)

            await router.until(restarted)
            await router.until(are_ready)
            assert (await router.get("/v2", router.traffic)).status == 503

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "routes",
    [Routes(ADDRESSES, stable="b"), Routes(ADDRESSES, "b", "a", 99, "a0a0a0a0", 10_000, 10_000)],
    ids=["one version", "a candidate with some requests"],
)
def test_a_new_router_is_ready_after_some_time_if_stable_accepts_no_connection(run: Run, routes: Routes) -> None:
    async def scenario(setup: Setup) -> None:
        started = time.monotonic()
        await setup.router.route(routes)
        await setup.router.until(setup.router.is_ready)
        assert time.monotonic() - started > 3.5
        choice = {"x-mlmodel-version": "stable"}
        assert (await Client(setup.router.traffic).post(headers=choice)).status == 503

    seconds = {"presetenv MLMODEL_REACH_SECONDS 30": "presetenv MLMODEL_REACH_SECONDS 4"}
    run(scenario, routes=None, listening=False, changes=seconds)


def test_the_weight_is_exact_and_independent_of_the_order_of_the_clients(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        clients = [Client(setup.router.traffic), Client(setup.router.traffic)]
        seen = [(await clients[i % 2].post()).body.decode() for i in range(4000)]
        for client in clients:
            client.close()
        for start in range(0, 4000, 100):
            assert Counter(seen[start : start + 100])["b"] == 10
        # The percentage of each client varies by chance; 2 points are more than four standard deviations here.
        for turn in range(2):
            assert Counter(seen[turn::2])["b"] / 2000 == pytest.approx(0.10, abs=0.02)
        assert await setup.router.tally(10) == (candidate(400), stable(3600))
        assert len({tuple(seen[start : start + 100]) for start in range(0, 4000, 100)}) > 30

    run(scenario, canary(10))


@pytest.mark.parametrize("weight", [0, 1, 99, 100])
def test_the_weight_is_exact_at_its_bounds(run: Run, weight: int) -> None:
    async def scenario(setup: Setup) -> None:
        assert Counter(versions(await setup.send(200)))["b"] == 2 * weight

    run(scenario, canary(weight))


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(status=500), id="500"),
        pytest.param(Reply(status=503), id="503"),
        pytest.param(Reply(status=504), id="504"),
        pytest.param(Reply(reset=True), id="reset"),
        pytest.param(Reply(raw=b""), id="closed"),
        pytest.param(Reply(raw=b"HTTP/1.1 200 OK\r\ncontent-le"), id="half a response"),
        pytest.param(Reply(raw=b"so sorry\r\n\r\n"), id="not HTTP"),
        pytest.param(Reply(seconds=60), id="hangs"),
        pytest.param(None, id="connection refused"),
    ],
)
def test_a_request_that_the_candidate_fails_is_retried_on_stable_and_counted(run: Run, reply: Reply | None) -> None:
    hangs = reply is not None and reply.seconds > 0

    async def scenario(setup: Setup) -> None:
        answers = await setup.send(200, clients=200 if hangs else 8)
        assert Counter((answer.status, answer.body) for answer in answers) == {(200, b"a"): 200}
        assert sum(answer.headers.get("x-mlmodel-fallback") == "true" for answer in answers) == 50
        assert await setup.router.tally(25) == (candidate(50, failed=50), stable(150))
        # A request without a response may have met a connection that the server was closing: it is sent again, as to
        # stable, at most three times.
        assert len(setup.b.requests) in ((50, 200) if reply else (0,))

    # Only one that hangs meets the limit, and stable must not on a busy machine.
    run(scenario, canary(25, limit_ms=2_000 if hangs else 10_000), b=reply, listening=reply is not None)


def test_the_retry_on_stable_goes_to_another_pod_if_its_pod_is_killed(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(100, clients=1)
        assert Counter((answer.status, answer.body) for answer in answers) == {(200, b"a"): 100}
        assert await setup.router.tally(100) == (candidate(100, failed=100), stable(0))

    killed = iter([Reply(reset=True), Reply()] * 100)
    run(scenario, canary(100), a=lambda _: next(killed), b=Reply(status=500))


@pytest.mark.attack(held=True)
def test_a_hanging_candidate_fails_even_if_its_clients_disconnect(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        clients = [Client(setup.router.traffic) for _ in range(10)]
        posts = [asyncio.ensure_future(client.post()) for client in clients]

        async def arrived() -> bool:
            return len(setup.b.requests) == 10

        await setup.router.until(arrived)
        for post, client in zip(posts, clients, strict=True):
            post.cancel()
            client.close()

        async def counted() -> bool:
            return await setup.router.tally(100) == (candidate(10, failed=10), stable(0))

        await setup.router.until(counted)

    run(scenario, canary(100, limit_ms=2_000), b=Reply(seconds=60))


def test_requests_are_retried_on_stable_while_baking_at_weight_100(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        assert Counter(versions(await setup.send(100))) == {"a": 50, "b": 50}
        assert await setup.router.tally(100) == (candidate(100, failed=50), stable(0))

    statuses = iter([500, 200] * 50)
    run(scenario, canary(100), b=lambda _: Reply(status=next(statuses)))


def test_a_body_that_fits_the_buffer_is_retried_and_a_larger_one_goes_to_stable_and_does_not_count(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        body = os.urandom(20_000)
        answer = await client.post(body=body)
        assert (answer.status, answer.body) == (200, b"a")
        assert setup.a.requests[0].body == setup.b.requests[0].body == body
        await setup.router.route(canary(99))
        for _ in range(20):
            answer = await client.post(body=os.urandom(400_000))
            assert (answer.status, answer.body) == (200, b"a")
        assert len(setup.b.requests) == 1
        assert (await setup.router.counts())["uncounted"] == {**UNCOUNTED, "large": 20}
        assert await setup.router.tally(99) == (candidate(0), stable(0))
        client.close()

    run(scenario, canary(100), b=Reply(status=500))


def test_a_request_that_both_versions_fail_is_sent_to_each_once_and_the_failure_is_passed_on(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        answer = (await setup.send(1))[0]
        assert (answer.status, answer.body, answer.headers["x-mlmodel-fallback"]) == (500, b"a", "true")
        assert (len(setup.a.requests), len(setup.b.requests)) == (1, 1)
        assert await setup.router.tally(100) == (candidate(1, failed=1, shared=1), stable(0))

    run(scenario, canary(100), a=Reply(status=500), b=Reply(status=500))


def test_when_no_version_can_be_reached_the_client_gets_an_error_and_nobody_is_blamed(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        await setup.a.__aexit__()
        seen: Counter[int] = Counter()

        async def post() -> None:
            client = Client(setup.router.traffic)
            try:
                answer = await client.post()
            except asyncio.IncompleteReadError:
                # HAProxy closes the connection without a response if the request met a kept connection first.
                seen[0] += 1
            else:
                seen[answer.status] += 1
                assert "error" in json.loads(answer.body)
                assert "x-mlmodel-fallback" not in answer.headers
            client.close()

        await asyncio.gather(*(post() for _ in range(20)))
        assert seen.keys() <= {0, 502, 503}
        counted, _ = await setup.router.tally(100)
        assert counted == candidate(counted["requests"], counted["requests"], counted["requests"]), (
            "the failures of both sides"
        )

    run(scenario, canary(100), listening=False)


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("status", [401, 404, 405, 413, 415])
def test_client_errors_are_passed_on_and_count_for_neither_side(run: Run, status: int) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(100)
        assert Counter(answer.status for answer in answers) == {200: 75, status: 25}
        assert await setup.router.tally(25) == (candidate(0), stable(75))
        assert len(setup.a.requests) == 75

    run(scenario, canary(25), b=Reply(status))


@pytest.mark.parametrize("status", [400, 429])
def test_a_request_that_only_the_candidate_rejects_is_retried_on_stable_and_is_a_failure(run: Run, status: int) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(100)
        assert Counter((answer.status, answer.body) for answer in answers) == {(200, b"a"): 100}
        assert sum(answer.headers.get("x-mlmodel-fallback") == "true" for answer in answers) == 25
        assert await setup.router.tally(25) == (candidate(25, failed=25), stable(75))

    run(scenario, canary(25), b=Reply(status))


@pytest.mark.parametrize("status", [400, 429])
def test_a_request_that_both_versions_reject_gets_the_response_of_stable_and_is_nobodys_fault_alone(
    run: Run, status: int
) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(100)
        assert Counter((answer.status, answer.body) for answer in answers) == {(status, b"a"): 100}
        assert not any(answer.headers.keys() & {"x-mlmodel-fallback", "x-mlmodel-first"} for answer in answers)
        # What both shed is a failure of both: a server sheds at random, and stable would accept most of it.
        shed = (candidate(25, failed=25, shared=25), stable(75, failed=75))
        assert await setup.router.tally(25) == (shed if status == 429 else (candidate(0), stable(0)))

    run(scenario, canary(25), a=Reply(status), b=Reply(status))


def test_servers_that_shed_alike_fail_alike(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(800)
        assert {answer.status for answer in answers} == {200, 429}
        own, others = await setup.router.tally(50)
        assert (own["requests"], others["requests"]) == (400, 400)
        assert own["failed"] == pytest.approx(others["failed"], abs=80)  # of 120: five standard errors

    rng = random.Random(20261129)
    shed = lambda _: Reply(429 if rng.random() < 0.3 else 200)  # noqa: E731
    run(scenario, canary(50), a=shed, b=shed)


@pytest.mark.parametrize("status", [400, 429])
def test_a_rejection_that_cannot_be_retried_is_passed_on_with_its_status(run: Run, status: int) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        answer = await client.post(body=os.urandom(400_000))
        client.close()
        assert (answer.status, answer.body) == (status, b"b")
        assert "x-mlmodel-first" not in answer.headers
        assert setup.a.requests == []

    run(scenario, canary(100), b=Reply(status))


def test_errors_of_stable_are_passed_on_and_never_retried_on_the_candidate(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(100)
        assert Counter(answer.status for answer in answers) == {200: 25, 500: 75}
        assert len(setup.a.requests) == 75
        assert len(setup.b.requests) == 25
        assert await setup.router.tally(25) == (candidate(25), stable(75, failed=75))

    run(scenario, canary(25), a=Reply(status=500))


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/m/feedback",
        "/v2/models/m/feedback?x=1",
        "/v2/models/m/feedb%61ck",
    ],
)
@pytest.mark.parametrize("reply", [Reply(status=500), Reply(raw=b"")], ids=["500", "closed"])
def test_feedback_is_never_sent_twice(run: Run, reply: Reply, path: str) -> None:
    async def scenario(setup: Setup) -> None:
        for routes in (STABLE_A, canary(50), canary(100)):
            await setup.router.route(routes)
            before = len(setup.a.requests) + len(setup.b.requests)
            answers = await setup.send(4, path=path)
            assert {answer.status for answer in answers} <= {500, 502}
            assert len(setup.a.requests) + len(setup.b.requests) == before + 4
        assert await setup.router.tally(100) == (candidate(0), stable(0))

    run(scenario, a=reply, b=reply)


@pytest.mark.attack(held=True)
def test_a_header_selects_the_version_and_does_not_affect_the_draw_for_other_requests(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        drawn = []
        for _ in range(100):
            assert (await client.post(headers={"x-mlmodel-version": "candidate"})).body == b"b"
            assert (await client.post(headers={"x-mlmodel-version": "stable"})).body == b"a"
            drawn.append((await client.post(headers={"x-mlmodel-version": "other"})).body)
        assert drawn.count(b"b") == 5
        await setup.router.route(STABLE_A)
        assert (await client.post(headers={"x-mlmodel-version": "candidate"})).body == b"a"
        client.close()

    run(scenario, canary(5))


# Every way in which a client could choose what counts as evidence. Honest requests are sent between them, and only
# these may be in the counts.

INFER = "/v2/models/m/infer"


@dataclass(frozen=True)
class Way:
    """A request that must not count, and what the router may answer."""

    path: str = INFER
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b"{}"
    raw: bytes = b""


WAYS = {
    "chooses the candidate": Way(headers=(("x-mlmodel-version", "candidate"),)),
    "chooses stable": Way(headers=(("x-mlmodel-version", "stable"),)),
    "version of the candidate in the path": Way("/v2/models/m/versions/v2/infer"),
    "version of stable in the path": Way("/v2/models/m/versions/v1/infer"),
    "unknown version in the path": Way("/v2/models/m/versions/v9/infer"),
    "larger than the buffer": Way(body=b" " * 30_000),
    "chunked": Way(
        raw=b"POST /v2/models/m/infer HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    ),
    "no prediction": Way("/v2/models/m/feedback"),
    "encoded version": Way("/v2/models/m/%76ersions/v2/infer"),
    "encoded slash": Way("/v2/models/m/versions%2Fv2/infer"),
    "another method": Way(raw=b"PUT /v2/models/m/infer HTTP/1.1\r\nhost: m\r\ncontent-length: 2\r\n\r\n{}"),
    "no body and no length": Way(raw=b"POST /v2/models/m/infer HTTP/1.1\r\nhost: m\r\n\r\n"),
    "deadline that has passed": Way(headers=(("x-mlmodel-timeout-ms", "0"),)),
    "names a draw": Way(headers=(("x-mlmodel-draw", "1"), ("x-mlmodel-version", "candidate"))),
}


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("status", [200, 404, 503], ids=str)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_request_that_is_not_drawn_or_not_whole_counts_for_neither_side(run: Run, way: Way, status: int) -> None:
    def reply(request: Message) -> Reply:
        return Reply(200 if request.headers.get("honest") else status)

    async def scenario(setup: Setup) -> None:
        attacker, honest = Client(setup.router.traffic), Client(setup.router.traffic)
        for _ in range(100):
            if way.raw:
                await attacker.send(way.raw)
            else:
                await attacker.post(way.path, dict(way.headers), way.body)
            assert (await honest.post(headers={"honest": "yes"})).status == 200
        attacker.close()
        honest.close()
        expected = candidate(50), stable(50)
        if "deadline" in str(way) or "timeout" in str(way):
            # Drawn, and answered in time it would count: an answer after the deadline is a success or nothing.
            counted, other = await setup.router.tally(50)
            assert (counted["failed"], other["failed"]) == (0, 0)
        else:
            assert await setup.router.tally(50) == expected

    run(scenario, canary(50), a=reply, b=reply)


@pytest.mark.attack(held=True)
def test_a_client_that_sends_more_than_all_others_counts_at_most_50_times_more(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        others = Client(setup.router.traffic, source="127.0.0.2")
        for _ in range(10):
            await others.post()
        crowd = Client(setup.router.traffic, source="127.0.0.3")
        for _ in range(200):
            await crowd.post()
        others.close()
        crowd.close()
        counted, other = await setup.router.tally(50)
        assert counted["requests"] + other["requests"] in range(55, 75)
        assert (await setup.router.counts())["uncounted"]["crowd"] == 210 - counted["requests"] - other["requests"]

    run(scenario, canary(50))


def test_a_client_alone_counts_always(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        await setup.send(1000)
        counted, other = await setup.router.tally(50)
        assert counted["requests"] + other["requests"] == 1000

    run(scenario, canary(50))


@pytest.mark.attack(held=True)
def test_at_most_two_requests_that_choose_the_candidate_are_in_flight(run: Run) -> None:
    hold = asyncio.Event()

    async def scenario(setup: Setup) -> None:
        wish = {"x-mlmodel-version": "candidate"}
        answers = await setup.router.released((post_once(setup, wish) for _ in range(6)), hold, answered=4)
        assert Counter(answer.status for answer in answers) == {200: 2, 503: 4}
        refused = next(answer for answer in answers if answer.status == 503)
        assert "let the router choose" in json.loads(refused.body)["error"]

    run(scenario, canary(50), b=Reply(hold=hold))


@pytest.mark.attack(held=True)
def test_a_version_in_the_path_goes_to_that_version(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        for path, name in {"v1/infer": b"a", "v2/infer": b"b", "v9/infer": b"a", "v2": b"b"}.items():
            for _ in range(10):
                assert (await client.post(f"/v2/models/m/versions/{path}")).body == name
        client.close()

    run(scenario, canary(50))


def test_a_deadline_that_the_candidate_meets_counts_and_so_does_its_failure_before_the_deadline(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        for status in (200, 500):
            setup.b.behave = lambda _, status=status: Reply(status)  # type: ignore[misc]
            for _ in range(10):
                assert (await client.post(headers={"x-mlmodel-timeout-ms": "5000"})).status == 200
        client.close()
        assert await setup.router.tally(100) == (candidate(20, failed=10), stable(0))

    run(scenario, canary(100))


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("deadline", ["0", "1", "1e3", "30s", "", "-5"])
def test_a_deadline_that_nobody_can_meet_counts_for_neither_side(run: Run, deadline: str) -> None:
    async def scenario(setup: Setup) -> None:
        for status in (200, 500, 503):
            setup.b.behave = setup.a.behave = lambda _, status=status: Reply(status, seconds=0.02)  # type: ignore[misc]
            client = Client(setup.router.traffic)
            for _ in range(20):
                await client.post(headers={"x-mlmodel-timeout-ms": deadline})
            client.close()
        counted, others = await setup.router.tally(50)
        assert (counted, others) == (candidate(0), stable(0, left=others["left"]))
        assert others["left"] in range(15, 46)

    run(scenario, canary(50))


@pytest.mark.attack(held=True)
def test_a_short_deadline_counts_what_is_answered_in_time_and_not_what_the_server_sheds(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        for reply in (Reply(), Reply(500), Reply(503, ("x-mlmodel-late: true",)), Reply(seconds=2.2)):
            setup.b.behave = lambda _, reply=reply: reply  # type: ignore[misc]
            posts = (post_once(setup, {"x-mlmodel-timeout-ms": "2000"}) for _ in range(10))
            for answer in await asyncio.gather(*posts):
                assert answer.status == 200
                assert "x-mlmodel-late" not in answer.headers
        assert await setup.router.tally(100) == (candidate(20, failed=10), stable(0))

    run(scenario, canary(100))


@pytest.mark.parametrize("reply", [Reply(503, ("x-mlmodel-late: true",)), Reply(seconds=2.2)], ids=["sheds", "late"])
def test_a_long_deadline_that_is_not_met_is_a_failure_though_it_is_shorter_than_the_limit(
    run: Run, reply: Reply
) -> None:
    async def send(setup: Setup, weight: int) -> None:
        await setup.router.route(canary(weight, patience_ms=100))
        await asyncio.gather(*(post_once(setup, {"x-mlmodel-timeout-ms": "2000"}) for _ in range(100)))

    async def scenario(setup: Setup) -> None:
        await send(setup, 1)
        assert await setup.router.tally(1) == (candidate(1), stable(99, failed=99))
        setup.a.behave, setup.b.behave = setup.b.behave, setup.a.behave
        await send(setup, 100)
        # Stable could answer what the candidate shed: the retry on it has the whole deadline again.
        shared = 100 if reply.seconds else 0
        assert await setup.router.tally(100) == (candidate(100, failed=100, shared=shared), stable(0))

    run(scenario, a=reply)


async def post_once(setup: Setup, headers: dict[str, str]) -> Message:
    """Send a request over a new connection."""
    client = Client(setup.router.traffic)
    answer = await client.post(headers=headers)
    client.close()
    return answer


@pytest.mark.attack(held=True)
def test_a_client_that_resets_its_connection_late_hides_no_failure(run: Run) -> None:
    """HAProxy 3.2 ends some of these requests at once, 3.0 none."""

    async def scenario(setup: Setup) -> None:
        writers = []
        for _ in range(100):
            _, writer = await asyncio.open_connection(*setup.router.traffic)
            writer.write(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: m\r\ncontent-length: 2\r\n\r\n{}")
            writers.append(writer)

        async def stable_answers() -> bool:
            return len(setup.b.requests) == 50 and await setup.router.tally(50) == (candidate(0), stable(50))

        await setup.router.until(stable_answers)
        await asyncio.sleep(0.2)
        for writer in writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

        async def counted() -> bool:
            own, others = await setup.router.tally(50)
            return own["requests"] == own["failed"] == 50 and others == stable(50)

        await setup.router.until(counted)

    run(scenario, canary(50, limit_ms=2_000, patience_ms=150), b=Reply(seconds=60))


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("reply", [Reply(503), Reply(503, ("x-mlmodel-late: true",)), Reply(seconds=60)], ids=range(3))
def test_a_deadline_longer_than_the_limit_of_an_attempt_excuses_nothing(run: Run, reply: Reply) -> None:
    async def scenario(setup: Setup) -> None:
        posts = (post_once(setup, {"x-mlmodel-timeout-ms": "10000"}) for _ in range(10))
        assert {answer.status for answer in await asyncio.gather(*posts)} == {200}
        assert await setup.router.tally(100) == (candidate(10, failed=10), stable(0))

    run(scenario, canary(100, limit_ms=2_000), b=reply)


def test_the_server_learns_what_was_drawn_and_no_client_can_say_so(run: Run) -> None:
    def headers(revision: Revision) -> list[str | None]:
        found = [request.headers.get("x-mlmodel-drawn") for request in revision.requests]
        revision.requests.clear()
        return found

    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        forged = {"x-mlmodel-drawn": "99 b0b0b0b0 candidate"}
        for _ in range(100):
            await client.post(headers=forged)
        assert headers(setup.a) == ["25 b0b0b0b0 stable"] * 75
        assert headers(setup.b) == ["25 b0b0b0b0 candidate"] * 25
        for choice in ("candidate", "stable"):
            await client.post(headers={**forged, "x-mlmodel-version": choice})
        await client.post("/v2/models/m/feedback", forged)
        assert headers(setup.a) + headers(setup.b) == [None] * 3
        setup.b.behave = lambda _: Reply(500)
        for _ in range(100):
            await client.post()
        assert sorted(map(str, headers(setup.a))) == ["25 b0b0b0b0 candidate"] * 25 + ["25 b0b0b0b0 stable"] * 75
        await setup.router.route(STABLE_A)
        await client.post(headers=forged)
        assert headers(setup.a) == [None]

    run(scenario, canary(25))


def test_a_retry_of_the_same_revision_starts_without_the_counts_of_its_last_rollout(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        await setup.send(100)
        await setup.router.route(STABLE_A)
        await setup.router.route(canary(50))
        assert await setup.router.tally(50) == (candidate(0), stable(0))

    run(scenario, canary(50))


def test_what_the_router_sheds_is_a_failure_of_neither_side(run: Run) -> None:
    hold = asyncio.Event()

    async def scenario(setup: Setup) -> None:
        # The answer of the candidate, and what is shed of those to stable.
        answers = await setup.router.released((post_once(setup, {}) for _ in range(100)), hold, answered=1 + 89)
        assert Counter(answer.status for answer in answers) == {200: 11, 503: 89}
        assert await setup.router.tally(1) == (candidate(1), stable(10))

    run(scenario, canary(1), a=Reply(hold=hold), changes={"be_conn gt 1000": "be_conn gt 10"})


@pytest.mark.parametrize("status", [501, 505, 599])
def test_every_failure_of_the_candidate_is_retried(run: Run, status: int) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(20)
        assert Counter((answer.status, answer.body) for answer in answers) == {(200, b"a"): 20}
        assert await setup.router.tally(100) == (candidate(20, failed=20), stable(0))

    run(scenario, canary(100), b=Reply(status))


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("header", ["abc", "200", "400"])
def test_a_server_cannot_forge_its_first_status(run: Run, header: str) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(20)
        assert Counter((answer.status, answer.body) for answer in answers) == {(200, b"a"): 20}
        assert await setup.router.tally(100) == (candidate(20, failed=20), stable(0))
        assert not any("Lua" in line for line in setup.router.log)

    run(scenario, canary(100), b=Reply(500, (f"x-mlmodel-first: {header}",)))


def test_stable_fails_by_the_same_time_limit_as_the_candidate_and_its_answer_is_passed_on(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(100, clients=50)
        assert Counter((answer.status, answer.body) for answer in answers) == {(200, b"a"): 100}
        # The retries on stable took too long as well: these failures are shared.
        assert await setup.router.tally(50) == (candidate(50, failed=50, shared=50), stable(50, failed=50))

    run(scenario, canary(50, limit_ms=200), a=Reply(seconds=0.4), b=Reply(seconds=5))


def test_stable_has_all_the_time_of_the_spec_for_a_request_on_which_the_candidate_hangs(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        answer = (await setup.send(1))[0]
        assert (answer.status, answer.body) == (200, b"a")
        assert await setup.router.tally(100) == (candidate(1, failed=1, shared=1), stable(0))

    changes = {"presetenv MLMODEL_TIMEOUT_SECONDS 60": "presetenv MLMODEL_TIMEOUT_SECONDS 4"}
    run(scenario, canary(100, limit_ms=2_000), a=Reply(seconds=2.1), b=Reply(seconds=60), changes=changes)


@pytest.mark.attack(held=True)
def test_a_slow_upload_is_nobodys_failure(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        head = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: m\r\ncontent-length: 200000\r\n\r\n"
        for size in (10, 66_000):
            client = Client(setup.router.traffic)
            answer = await client.send(head + b" " * size)
            assert answer.status in (400, 408, 504)
            client.close()
        assert await setup.router.tally(50) == (candidate(0), stable(0))
        assert setup.b.requests == []

    changes = {
        "wait-for-body time 15s": "wait-for-body time 300ms",
        "presetenv MLMODEL_TIMEOUT_SECONDS 60": "presetenv MLMODEL_TIMEOUT_SECONDS 1",
        "timeout client 60s": "timeout client 700ms",
    }
    run(scenario, canary(50), changes=changes)


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("header", ["attempt", "copy", "draw", "first", "fallback", "shadow", "version", "x"])
def test_headers_of_ours_are_removed_from_requests(run: Run, header: str) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        for routes in (STABLE_A, canary(50)):
            await setup.router.route(routes)
            for _ in range(20):
                await client.post(headers={f"x-mlmodel-{header}": "1", "x-mlmodel-timeout-ms": "5000"})
        client.close()
        for request in setup.a.requests + setup.b.requests:
            assert f"x-mlmodel-{header}" not in request.headers
            assert request.headers["x-mlmodel-timeout-ms"] == "5000"

    run(scenario)


@pytest.mark.attack(held=True)
def test_a_request_has_the_address_of_its_client_and_not_what_the_client_says(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        for routes in (STABLE_A, canary(50)):
            await setup.router.route(routes)
            for _ in range(20):
                await client.post(headers={"x-mlmodel-client": "10.9.9.9"})
        client.close()
        assert len(setup.b.requests) > 0
        for request in setup.a.requests + setup.b.requests:
            assert request.headers["x-mlmodel-client"].removeprefix("::ffff:") == "127.0.0.1"

    run(scenario)


def test_another_candidate_is_counted_from_zero_and_another_weight_apart(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        await setup.send(100)
        await setup.router.route(canary(25))
        await setup.send(100)
        page = await setup.router.counts()
        assert page["candidate"] == "b0b0b0b0"
        assert page["weights"] == {
            "50": {"candidate": candidate(50), "stable": stable(50)},
            "25": {"candidate": candidate(25), "stable": stable(75)},
        }
        await setup.router.route(canary(25, revision="c0c0c0c0"))
        assert (await setup.router.counts())["weights"] == {"25": {"candidate": candidate(0), "stable": stable(0)}}
        await setup.router.route(STABLE_A)
        page = await setup.router.counts()
        assert (page["candidate"], page["weights"]) == ("", {})

    run(scenario, canary(50))


def test_a_change_of_the_weight_takes_effect_with_the_next_request(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        await setup.send(150)
        await setup.router.route(canary(0))
        assert set(versions(await setup.send(200))) == {"a"}
        await setup.router.route(canary(25))
        assert Counter(versions(await setup.send(100))) == {"a": 75, "b": 25}

    run(scenario, canary(99))


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("routes", "limit"),
    [(STABLE_A, "be_conn gt 1000"), (canary(0), "be_conn gt 1000"), (canary(100), "be_conn gt 500")],
    ids=["one version", "weight 0", "candidate"],
)
def test_more_requests_than_the_memory_holds_are_shed(run: Run, routes: Routes, limit: str) -> None:
    hold = asyncio.Event()

    async def scenario(setup: Setup) -> None:
        answers = await setup.router.released((post_once(setup, {}) for _ in range(20)), hold, answered=10)
        assert Counter(answer.status for answer in answers) == {200: 10, 503: 10}
        shed = next(answer for answer in answers if answer.status == 503)
        assert shed.headers["retry-after"] == "1"
        assert "too many" in json.loads(shed.body)["error"]

    run(scenario, routes, a=Reply(hold=hold), b=Reply(hold=hold), changes={limit: "be_conn gt 10"})


def test_headers_reach_the_model(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        sent = {"traceparent": trace, "tracestate": "x=1", "x-mlmodel-timeout-ms": "250", "authorization": "Bearer k"}
        await client.post(headers=sent)
        client.close()
        assert setup.a.requests[0].headers.items() >= sent.items()

    run(scenario)


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/v2/models/m"])
def test_pages_and_metadata_are_passed_on(run: Run, path: str) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        answer = await client.get(path)
        client.close()
        assert (answer.status, answer.body, setup.a.requests[0].path) == (200, b"a", path)

    run(scenario)


def test_a_whole_rollout_loses_no_request(run: Run, port: int) -> None:
    async def scenario(setup: Setup) -> None:
        load = Load([Client(setup.router.traffic) for _ in range(16)])
        counts: list[dict[str, Any]] = []

        async def rollout() -> None:
            times = []
            for weight in (0, 5, 25, 50, 100):
                times.append(await setup.router.route(canary(weight)))
                await load.progress(300)
            assert min(times) < 0.5, "the router looks at the file several times a second"
            counts.append((await setup.router.counts())["weights"])
            # b is promoted; a is removed, and its slot goes to another revision, which is rolled back.
            await setup.router.route(Routes(ADDRESSES, "b", "a", 0, "a0a0a0a0"))
            await setup.router.route(Routes({"b": ADDRESSES["b"]}, stable="b"))
            await setup.a.__aexit__()
            async with Revision("c", "127.0.0.13", port, Reply(status=500)):
                third: dict[Slot, str] = {"a": "127.0.0.13", "b": ADDRESSES["b"]}
                await setup.router.route(Routes(third, "b", "a", 50, "c0c0c0c0"))
                await load.progress(300)
                counts.insert(0, (await setup.router.counts())["weights"]["50"])
                await setup.router.route(Routes(third, stable="b"))
                await load.turn()
            await load.progress(300)

        await load.during(rollout())
        print(f"{len(load.answers)} requests, {len(load.failures)} failed")
        assert load.failures == []
        assert {"a", "b"} == set(versions(load.answers))
        third, second = counts
        assert third["candidate"]["failed"] == third["candidate"]["requests"] > 0
        assert third["stable"]["requests"] > 0 == third["stable"]["failed"]
        assert second.keys() == {"5", "25", "50", "100"}
        assert all(sides["candidate"]["failed"] == 0 for sides in second.values())

    run(scenario)


def test_a_change_of_routes_does_not_affect_a_request_in_flight(run: Run) -> None:
    hold = asyncio.Event()

    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        slow = asyncio.ensure_future(client.post())

        async def arrived() -> bool:
            return len(setup.a.requests) == 1

        await setup.router.until(arrived)
        await setup.router.route(Routes({"a": "127.0.0.13", "b": ADDRESSES["b"]}, stable="b"))
        assert not slow.done()
        hold.set()
        assert (await slow).body == b"a"
        assert (await client.post()).body == b"b"
        client.close()

    run(scenario, a=Reply(hold=hold))


@dataclass(frozen=True)
class Reuse:
    """A slot that gets the next candidate, c, while a request of a former revision is in flight."""

    chosen: str
    """Side that the request goes to."""
    between: Routes
    """After the promotion or the rollback."""
    slot: Slot
    reply: Reply
    """Of the former revision, which makes the router send the request again."""


V1, V2 = Routes({"a": ADDRESSES["a"]}, "a", labels={"a": "v1"}), Routes({"b": ADDRESSES["b"]}, "b", labels={"b": "v2"})
FAILS, CLOSES = Reply(500), Reply(raw=b"")
REUSES = {
    "a promoted candidate fails": Reuse("candidate", V2, "a", FAILS),
    "a former stable closes the connection": Reuse("stable", V2, "a", CLOSES),
    "a candidate that was rolled back closes the connection": Reuse("candidate", V1, "b", CLOSES),
}


@pytest.mark.parametrize("chooses", [False, True], ids=["drawn", "chosen"])
@pytest.mark.parametrize("reuse", REUSES.values(), ids=REUSES.keys())
def test_a_request_in_flight_is_never_sent_to_the_next_candidate_in_its_slot(
    run: Run, port: int, reuse: Reuse, chooses: bool
) -> None:
    hold = asyncio.Event()

    async def scenario(setup: Setup) -> None:
        former = setup.a if reuse.chosen == "stable" else setup.b
        former.behave = lambda _: replace(reuse.reply, hold=hold) if len(former.requests) == 1 else Reply()
        client = Client(setup.router.traffic)
        slow = asyncio.ensure_future(client.post(headers={"x-mlmodel-version": reuse.chosen} if chooses else {}))

        async def arrived() -> bool:
            return len(former.requests) == 1

        await setup.router.until(arrived)
        await setup.router.route(reuse.between)
        async with Revision("c", "127.0.0.13", port) as third:
            stable_slot: Slot = "b" if reuse.slot == "a" else "a"
            addresses = {**reuse.between.addresses, reuse.slot: "127.0.0.13"}
            labels = {**reuse.between.labels, reuse.slot: "v3"}
            routes = Routes(addresses, stable_slot, reuse.slot, 50, "c0c0c0c0", labels=labels)
            following = asyncio.ensure_future(setup.router.route(routes))
            await asyncio.sleep(0.5)
            # Stable gets all requests meanwhile.
            assert set(versions(await setup.send(20))) == {stable_slot}
            assert not following.done()
            assert not slow.done()
            hold.set()
            await asyncio.wait({slow})
            assert third.requests == []
            await following
            assert await setup.router.tally(50) == (candidate(0), stable(0))
            assert Counter(versions(await setup.send(100))) == {"c": 50, stable_slot: 50}
        client.close()

    weight = 50 if chooses else 100 if reuse.chosen == "candidate" else 0
    run(scenario, canary(weight))


def test_the_next_candidate_waits_only_for_a_request_that_is_in_flight(run: Run, port: int) -> None:
    async def scenario(setup: Setup) -> None:
        await setup.send(50)
        for number in range(1, 4):
            async with Revision("c", f"127.0.0.{20 + number}", port):
                await setup.router.route(Routes({"b": ADDRESSES["b"]}, "b"))
                addresses: dict[Slot, str] = {"a": f"127.0.0.{20 + number}", "b": ADDRESSES["b"]}
                await setup.router.route(Routes(addresses, "b", "a", 50, f"c{number}"))
                assert Counter(versions(await setup.send(100))) == {"b": 50, "c": 50}

    run(scenario, canary(50))


class Endless(Revision):
    """A server whose first response has no end."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await read_message(reader))
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"1\r\n.\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)


def test_a_stream_without_end_does_not_keep_the_next_candidate_for_ever(run: Run, port: int) -> None:
    async def scenario(setup: Setup) -> None:
        async with Endless("d", "127.0.0.14", port) as endless:
            await setup.router.route(Routes({"a": "127.0.0.14"}, "a"))
            reader, writer = await asyncio.open_connection(*setup.router.traffic)
            writer.write(b"GET / HTTP/1.1\r\nhost: m\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            await setup.router.route(Routes({"b": ADDRESSES["b"]}, "b"))
            addresses: dict[Slot, str] = {"a": ADDRESSES["a"], "b": ADDRESSES["b"]}
            took = await setup.router.route(Routes(addresses, "b", "a", 50, "c0c0c0c0"))
            assert took > 1.5, "the stream had the time of a request"
            await asyncio.wait_for(reader.read(), 60)  # it is closed
            writer.close()
            assert len(endless.requests) == 1
        assert Counter(versions(await setup.send(100))) == {"a": 50, "b": 50}

    run(scenario, changes={"presetenv MLMODEL_TIMEOUT_SECONDS 60": "presetenv MLMODEL_TIMEOUT_SECONDS 1"})


def test_a_service_with_a_new_address_gets_its_requests_at_once(run: Run, port: int) -> None:
    hold = asyncio.Event()

    async def scenario(setup: Setup) -> None:
        slow = asyncio.ensure_future(Client(setup.router.traffic).post())

        async def arrived() -> bool:
            return len(setup.a.requests) == 1

        await setup.router.until(arrived)
        async with Revision("a", "127.0.0.13", port):
            moved: dict[Slot, str] = {"a": "127.0.0.13", "b": ADDRESSES["b"]}
            routes = replace(canary(1), addresses=moved)
            await setup.router.route(routes)
            assert Counter(versions(await setup.send(100))) == {"a": 99, "b": 1}
            assert not slow.done()
            hold.set()
            assert (await slow).body == b"a"

    run(scenario, canary(1), a=Reply(hold=hold))


def test_the_time_that_stable_takes_is_not_that_of_an_earlier_revision_in_its_slot(run: Run, port: int) -> None:
    async def scenario(setup: Setup) -> None:
        await setup.send(100, clients=100)
        assert 1_900 <= (await setup.router.counts())["stable_ms"] <= 5_000
        await setup.router.route(Routes({"b": ADDRESSES["b"]}, "b"))
        async with Revision("c", "127.0.0.13", port):
            both: dict[Slot, str] = {"a": "127.0.0.13", "b": ADDRESSES["b"]}
            await setup.router.route(Routes(both, "b", "a", 50, "c0c0c0c0"))
            await setup.router.route(Routes({"a": "127.0.0.13"}, "a"))
            # No request yet: nothing is known.
            assert (await setup.router.counts())["stable_ms"] == 0
            await setup.send(40, clients=1)
            # With the requests before, it would be at least 1.4 s.
            assert (await setup.router.counts())["stable_ms"] <= 700

    run(scenario, a=Reply(seconds=2))


UPGRADES = {
    "WebSocket": b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "HTTP/2, as Java's client offers": b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
    b"http2-settings: AAEAAEAA\r\n",
    "something else": b"connection: upgrade\r\nupgrade: TLS/1.2\r\n",
}


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("offer", UPGRADES.values(), ids=UPGRADES.keys())
def test_an_offer_of_another_protocol_is_ignored(run: Run, offer: bytes) -> None:
    async def scenario(setup: Setup) -> None:
        for routes in (STABLE_A, canary(50), canary(100)):
            await setup.router.route(routes)
            client = Client(setup.router.traffic)
            for _ in range(4):
                head = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: m\r\ncontent-length: 2\r\n"
                answer = await client.send(head + offer + b"\r\n{}")
                assert (answer.status, answer.body in (b"a", b"b")) == (200, True)
            client.close()
        for request in setup.a.requests + setup.b.requests:
            assert request.body == b"{}"
            assert "upgrade" not in request.headers

    run(scenario)


@pytest.mark.parametrize(("headers", "size"), [(90, 1), (98, 1), (99, 1), (100, 1), (101, 1), (3, 23_330)])
def test_no_request_is_too_large_for_the_candidate_alone(run: Run, headers: int, size: int) -> None:
    """Its own proxy reads a request again, with one header more."""

    async def scenario(setup: Setup) -> None:
        seen = []
        for routes in (canary(1), canary(99)):
            await setup.router.route(routes)
            for more in range(0, 60 if size > 1 else 1, 3):
                lines = b"".join(b"x-%d: 1\r\n" % number for number in range(headers - 3))
                lines += b"x-large: " + b"a" * (size + more) + b"\r\n"
                client = Client(setup.router.traffic)
                try:
                    head = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: m\r\ncontent-length: 2\r\n"
                    seen.append((more, (await client.send(head + lines + b"\r\n{}")).status))
                except (ConnectionError, asyncio.IncompleteReadError):
                    seen.append((more, 0))
                client.close()
        assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]
        assert {status for _, status in seen} <= {200, 400, 0}
        own, others = await setup.router.tally(99)
        assert (own["failed"], others["failed"]) == (0, 0)

    run(scenario)


@pytest.mark.attack(held=True)
def test_http_2_is_drawn_by_the_same_rules_and_its_path_must_be_ascii(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        address, length = setup.router.traffic, ((b"content-length", b"2"),)
        for routes in (STABLE_A, canary(1), canary(99), canary(100)):
            await setup.router.route(routes)
            before = len(setup.a.requests) + len(setup.b.requests)
            for path in (b"/v2/mod\xe9ls/m/infer", b"/v2/models/m/infer?\xff"):
                assert b"must be encoded" in await http2(address, path, headers=length, body=b"{}")
            assert len(setup.a.requests) + len(setup.b.requests) == before
        await setup.router.route(canary(50))
        answers = await asyncio.gather(
            *(http2(address, INFER.encode(), headers=length, body=b"{}") for _ in range(100))
        )
        assert Counter(answer.count(b"a") > answer.count(b"b") for answer in answers).keys() == {True, False}
        assert await setup.router.tally(50) == (candidate(50), stable(50))
        for _ in range(3):  # without a length
            await http2(address, INFER.encode(), body=b"{}")
        assert await setup.router.tally(50) == (candidate(50), stable(50))
        assert (await setup.router.counts())["uncounted"] == {**UNCOUNTED, "large": 3}

    run(scenario)


def test_a_server_that_closes_idle_connections_fails_no_request(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        load = Load([Client(setup.router.traffic) for _ in range(16)], pause=0)
        await load.during(asyncio.sleep(2))
        assert load.failures == []

    count = iter(range(10**9))
    run(scenario, a=lambda _: Reply(close=next(count) % 3 == 0))


def test_a_candidate_that_closes_idle_connections_has_no_failure(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        load = Load([Client(setup.router.traffic) for _ in range(16)], pause=0)
        await load.during(asyncio.sleep(2))
        assert load.failures == []
        counted, _ = await setup.router.tally(100)
        assert counted == candidate(len(load.answers))

    count = iter(range(10**9))
    run(scenario, canary(100), b=lambda _: Reply(close=next(count) % 3 == 0))


def test_new_connections_wait_for_a_stable_that_is_down_for_half_of_the_attempts(run: Run, port: int) -> None:
    """In five attempts; the pause between them, 200 ms, is longer here, so that a busy machine has the time."""

    async def scenario(setup: Setup) -> None:
        load = Load([Client(setup.router.traffic) for _ in range(16)], keep_alive=False)

        async def restart() -> None:
            await load.progress(100)
            await setup.a.__aexit__()
            await asyncio.sleep(2.5)
            async with Revision("a", ADDRESSES["a"], port):
                await load.turn()
                await load.stop()

        await load.during(restart())
        assert load.failures == []

    run(scenario, changes={"timeout connect 200ms": "timeout connect 1s"})


def test_connections_are_closed_after_about_500_requests_so_that_they_spread_over_new_pods(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        await setup.router.until(setup.router.is_ready)

        async def was_tried() -> bool:
            return setup.a.connections == 1

        await setup.router.until(was_tried)
        before = setup.a.connections
        client = Client(setup.router.traffic)
        for _ in range(3000):
            answer = await client.post()
            # The client's connection to the router stays open.
            assert (answer.status, answer.headers.get("connection")) == (200, None)
        client.close()
        closed = sum(request.headers.get("connection") == "close" for request in setup.a.requests)
        assert 1 <= closed <= 25
        assert setup.a.connections - before == closed + 1

    run(scenario)


async def deselected(load: Load, second: Router) -> None:
    """Let the Service no longer select the first router: new connections reach the second."""
    for client in load.clients:
        client.address = second.traffic
    await load.turn()  # the first has accepted what it got before


def test_a_soft_stop_under_load_loses_no_request(run: Run, tmp_path: Path) -> None:
    async def scenario(setup: Setup) -> None:
        async with Router(tmp_path / "second") as second:
            await second.route(STABLE_A)
            clients = [Client(setup.router.traffic) for _ in range(16)]
            idle = Client(setup.router.traffic)
            await idle.post()
            load = Load(clients, pause=0.001)

            async def stop() -> None:
                await load.progress(300)
                await deselected(load, second)
                setup.router.process.send_signal(signal.SIGUSR1)
                await setup.router.until(setup.router.is_closed)
                # A request on an idle connection is still answered, with `connection: close`.
                answer = await idle.post()
                assert (answer.status, answer.headers["connection"]) == (200, "close")
                assert await setup.router.exits() == 0

            await load.during(stop())
            print(f"{len(load.answers)} requests, {len(load.failures)} failed")
            assert load.failures == []
            assert len(setup.a.requests) >= len(load.answers)

    run(scenario)


@pytest.mark.parametrize("weight", [50, 100])
def test_a_soft_stop_in_a_rollout_loses_no_request_of_an_idle_connection(run: Run, weight: int) -> None:
    """The candidate is reached through proxies of the same process, which accept no more."""

    async def scenario(setup: Setup) -> None:
        idle = [Client(setup.router.traffic) for _ in range(40)]
        for client in idle:
            assert (await client.post()).status == 200
        before = len(setup.b.requests)
        assert before > 0
        setup.router.process.send_signal(signal.SIGUSR1)
        await setup.router.until(setup.router.is_closed)
        for client in idle:
            answer = await client.post()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert len(setup.b.requests) == before, "a router that stops draws no request"
        assert await setup.router.exits() == 0

    run(scenario, canary(weight), supervised=True)


@pytest.mark.parametrize("weight", [25, 100])
def test_a_soft_stop_loses_no_request_that_the_candidate_fails(
    run: Run, tmp_path: Path, version: str, weight: int
) -> None:
    """A request that was drawn before the stop is retried through a proxy of the same process: it must still accept."""

    async def scenario(setup: Setup) -> None:
        async with Router(tmp_path / "second", version=version) as second:
            await second.route(STABLE_A)
            clients = [Client(setup.router.traffic) for _ in range(32)]
            load = Load(clients, pause=0)

            async def stop() -> None:
                async def is_failing() -> bool:
                    return len(setup.b.requests) > 20

                await setup.router.until(is_failing)
                await deselected(load, second)
                setup.router.process.send_signal(signal.SIGUSR1)
                started = time.monotonic()
                assert await setup.router.exits() == 0
                print(f"stopped after {time.monotonic() - started:.2f} s")
                await load.turn()

            await load.during(stop())
            print(f"{len(load.answers)} requests, {len(load.failures)} failed, the candidate {len(setup.b.requests)}")
            assert load.failures == []

    failing = Reply(status=500, seconds=0.1)  # so that many requests are in flight when the router stops
    run(scenario, canary(weight), b=failing, supervised=True)


def test_a_soft_stop_loses_no_request_while_the_candidate_stands_in_for_stable(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        await setup.a.__aexit__()
        idle = [Client(setup.router.traffic) for _ in range(10)]
        for client in idle:
            assert (await client.post()).body == b"b"
        setup.router.process.send_signal(signal.SIGUSR1)
        await setup.router.until(setup.router.is_closed)
        for client in idle:
            answer = await client.post()
            assert (answer.status, answer.body) == (200, b"b")
        assert await setup.router.exits() == 0

    run(scenario, canary(100), supervised=True)


VERSION_2 = "/v2/models/m/versions/v2/infer"
OPEN = replace(canary(0), sides=Sides(is_open=True))


@pytest.mark.parametrize("routes", [canary(25), canary(100), OPEN], ids=["25", "100", "0 and open"])
def test_a_router_that_stops_sends_a_request_to_the_version_that_it_names(run: Run, routes: Routes) -> None:
    """Before and after the signal: stable does not know the candidate's version, and answers 404."""

    async def scenario(setup: Setup) -> None:
        ways: list[tuple[str, dict[str, str], bytes]] = [
            (VERSION_2, {}, b"b"),
            ("/v2/models/m/infer", {"x-mlmodel-version": "candidate"}, b"b"),
            ("/v2/models/m/versions/v1/infer", {}, b"a"),
            ("/v2/models/m/infer", {"x-mlmodel-version": "stable"}, b"a"),
        ]
        answers: list[Counter[tuple[int, bytes]]] = [Counter() for _ in ways]

        async def drive(path: str, headers: dict[str, str], found: Counter[tuple[int, bytes]]) -> None:
            """Send requests over one connection, the last of them after the signal."""
            client, is_last = Client(setup.router.traffic), False
            while not is_last:
                answer = await client.post(path, headers)
                found[answer.status, answer.body] += 1
                is_last = answer.headers.get("connection") == "close"

        drivers = [
            asyncio.ensure_future(drive(path, headers, found))
            for (path, headers, _), found in zip(ways, answers, strict=True)
        ]

        async def are_served() -> bool:
            return all(found.total() > 2 for found in answers)

        await setup.router.until(are_served)
        setup.router.process.send_signal(signal.SIGUSR1)
        assert await setup.router.exits() == 0
        await asyncio.gather(*drivers)
        print(answers)
        for (_, _, side), found in zip(ways, answers, strict=True):
            assert set(found) == {(200, side)}

    run(scenario, routes, a=Reply(seconds=0.02), b=Reply(seconds=0.05), supervised=True)


def test_a_router_that_stops_still_retries_a_request_that_chose_the_candidate_before(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        choice = {"x-mlmodel-version": "candidate"}
        pending = asyncio.ensure_future(Client(setup.router.traffic).post(headers=choice))

        async def arrived() -> bool:
            return len(setup.b.requests) == 1

        await setup.router.until(arrived)
        setup.router.process.send_signal(signal.SIGUSR1)
        answer = await pending
        assert (answer.status, answer.body, answer.headers["x-mlmodel-fallback"]) == (200, b"a", "true")
        assert await setup.router.exits() == 0

    run(scenario, canary(25), b=Reply(500, seconds=1), supervised=True)


@pytest.mark.attack
def test_while_a_router_stops_at_most_two_requests_that_choose_the_candidate_are_in_flight(run: Run) -> None:
    """Clients must not overload the candidate through it, so that requests that other routers draw fail."""

    hold = asyncio.Event()

    async def scenario(setup: Setup) -> None:
        await setup.router.begin_stop()
        clients = [Client(setup.router.traffic) for _ in range(10)]
        answers = await setup.router.released((client.post(VERSION_2) for client in clients), hold, answered=8)
        assert Counter(answer.status for answer in answers) == {200: 2, 503: 8}
        assert any(b"too many requests choose this version" in answer.body for answer in answers)
        await setup.send(20)
        assert (len(setup.a.requests), len(setup.b.requests)) == (20, 2)
        page = await setup.router.counts()
        assert (page["weights"], page["uncounted"]) == (
            {"25": {"candidate": candidate(0), "stable": stable(0)}},
            UNCOUNTED | {"chosen": 10},
        )
        # While the candidate bakes, or stands in for stable, nothing is drawn that could be condemned.
        await setup.router.route(canary(100))
        answers = await asyncio.gather(*(client.post(VERSION_2) for client in clients))
        assert {(answer.status, answer.body) for answer in answers} == {(200, b"b")}

    run(scenario, canary(25), b=Reply(hold=hold))


def test_a_router_stops_though_a_request_to_the_candidate_does_not_end(run: Run) -> None:
    hold = asyncio.Event()

    async def scenario(setup: Setup) -> None:
        pending = asyncio.ensure_future(Client(setup.router.traffic).post())

        async def arrived() -> bool:
            return len(setup.b.requests) == 1

        await setup.router.until(arrived)
        setup.router.process.send_signal(signal.SIGUSR1)
        started = time.monotonic()
        await setup.router.until(setup.router.is_closed)
        assert time.monotonic() - started > 4
        assert not pending.done()
        hold.set()
        assert (await pending).status == 200
        assert await setup.router.exits() == 0

    run(scenario, canary(100), b=Reply(hold=hold), supervised=True)


@dataclass
class Pair:
    """A router of two processes, as in a pod, and a revision."""

    router: Router
    a: Revision


@pytest.fixture
def pair(tmp_path: Path, port: int, version: str) -> Run:
    """``pair(scenario)`` sets up a supervised router and one revision, and awaits ``scenario(pair)``."""

    def start(scenario: Callable[[Pair], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with (
                Revision("a", ADDRESSES["a"], port, Reply(seconds=0.005)) as first,
                Router(tmp_path / "router", version=version, supervised=True) as router,
            ):
                await router.route(STABLE_A)
                await scenario(Pair(router, first))

        asyncio.run(main())

    return start


def test_a_router_process_that_is_killed_loses_only_its_requests_in_flight_and_is_started_again(pair: Run) -> None:
    async def scenario(setup: Pair) -> None:
        clients = [Client(setup.router.traffic) for _ in range(16)]
        load = Load(clients, pause=0.005)
        boots = {(await setup.router.counts())["boot"]}

        async def kill() -> None:
            for _ in range(5):
                await load.progress(60)
                victim = setup.router.processes()[0]
                os.kill(victim, signal.SIGKILL)

                async def restarted(victim: int = victim) -> bool:
                    now = setup.router.processes()
                    return len(now) == 2 and victim not in now

                await setup.router.until(restarted)
                await setup.router.until(setup.router._live)  # the other one may be the next

        await load.during(kill())
        boots.add((await setup.router.counts())["boot"])
        print(f"{len(load.answers)} requests, {len(load.failures)} failed, 16 in flight at most at each of 5 kills")
        assert all("503" not in failure and "refused" not in failure for failure in load.failures)
        assert len(load.failures) <= 5 * 16

    pair(scenario)


def test_a_router_of_two_processes_stops_after_its_requests(pair: Run) -> None:
    async def scenario(setup: Pair) -> None:
        hold = asyncio.Event()
        setup.a.behave = lambda _: Reply(hold=hold)
        clients = [Client(setup.router.traffic) for _ in range(8)]
        pending = [asyncio.ensure_future(client.post()) for client in clients]

        async def arrived() -> bool:
            return len(setup.a.requests) == 8

        await setup.router.until(arrived)
        setup.router.process.send_signal(signal.SIGUSR1)
        await setup.router.until(setup.router.is_closed)
        await asyncio.sleep(0.3)  # in which it must not end them
        hold.set()
        assert {answer.status for answer in await asyncio.gather(*pending)} == {200}
        assert await setup.router.exits() == 0
        assert setup.router.processes() == []

    pair(scenario)


def test_a_router_that_cannot_write_its_file_for_a_stop_still_answers_the_requests_in_flight(pair: Run) -> None:
    """As with a full volume: the signal is sent at once."""

    async def scenario(setup: Pair) -> None:
        for number in "12":
            (setup.router.folder / f"stop-{setup.router.status[1]}{number}").mkdir()
        hold = asyncio.Event()
        setup.a.behave = lambda _: Reply(hold=hold)
        clients = [Client(setup.router.traffic) for _ in range(8)]
        pending = [asyncio.ensure_future(client.post()) for client in clients]

        async def arrived() -> bool:
            return len(setup.a.requests) == 8

        await setup.router.until(arrived)
        setup.router.process.send_signal(signal.SIGUSR1)
        await setup.router.until(setup.router.is_closed)
        await asyncio.sleep(0.3)
        assert not any(answer.done() for answer in pending)
        hold.set()
        assert {answer.status for answer in await asyncio.gather(*pending)} == {200}
        assert await setup.router.exits() == 0
        assert setup.router.processes() == []

    pair(scenario)


def test_a_wrong_configuration_ends_the_router(tmp_path: Path) -> None:
    for name in ("haproxy.cfg", "router.sh"):
        (tmp_path / name).write_text(router_files()[name])
    with (tmp_path / "haproxy.cfg").open("a") as file:
        file.write("nonsense\n")
    program = " ".join(haproxy.program("shipped"))
    (tmp_path / "haproxy").write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    (tmp_path / "haproxy").chmod(0o755)
    done = subprocess.run(
        ["sh", str(tmp_path / "router.sh")],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "MLMODEL_ROUTES": "none"},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode in (1, 138)  # 138: the signal to stop came to the other process before its error
    assert b"found in configuration file" in done.stderr


BOTH = "id 1\nslot a 127.0.0.12 80\nslot b 127.0.0.12 80\nstable a\n"


async def rejected_once(setup: Setup) -> str:
    """Wait until the router logs that it does not follow the routes file, and return that only line."""

    def warnings() -> list[str]:
        return [line for line in setup.router.log if "routes file rejected" in line]

    async def warned() -> bool:
        return bool(warnings())

    await setup.router.until(warned)
    await asyncio.sleep(0.5)  # two more polls, which must not log again
    (warning,) = warnings()
    return warning


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "doesn't begin with an id"),
        ("slot a 127.0.0.12 80\n", "doesn't begin with an id"),
        ("id 1\nslot a 127.0.0.12 80\nstable b\n", "slot without an address"),
        ("id 1\nslot a 127.0.0.12 80\nstable a\ncandidate a 5 b0 9 9\n", "other slot"),
        ("id 1\nslot a 127.0.0.12 80\nstable a\ncandidate b 101 b0 9 9\n", "not understood"),
        ("id 1\nslot a 127.0.0.12 80\nstab", "not understood"),
        ("id 1\nslot a 127.0.0.12 80\nstable a", "its end is missing"),
        ("id 1\nslot a 999.0.0.1 80\nstable a\n", "no such address"),
        ("id 1\nslot a 127.0.0.12 80\nstable a\n<?xml\n", "not understood"),
        ("id 1\nslot a 127.0.0.12 80\nslot b 999.0.0.1 80\nstable a\n", "no such address"),
        ("id 1\nslot b 127.0.0.12 80\nslot a 999.0.0.1 80\nstable b\n", "no such address"),
        ("id 1\nslot a 127.0.0.12 99999\nstable a\n", "not understood"),
        ("id 1\nslot a 127.0.0.12 0\nstable a\n", "not understood"),
        ("id 1\nslot a 127.0.0.12 80\nstable a\0\n", "not understood"),
        (f"id {'1' * 30_000}\nslot a 127.0.0.12 80\nstable a\n", "doesn't begin with an id"),
        (f"{BOTH}candidate b 5 {'b' * 30_000} 9 9\n", "not understood"),
        (f"{BOTH}candidate b 5 b0 {'9' * 400} 9\n", "not understood"),
        (f"{BOTH}candidate b 5 b0 9 {'9' * 20}\n", "not understood"),
        (f"{BOTH}candidate b {'9' * 20} b0 9 9\n", "not understood"),
    ],
)
def test_an_invalid_routes_file_is_ignored_and_logged_once(run: Run, text: str, reason: str) -> None:
    async def scenario(setup: Setup) -> None:
        setup.router.write(text)
        assert reason in await rejected_once(setup)
        assert (await setup.router.counts())["id"] == STABLE_A.id()
        assert set(versions(await setup.send(20))) == {"a"}
        await setup.router.route(canary(100))
        assert set(versions(await setup.send(20))) == {"b"}

    run(scenario)


def test_routes_that_cannot_be_applied_are_tried_again_and_logged_once(run: Run, tmp_path: Path) -> None:
    changes, fails = failing(tmp_path, "core.set_map")

    async def scenario(setup: Setup) -> None:
        fails.touch()
        setup.router.write(canary(100).text())
        assert "not now" in await rejected_once(setup)
        assert set(versions(await setup.send(20))) == {"a"}
        fails.unlink()
        await setup.router.confirmed(canary(100))
        assert set(versions(await setup.send(20))) == {"b"}

    run(scenario, changes=changes)


def test_a_missing_routes_file_changes_nothing(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        (setup.router.folder / "routes").unlink()
        await asyncio.sleep(0.5)  # two polls
        assert set(versions(await setup.send(20))) == {"a"}
        await setup.router.route(canary(100))

    run(scenario)


@pytest.mark.attack(held=True)
def test_metrics_are_served_only_on_the_status_port(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        for path in ("/metrics", "/metrics/", "/metrics?name[]=x", "/%6detrics"):
            answer = await client.get(path)
            assert (answer.status, "not public" in json.loads(answer.body)["error"]) == (404, True), path
        client.close()
        assert b"haproxy_process_" in (await setup.router.get("/metrics")).body
        assert (await setup.router.get("/other")).status == 404
        assert setup.a.requests == []

    run(scenario)


@pytest.mark.attack(held=True)
def test_a_request_whose_body_does_not_arrive_gets_408_as_json(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        answer = await client.send(b"POST /predict HTTP/1.1\r\nhost: m\r\ncontent-length: 5\r\n\r\n12")
        client.close()
        assert (answer.status, json.loads(answer.body)) == (408, {"error": "The request did not arrive in time."})
        assert setup.a.requests == []

    run(scenario, changes={"wait-for-body time 15s": "wait-for-body time 200ms"})


def test_a_request_on_which_stable_hangs_gets_504(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        answer = (await setup.send(1))[0]
        assert (answer.status, json.loads(answer.body)) == (504, {"error": "The model did not answer in time."})
        assert len(setup.a.requests) == 1

    run(
        scenario,
        a=Reply(seconds=60),
        changes={"presetenv MLMODEL_TIMEOUT_SECONDS 60": "presetenv MLMODEL_TIMEOUT_SECONDS 1"},
    )


def test_memory_stays_small_under_load(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        load = Load([Client(setup.router.traffic) for _ in range(8)], pause=0)
        await load.during(asyncio.sleep(2))
        resident = setup.router.resident_kib()
        print(f"{len(load.answers)} requests, resident {resident / 1024:.1f} MiB")
        assert load.failures == []
        assert resident <= 28 * 1024  # HAProxy 3.2 itself has 24 MiB

    run(scenario, canary(25), b=Reply(status=500))


@pytest.mark.attack
def test_routes_that_the_operator_wrote_on_the_pod_win_over_the_config_map(run: Run) -> None:
    """Anyone who may write ConfigMaps can change that one, and freeze it; the annotations of a pod they cannot."""

    async def scenario(setup: Setup) -> None:
        router, mine = setup.router, canary(0)

        async def follows(identity: str) -> bool:
            return bool((await router.counts())["id"] == identity)

        # A pod that starts while no operator runs follows the ConfigMap; a missing annotation is an empty file.
        router.assign("")
        await router.route(STABLE_A)
        router.assign(mine.text())
        await router.until(lambda: follows(mine.id()))
        router.write(Routes({**ADDRESSES, "a": "127.0.0.99"}, stable="b").text())
        assert set(versions(await setup.send(50))) == {"a"}
        # Not even when the annotation is removed.
        router.assign("")
        await asyncio.sleep(0.5)
        assert set(versions(await setup.send(50))) == {"a"}
        assert await follows(mine.id())
        router.assign(STABLE_A.text())
        await router.until(lambda: follows(STABLE_A.id()))

    run(scenario, routes=None)
