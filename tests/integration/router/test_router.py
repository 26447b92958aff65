"""The router: HAProxy with the shipped configuration, between sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hack.ports import free_port
from mlmodel_operator.api.status import Slot
from mlmodel_operator.rollout import routes as routes_module
from mlmodel_operator.rollout.routes import Routes
from tests.integration.router.loopback import Client, Load, Message, Reply, Revision, versions
from tests.integration.router.routers import ADDRESSES, STABLE_A, Router, Zeros, canary


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
def run(tmp_path: Path, port: int) -> Run:
    """``run(scenario, …)`` sets up a router and revisions, and awaits ``scenario(setup)``."""

    def start(
        scenario: Callable[[Setup], Coroutine[Any, Any, None]],
        routes: Routes | None = STABLE_A,
        a: Reply | Callable[[Message], Reply] | None = None,
        b: Reply | Callable[[Message], Reply] | None = None,
        changes: dict[str, str] | None = None,
        listening: bool = True,
    ) -> None:
        async def main() -> None:
            async with AsyncExitStack() as stack:
                first = await stack.enter_async_context(Revision("a", ADDRESSES["a"], port, a))
                second = Revision("b", ADDRESSES["b"], port, b)
                if listening:
                    await stack.enter_async_context(second)
                router = await stack.enter_async_context(Router(tmp_path / "router", changes or {}))
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
        assert await setup.router.counts() == {"id": "", "slots": {"a": Zeros, "b": Zeros}}
        await setup.router.route(Routes())
        assert (await setup.router.get("/ready")).status == 200
        assert (await setup.send(1))[0].status == 503
        await setup.router.route(STABLE_A)
        assert (await setup.send(1))[0].status == 200

    run(scenario, routes=None)


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
        slots = (await setup.router.counts())["slots"]
        assert slots == {"a": {**Zeros, "requests": 3600}, "b": {**Zeros, "requests": 400}}
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
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(200)
        assert Counter((answer.status, answer.body) for answer in answers) == {(200, b"a"): 200}
        assert sum(answer.headers.get("x-mlmodel-fallback") == "true" for answer in answers) == 50
        slots = (await setup.router.counts())["slots"]
        assert slots["b"] == {"requests": 50, "failed": 50, "fallbacks": 50}
        assert slots["a"] == {**Zeros, "requests": 150}
        assert len(setup.b.requests) == (50 if reply else 0)

    run(
        scenario,
        canary(25),
        b=reply,
        listening=reply is not None,
        changes={"timeout server 10s": "timeout server 300ms"},
    )


def test_a_hanging_candidate_fails_even_if_its_clients_disconnect(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        async def disconnect() -> None:
            client = Client(setup.router.traffic)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.post(), 0.1)
            client.close()

        await asyncio.gather(*(disconnect() for _ in range(10)))

        async def counted() -> bool:
            return bool((await setup.router.counts())["slots"]["b"] == {"requests": 10, "failed": 10, "fallbacks": 10})

        await setup.router.until(counted)

    run(scenario, canary(100), b=Reply(seconds=60), changes={"timeout server 10s": "timeout server 500ms"})


def test_requests_are_retried_on_stable_while_baking_at_weight_100(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        assert Counter(versions(await setup.send(100))) == {"a": 50, "b": 50}
        assert (await setup.router.counts())["slots"]["b"] == {"requests": 100, "failed": 50, "fallbacks": 50}

    statuses = iter([500, 200] * 50)
    run(scenario, canary(100), b=lambda _: Reply(status=next(statuses)))


def test_a_body_that_fits_the_buffer_is_retried_and_for_a_larger_one_the_failure_is_passed_on(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        body = os.urandom(60_000)
        answer = await client.post(body=body)
        assert (answer.status, answer.body) == (200, b"a")
        assert setup.a.requests[0].body == setup.b.requests[0].body == body
        answer = await client.post(body=os.urandom(400_000))
        assert (answer.status, answer.body) == (500, b"b")
        assert (await setup.router.counts())["slots"]["b"] == {"requests": 2, "failed": 2, "fallbacks": 1}
        client.close()

    run(scenario, canary(100), b=Reply(status=500))


def test_a_request_that_both_versions_fail_is_sent_to_each_once_and_the_failure_is_passed_on(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        answer = (await setup.send(1))[0]
        assert (answer.status, answer.body, answer.headers["x-mlmodel-fallback"]) == (500, b"a", "true")
        assert (len(setup.a.requests), len(setup.b.requests)) == (1, 1)
        assert (await setup.router.counts())["slots"]["b"] == {"requests": 1, "failed": 1, "fallbacks": 1}

    run(scenario, canary(100), a=Reply(status=500), b=Reply(status=500))


def test_when_no_version_can_be_reached_the_router_returns_an_error_and_counts_it(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        await setup.a.__aexit__()
        answers = await setup.send(20)
        assert {answer.status for answer in answers} <= {502, 503}
        assert all("error" in json.loads(answer.body) for answer in answers)
        assert all("x-mlmodel-fallback" not in answer.headers for answer in answers)
        slots = (await setup.router.counts())["slots"]
        assert slots["b"] == {"requests": 20, "failed": 20, "fallbacks": 0}

    run(scenario, canary(100), listening=False)


def test_client_errors_are_passed_on_and_are_not_failures(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(100)
        assert Counter(answer.status for answer in answers) == {200: 75, 400: 25}
        assert (await setup.router.counts())["slots"]["b"] == {**Zeros, "requests": 25}

    run(scenario, canary(25), b=Reply(status=400))


def rejects(status: int) -> Callable[[Message], Reply]:
    """Return the behaviour of our server for a request that it rejects."""

    def behave(request: Message) -> Reply:
        if request.headers.get("x-mlmodel-attempt") == "own":
            return Reply(503, (f"x-mlmodel-refused: {status}",))
        return Reply(status)

    return behave


@pytest.mark.parametrize("status", [400, 429])
def test_a_request_that_only_the_candidate_rejects_is_retried_on_stable_and_is_a_failure(run: Run, status: int) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(100)
        assert Counter((answer.status, answer.body) for answer in answers) == {(200, b"a"): 100}
        assert sum(answer.headers.get("x-mlmodel-fallback") == "true" for answer in answers) == 25
        slots = (await setup.router.counts())["slots"]
        assert slots == {"a": {**Zeros, "requests": 75}, "b": {"requests": 25, "failed": 25, "fallbacks": 25}}
        attempts = Counter(request.headers.get("x-mlmodel-attempt") for request in setup.a.requests)
        assert attempts == {None: 75, "other": 25}

    run(scenario, canary(25), b=rejects(status))


@pytest.mark.parametrize("status", [400, 429])
def test_a_request_that_both_versions_reject_gets_the_response_of_stable_and_is_not_a_failure(
    run: Run, status: int
) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(100)
        assert Counter((answer.status, answer.body) for answer in answers) == {(status, b"a"): 100}
        assert not any(answer.headers.keys() & {"x-mlmodel-fallback", "x-mlmodel-refused"} for answer in answers)
        slots = (await setup.router.counts())["slots"]
        assert slots == {"a": {**Zeros, "requests": 75}, "b": {**Zeros, "requests": 25}}

    run(scenario, canary(25), a=rejects(status), b=rejects(status))


@pytest.mark.parametrize("status", [400, 429])
def test_a_rejection_of_a_request_that_cannot_be_retried_is_passed_on_with_its_status(run: Run, status: int) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        answer = await client.post(body=os.urandom(400_000))
        client.close()
        assert (answer.status, answer.body) == (status, b"b")
        assert "x-mlmodel-refused" not in answer.headers
        assert setup.a.requests == []
        assert (await setup.router.counts())["slots"]["b"] == {**Zeros, "requests": 1}

    run(scenario, canary(100), b=rejects(status))


def test_a_client_cannot_send_the_attempt_header_to_stable(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        answer = await client.post(headers={"x-mlmodel-attempt": "own"})
        client.close()
        assert answer.status == 400
        assert (await setup.router.counts())["slots"]["a"] == {**Zeros, "requests": 1}

    run(scenario, a=rejects(400))


def test_errors_of_stable_are_passed_on_and_never_retried_on_the_candidate(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(100)
        assert Counter(answer.status for answer in answers) == {200: 25, 500: 75}
        assert len(setup.a.requests) == 75
        assert len(setup.b.requests) == 25
        assert (await setup.router.counts())["slots"]["a"] == {"requests": 75, "failed": 75, "fallbacks": 0}

    run(scenario, canary(25), a=Reply(status=500))


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/m/feedback",
        "/v2/models/m/feedback/",
        "/v2/models/m/versions/v1/feedback?x=1",
        "/v2/models/m/feedb%61ck",
    ],
)
@pytest.mark.parametrize("reply", [Reply(status=500), Reply(raw=b"")], ids=["500", "closed"])
def test_feedback_is_never_sent_twice(run: Run, reply: Reply, path: str) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(4, path=path)
        assert {answer.status for answer in answers} <= {500, 502}
        assert len(setup.b.requests) == 4
        assert setup.a.requests == []
        assert (await setup.router.counts())["slots"]["b"] == {"requests": 4, "failed": 4, "fallbacks": 0}

    run(scenario, canary(100), b=reply)


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


def test_more_requests_than_the_memory_holds_are_shed(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(20, clients=20)
        assert Counter(answer.status for answer in answers) == {200: 10, 503: 10}
        shed = next(answer for answer in answers if answer.status == 503)
        assert shed.headers["retry-after"] == "1"
        assert "too many" in json.loads(shed.body)["error"]

    run(scenario, a=Reply(seconds=0.5), changes={"be_conn(stable_a) ge 1000": "be_conn(stable_a) ge 10"})


def test_headers_reach_the_model(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        sent = {"traceparent": trace, "tracestate": "x=1", "x-mlmodel-timeout-ms": "250", "authorization": "Bearer k"}
        await client.post(headers=sent)
        client.close()
        assert setup.a.requests[0].headers.items() >= {**sent, "x-forwarded-for": "127.0.0.1"}.items()

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

        async def rollout() -> None:
            for weight in (0, 5, 25, 50, 100):
                took = await setup.router.route(canary(weight))
                assert took < 0.5
                await asyncio.sleep(0.3)
            # b is promoted; a is removed, and its slot goes to another revision, which is rolled back.
            await setup.router.route(Routes(ADDRESSES, stable="b", candidate="a", weight=0))
            await setup.router.route(Routes({"b": ADDRESSES["b"]}, stable="b"))
            await setup.a.__aexit__()
            async with Revision("c", "127.0.0.13", port, Reply(status=500)):
                third: dict[Slot, str] = {"a": "127.0.0.13", "b": ADDRESSES["b"]}
                await setup.router.route(Routes(third, stable="b", candidate="a", weight=50))
                await asyncio.sleep(0.3)
                await setup.router.route(Routes(third, stable="b"))
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.3)

        await load.during(rollout())
        print(f"{len(load.answers)} requests, {len(load.failures)} failed")
        assert load.failures == []
        assert len(load.answers) > 1000
        assert {"a", "b"} == set(versions(load.answers))
        slots = (await setup.router.counts())["slots"]
        assert slots["a"]["requests"] + slots["b"]["requests"] == len(load.answers)
        assert slots["a"]["failed"] == slots["a"]["fallbacks"] > 0
        assert slots["b"]["failed"] == 0

    run(scenario)


def test_a_change_of_routes_does_not_affect_a_request_in_flight(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        slow = asyncio.ensure_future(client.post())

        async def arrived() -> bool:
            return len(setup.a.requests) == 1

        await setup.router.until(arrived)
        await setup.router.route(Routes({"a": "127.0.0.13", "b": ADDRESSES["b"]}, stable="b"))
        assert not slow.done()
        assert (await slow).body == b"a"
        assert (await client.post()).body == b"b"
        client.close()

    run(scenario, a=Reply(seconds=1.5))


def test_a_server_that_closes_idle_connections_fails_no_request(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        load = Load([Client(setup.router.traffic) for _ in range(16)], pause=0)
        await load.during(asyncio.sleep(2))
        assert load.failures == []
        assert (await setup.router.counts())["slots"]["a"]["failed"] == 0

    count = iter(range(10**9))
    run(scenario, a=lambda _: Reply(close=next(count) % 3 == 0))


def test_new_connections_wait_for_a_stable_that_is_down_for_half_a_second(run: Run, port: int) -> None:
    async def scenario(setup: Setup) -> None:
        load = Load([Client(setup.router.traffic) for _ in range(16)], keep_alive=False)

        async def restart() -> None:
            await asyncio.sleep(0.2)
            await setup.a.__aexit__()
            await asyncio.sleep(0.5)
            async with Revision("a", ADDRESSES["a"], port):
                await asyncio.sleep(0.5)
                await load.stop()

        await load.during(restart())
        assert load.failures == []
        assert (await setup.router.counts())["slots"]["a"]["failed"] == 0

    run(scenario)


def test_connections_are_closed_after_about_100_requests_so_that_they_spread_over_new_pods(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        for _ in range(1500):
            answer = await client.post()
            # The client's connection to the router stays open.
            assert (answer.status, answer.headers.get("connection")) == (200, None)
        client.close()
        closed = sum(request.headers.get("connection") == "close" for request in setup.a.requests)
        assert 2 <= closed <= 45
        assert setup.a.connections == closed + 1

    run(scenario)


def test_a_soft_stop_under_load_loses_no_request(run: Run, tmp_path: Path) -> None:
    async def scenario(setup: Setup) -> None:
        async with Router(tmp_path / "second") as second:
            await second.route(STABLE_A)
            clients = [Client(setup.router.traffic) for _ in range(16)]
            idle = Client(setup.router.traffic)
            await idle.post()
            load = Load(clients, pause=0.001)

            async def stop() -> None:
                await asyncio.sleep(0.3)
                # The Service no longer selects the first router: new connections reach the second.
                for client in clients:
                    client.address = second.traffic
                await asyncio.sleep(0.1)
                setup.router.process.send_signal(signal.SIGUSR1)
                await asyncio.sleep(0.5)
                # A request on an idle connection is still answered, with `connection: close`.
                answer = await idle.post()
                assert (answer.status, answer.headers["connection"]) == (200, "close")
                assert await asyncio.wait_for(setup.router.process.wait(), 10) == 0

            await load.during(stop())
            print(f"{len(load.answers)} requests, {len(load.failures)} failed")
            assert load.failures == []
            assert (await second.counts())["slots"]["a"]["requests"] > 100

    run(scenario)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "doesn't begin with an id"),
        ("slot a 127.0.0.12 80\n", "doesn't begin with an id"),
        ("id 1\nslot a 127.0.0.12 80\nstable b\n", "slot without an address"),
        ("id 1\nslot a 127.0.0.12 80\nstable a\ncandidate a 5\n", "both roles"),
        ("id 1\nslot a 127.0.0.12 80\nstable a\ncandidate b 101\n", "not understood"),
        ("id 1\nslot a 127.0.0.12 80\nstab", "not understood"),
        ("id 1\nslot a 127.0.0.12 80\nstable a", "its end is missing"),
        ("id 1\nslot a 999.0.0.1 80\nstable a\n", "no such address"),
        ("id 1\nslot a 127.0.0.12 80\nstable a\n<?xml\n", "not understood"),
    ],
)
def test_an_invalid_routes_file_is_ignored_and_logged_once(run: Run, text: str, reason: str) -> None:
    async def scenario(setup: Setup) -> None:
        setup.router.write(text)

        def warnings() -> list[str]:
            return [line for line in setup.router.log if "routes file rejected" in line]

        async def warned() -> bool:
            return bool(warnings())

        await setup.router.until(warned)
        await asyncio.sleep(0.5)  # two more polls, which must not log again
        assert len(warnings()) == 1
        assert reason in warnings()[0]
        assert (await setup.router.counts())["id"] == STABLE_A.id()
        assert set(versions(await setup.send(20))) == {"a"}
        assert await setup.router.route(canary(100)) < 0.5
        assert set(versions(await setup.send(20))) == {"b"}

    run(scenario)


def test_a_missing_routes_file_changes_nothing(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        (setup.router.folder / "routes").unlink()
        await asyncio.sleep(0.5)  # two polls
        assert set(versions(await setup.send(20))) == {"a"}
        assert await setup.router.route(canary(100)) < 0.5

    run(scenario)


def test_metrics_are_served_only_on_the_status_port(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        for path in ("/metrics", "/metrics/", "/metrics?name[]=x", "/%6detrics"):
            answer = await client.get(path)
            assert (answer.status, json.loads(answer.body)) == (404, {"error": "Not found."}), path
        client.close()
        assert b"haproxy_process_" in (await setup.router.get("/metrics")).body
        assert (await setup.router.get("/other")).status == 404
        assert setup.a.requests == []

    run(scenario)


def test_a_request_whose_body_does_not_arrive_gets_408_as_json(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        answer = await client.send(b"POST /x HTTP/1.1\r\nhost: m\r\ncontent-length: 5\r\n\r\n12")
        client.close()
        assert (answer.status, json.loads(answer.body)) == (408, {"error": "The request did not arrive in time."})
        assert setup.a.requests == []

    run(scenario, changes={"timeout http-request 15s": "timeout http-request 200ms"})


def test_a_request_on_which_stable_hangs_gets_504(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        answer = (await setup.send(1))[0]
        assert (answer.status, json.loads(answer.body)) == (504, {"error": "The model did not answer in time."})
        assert len(setup.a.requests) == 1
        assert (await setup.router.counts())["slots"]["a"] == {"requests": 1, "failed": 1, "fallbacks": 0}

    run(scenario, a=Reply(seconds=60), changes={"timeout server 60s": "timeout server 300ms"})


def test_memory_stays_small_under_load(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        load = Load([Client(setup.router.traffic) for _ in range(8)], pause=0)
        await load.during(asyncio.sleep(2))
        resident = setup.router.resident_kib()
        print(f"{len(load.answers)} requests, resident {resident / 1024:.1f} MiB")
        assert load.failures == []
        assert resident <= 20 * 1024

    run(scenario, canary(25), b=Reply(status=500))
