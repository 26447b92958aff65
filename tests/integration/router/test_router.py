"""The router as it runs: a real HAProxy with the shipped configuration, between real sockets on loopback."""

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
    """The port that the revisions listen on, instead of 8080, which something else may hold."""
    chosen = free_port(*ADDRESSES.values(), "127.0.0.13")
    monkeypatch.setattr(routes_module, "SERVER_PORT", chosen)
    return chosen


@dataclass
class Scene:
    """A router and revisions a and b, the usual cast."""

    router: Router
    a: Revision
    b: Revision

    async def ask(self, count: int, clients: int = 8, path: str = "/v2/models/m/infer") -> list[Message]:
        """Sends ``count`` requests over ``clients`` keep-alive connections at once."""
        answers: list[Message] = []
        todo = iter(range(count))

        async def drive() -> None:
            client = Client(self.router.traffic)
            for _ in todo:
                answers.append(await client.ask(path))
            client.close()

        await asyncio.gather(*(drive() for _ in range(clients)))
        return answers


Play = Callable[..., Any]


@pytest.fixture
def play(tmp_path: Path, port: int) -> Play:
    """Runs a coroutine function with a scene."""

    def run(
        act: Callable[[Scene], Coroutine[Any, Any, None]],
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
                await act(Scene(router, first, second))

        asyncio.run(main())

    return run


def test_before_any_route_the_answer_says_try_again(play: Play) -> None:
    async def act(scene: Scene) -> None:
        answer = (await scene.ask(1))[0]
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert "not serving yet" in json.loads(answer.body)["error"]
        assert (await scene.router.look("/ready")).status == 503
        assert await scene.router.counts() == {"id": "", "slots": {"a": Zeros, "b": Zeros}}
        await scene.router.route(Routes())
        assert (await scene.router.look("/ready")).status == 200
        assert (await scene.ask(1))[0].status == 503
        await scene.router.route(STABLE_A)
        assert (await scene.ask(1))[0].status == 200

    play(act, routes=None)


def test_the_share_is_exact_and_independent_of_the_clients_rhythm(play: Play) -> None:
    async def act(scene: Scene) -> None:
        clients = [Client(scene.router.traffic), Client(scene.router.traffic)]
        seen = [(await clients[i % 2].ask()).body.decode() for i in range(4000)]
        for client in clients:
            client.close()
        for start in range(0, 4000, 100):
            assert Counter(seen[start : start + 100])["b"] == 10
        # Each client's share varies by chance; 2 points are more than four standard deviations here.
        for turn in range(2):
            assert Counter(seen[turn::2])["b"] / 2000 == pytest.approx(0.10, abs=0.02)
        slots = (await scene.router.counts())["slots"]
        assert slots == {"a": {**Zeros, "requests": 3600}, "b": {**Zeros, "requests": 400}}
        assert len({tuple(seen[start : start + 100]) for start in range(0, 4000, 100)}) > 30

    play(act, canary(10))


@pytest.mark.parametrize("weight", [0, 1, 99, 100])
def test_the_share_is_exact_at_the_ends(play: Play, weight: int) -> None:
    async def act(scene: Scene) -> None:
        assert Counter(versions(await scene.ask(200)))["b"] == 2 * weight

    play(act, canary(weight))


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(status=500), id="500"),
        pytest.param(Reply(status=503), id="503"),
        pytest.param(Reply(status=504), id="504"),
        pytest.param(Reply(reset=True), id="reset"),
        pytest.param(Reply(raw=b""), id="closed"),
        pytest.param(Reply(raw=b"HTTP/1.1 200 OK\r\ncontent-le"), id="half an answer"),
        pytest.param(Reply(raw=b"so sorry\r\n\r\n"), id="not HTTP"),
        pytest.param(Reply(seconds=60), id="hangs"),
        pytest.param(None, id="refused"),
    ],
)
def test_what_the_candidate_fails_stable_answers_and_it_is_counted(play: Play, reply: Reply | None) -> None:
    async def act(scene: Scene) -> None:
        answers = await scene.ask(200)
        assert Counter((answer.status, answer.body) for answer in answers) == {(200, b"a"): 200}
        assert sum(answer.headers.get("x-mlmodel-fallback") == "true" for answer in answers) == 50
        slots = (await scene.router.counts())["slots"]
        assert slots["b"] == {"requests": 50, "failed": 50, "fallbacks": 50}
        assert slots["a"] == {**Zeros, "requests": 150}
        assert len(scene.b.requests) == (50 if reply else 0)

    play(act, canary(25), b=reply, listening=reply is not None, changes={"timeout server 10s": "timeout server 300ms"})


def test_a_hanging_candidate_is_counted_though_its_clients_give_up(play: Play) -> None:
    async def act(scene: Scene) -> None:
        async def give_up() -> None:
            client = Client(scene.router.traffic)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.ask(), 0.1)
            client.close()

        await asyncio.gather(*(give_up() for _ in range(10)))

        async def counted() -> bool:
            return bool((await scene.router.counts())["slots"]["b"] == {"requests": 10, "failed": 10, "fallbacks": 10})

        await scene.router.until(counted)

    play(act, canary(100), b=Reply(seconds=60), changes={"timeout server 10s": "timeout server 500ms"})


def test_the_second_chance_holds_while_baking_at_weight_100(play: Play) -> None:
    async def act(scene: Scene) -> None:
        assert Counter(versions(await scene.ask(100))) == {"a": 50, "b": 50}
        assert (await scene.router.counts())["slots"]["b"] == {"requests": 100, "failed": 50, "fallbacks": 50}

    flip = iter([500, 200] * 50)
    play(act, canary(100), b=lambda _: Reply(status=next(flip)))


def test_a_large_body_is_asked_again_in_full_and_a_larger_one_passes_the_failure_on(play: Play) -> None:
    async def act(scene: Scene) -> None:
        client = Client(scene.router.traffic)
        body = os.urandom(60_000)
        answer = await client.ask(body=body)
        assert (answer.status, answer.body) == (200, b"a")
        assert scene.a.requests[0].body == scene.b.requests[0].body == body
        answer = await client.ask(body=os.urandom(400_000))
        assert (answer.status, answer.body) == (500, b"b")
        assert (await scene.router.counts())["slots"]["b"] == {"requests": 2, "failed": 2, "fallbacks": 1}
        client.close()

    play(act, canary(100), b=Reply(status=500))


def test_a_request_that_both_versions_fail_is_asked_of_each_once_and_passed_on(play: Play) -> None:
    async def act(scene: Scene) -> None:
        answer = (await scene.ask(1))[0]
        assert (answer.status, answer.body, answer.headers["x-mlmodel-fallback"]) == (500, b"a", "true")
        assert (len(scene.a.requests), len(scene.b.requests)) == (1, 1)
        assert (await scene.router.counts())["slots"]["b"] == {"requests": 1, "failed": 1, "fallbacks": 1}

    play(act, canary(100), a=Reply(status=500), b=Reply(status=500))


def test_when_no_version_can_be_reached_the_error_is_ours_and_counted(play: Play) -> None:
    async def act(scene: Scene) -> None:
        await scene.a.__aexit__()
        answers = await scene.ask(20)
        assert {answer.status for answer in answers} <= {502, 503}
        assert all("error" in json.loads(answer.body) for answer in answers)
        assert all("x-mlmodel-fallback" not in answer.headers for answer in answers)
        slots = (await scene.router.counts())["slots"]
        assert slots["b"] == {"requests": 20, "failed": 20, "fallbacks": 0}

    play(act, canary(100), listening=False)


def test_client_errors_pass_and_are_no_failure(play: Play) -> None:
    async def act(scene: Scene) -> None:
        answers = await scene.ask(100)
        assert Counter(answer.status for answer in answers) == {200: 75, 400: 25}
        assert (await scene.router.counts())["slots"]["b"] == {**Zeros, "requests": 25}

    play(act, canary(25), b=Reply(status=400))


def refuses(status: int) -> Callable[[Message], Reply]:
    """What a server of ours does with a request that it refuses."""

    def behave(request: Message) -> Reply:
        if request.headers.get("x-mlmodel-attempt") == "own":
            return Reply(503, (f"x-mlmodel-refused: {status}",))
        return Reply(status)

    return behave


@pytest.mark.parametrize("status", [400, 429])
def test_what_only_the_candidate_refuses_stable_answers_and_it_is_a_failure(play: Play, status: int) -> None:
    async def act(scene: Scene) -> None:
        answers = await scene.ask(100)
        assert Counter((answer.status, answer.body) for answer in answers) == {(200, b"a"): 100}
        assert sum(answer.headers.get("x-mlmodel-fallback") == "true" for answer in answers) == 25
        slots = (await scene.router.counts())["slots"]
        assert slots == {"a": {**Zeros, "requests": 75}, "b": {"requests": 25, "failed": 25, "fallbacks": 25}}
        told = Counter(request.headers.get("x-mlmodel-attempt") for request in scene.a.requests)
        assert told == {None: 75, "other": 25}

    play(act, canary(25), b=refuses(status))


@pytest.mark.parametrize("status", [400, 429])
def test_what_both_versions_refuse_is_told_by_stable_and_is_no_failure(play: Play, status: int) -> None:
    async def act(scene: Scene) -> None:
        answers = await scene.ask(100)
        assert Counter((answer.status, answer.body) for answer in answers) == {(status, b"a"): 100}
        assert not any(answer.headers.keys() & {"x-mlmodel-fallback", "x-mlmodel-refused"} for answer in answers)
        slots = (await scene.router.counts())["slots"]
        assert slots == {"a": {**Zeros, "requests": 75}, "b": {**Zeros, "requests": 25}}

    play(act, canary(25), a=refuses(status), b=refuses(status))


@pytest.mark.parametrize("status", [400, 429])
def test_a_refusal_that_cannot_be_repeated_is_passed_on_as_what_it_is(play: Play, status: int) -> None:
    async def act(scene: Scene) -> None:
        client = Client(scene.router.traffic)
        answer = await client.ask(body=os.urandom(400_000))
        client.close()
        assert (answer.status, answer.body) == (status, b"b")
        assert "x-mlmodel-refused" not in answer.headers
        assert scene.a.requests == []
        assert (await scene.router.counts())["slots"]["b"] == {**Zeros, "requests": 1}

    play(act, canary(100), b=refuses(status))


def test_no_client_makes_stable_look_as_if_it_failed(play: Play) -> None:
    async def act(scene: Scene) -> None:
        client = Client(scene.router.traffic)
        answer = await client.ask(headers={"x-mlmodel-attempt": "own"})
        client.close()
        assert answer.status == 400
        assert (await scene.router.counts())["slots"]["a"] == {**Zeros, "requests": 1}

    play(act, a=refuses(400))


def test_errors_of_stable_pass_and_are_never_asked_of_the_candidate(play: Play) -> None:
    async def act(scene: Scene) -> None:
        answers = await scene.ask(100)
        assert Counter(answer.status for answer in answers) == {200: 25, 500: 75}
        assert len(scene.a.requests) == 75
        assert len(scene.b.requests) == 25
        assert (await scene.router.counts())["slots"]["a"] == {"requests": 75, "failed": 75, "fallbacks": 0}

    play(act, canary(25), a=Reply(status=500))


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
def test_feedback_is_never_sent_twice(play: Play, reply: Reply, path: str) -> None:
    async def act(scene: Scene) -> None:
        answers = await scene.ask(4, path=path)
        assert {answer.status for answer in answers} <= {500, 502}
        assert len(scene.b.requests) == 4
        assert scene.a.requests == []
        assert (await scene.router.counts())["slots"]["b"] == {"requests": 4, "failed": 4, "fallbacks": 0}

    play(act, canary(100), b=reply)


def test_a_header_picks_the_version_and_leaves_the_draw_of_the_others_alone(play: Play) -> None:
    async def act(scene: Scene) -> None:
        client = Client(scene.router.traffic)
        drawn = []
        for _ in range(100):
            assert (await client.ask(headers={"x-mlmodel-version": "candidate"})).body == b"b"
            assert (await client.ask(headers={"x-mlmodel-version": "stable"})).body == b"a"
            drawn.append((await client.ask(headers={"x-mlmodel-version": "other"})).body)
        assert drawn.count(b"b") == 5
        await scene.router.route(STABLE_A)
        assert (await client.ask(headers={"x-mlmodel-version": "candidate"})).body == b"a"
        client.close()

    play(act, canary(5))


def test_more_requests_than_memory_holds_are_refused_in_time(play: Play) -> None:
    async def act(scene: Scene) -> None:
        answers = await scene.ask(20, clients=20)
        assert Counter(answer.status for answer in answers) == {200: 10, 503: 10}
        refused = next(answer for answer in answers if answer.status == 503)
        assert refused.headers["retry-after"] == "1"
        assert "Too many" in json.loads(refused.body)["error"]

    play(act, a=Reply(seconds=0.5), changes={"be_conn(stable_a) ge 1000": "be_conn(stable_a) ge 10"})


def test_headers_reach_the_model(play: Play) -> None:
    async def act(scene: Scene) -> None:
        client = Client(scene.router.traffic)
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        sent = {"traceparent": trace, "tracestate": "x=1", "x-mlmodel-timeout-ms": "250", "authorization": "Bearer k"}
        await client.ask(headers=sent)
        client.close()
        assert scene.a.requests[0].headers.items() >= {**sent, "x-forwarded-for": "127.0.0.1"}.items()

    play(act)


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/v2/models/m"])
def test_pages_and_metadata_pass(play: Play, path: str) -> None:
    async def act(scene: Scene) -> None:
        client = Client(scene.router.traffic)
        answer = await client.get(path)
        client.close()
        assert (answer.status, answer.body, scene.a.requests[0].path) == (200, b"a", path)

    play(act)


def test_a_whole_rollout_loses_no_request(play: Play, port: int) -> None:
    async def act(scene: Scene) -> None:
        load = Load([Client(scene.router.traffic) for _ in range(16)])

        async def rollout() -> None:
            for weight in (0, 5, 25, 50, 100):
                took = await scene.router.route(canary(weight))
                assert took < 0.5
                await asyncio.sleep(0.3)
            # b is promoted; a is taken out, and its slot given to another revision, which is rolled back.
            await scene.router.route(Routes(ADDRESSES, stable="b", candidate="a", weight=0))
            await scene.router.route(Routes({"b": ADDRESSES["b"]}, stable="b"))
            await scene.a.__aexit__()
            async with Revision("c", "127.0.0.13", port, Reply(status=500)):
                third: dict[Slot, str] = {"a": "127.0.0.13", "b": ADDRESSES["b"]}
                await scene.router.route(Routes(third, stable="b", candidate="a", weight=50))
                await asyncio.sleep(0.3)
                await scene.router.route(Routes(third, stable="b"))
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.3)

        await load.during(rollout())
        print(f"{len(load.answers)} requests, {len(load.failures)} failed")
        assert load.failures == []
        assert len(load.answers) > 1000
        assert {"a", "b"} == set(versions(load.answers))
        slots = (await scene.router.counts())["slots"]
        assert slots["a"]["requests"] + slots["b"]["requests"] == len(load.answers)
        assert slots["a"]["failed"] == slots["a"]["fallbacks"] > 0
        assert slots["b"]["failed"] == 0

    play(act)


def test_routes_change_under_a_request_on_its_way(play: Play) -> None:
    async def act(scene: Scene) -> None:
        client = Client(scene.router.traffic)
        slow = asyncio.ensure_future(client.ask())

        async def arrived() -> bool:
            return len(scene.a.requests) == 1

        await scene.router.until(arrived)
        await scene.router.route(Routes({"a": "127.0.0.13", "b": ADDRESSES["b"]}, stable="b"))
        assert not slow.done()
        assert (await slow).body == b"a"
        assert (await client.ask()).body == b"b"
        client.close()

    play(act, a=Reply(seconds=1.5))


def test_a_server_that_closes_idle_connections_costs_no_request(play: Play) -> None:
    async def act(scene: Scene) -> None:
        load = Load([Client(scene.router.traffic) for _ in range(16)], pause=0)
        await load.during(asyncio.sleep(2))
        assert load.failures == []
        assert (await scene.router.counts())["slots"]["a"]["failed"] == 0

    count = iter(range(10**9))
    play(act, a=lambda _: Reply(close=next(count) % 3 == 0))


def test_new_connections_wait_for_a_stable_that_is_away_for_half_a_second(play: Play, port: int) -> None:
    async def act(scene: Scene) -> None:
        load = Load([Client(scene.router.traffic) for _ in range(16)], keep_alive=False)

        async def restart() -> None:
            await asyncio.sleep(0.2)
            await scene.a.__aexit__()
            await asyncio.sleep(0.5)
            async with Revision("a", ADDRESSES["a"], port):
                await asyncio.sleep(0.5)
                await load.stop()

        await load.during(restart())
        assert load.failures == []
        assert (await scene.router.counts())["slots"]["a"]["failed"] == 0

    play(act)


def test_connections_are_given_up_so_that_they_spread_over_new_pods(play: Play) -> None:
    async def act(scene: Scene) -> None:
        client = Client(scene.router.traffic)
        for _ in range(1500):
            answer = await client.ask()
            # The client's own connection stays.
            assert (answer.status, answer.headers.get("connection")) == (200, None)
        client.close()
        told = sum(request.headers.get("connection") == "close" for request in scene.a.requests)
        assert 2 <= told <= 45
        assert scene.a.connections == told + 1

    play(act)


def test_a_soft_stop_under_load_loses_no_request(play: Play, tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        async with Router(tmp_path / "second") as second:
            await second.route(STABLE_A)
            clients = [Client(scene.router.traffic) for _ in range(16)]
            idle = Client(scene.router.traffic)
            await idle.ask()
            load = Load(clients, pause=0.001)

            async def stop() -> None:
                await asyncio.sleep(0.3)
                # The Service no longer names the first router: whoever connects anew reaches the second.
                for client in clients:
                    client.address = second.traffic
                await asyncio.sleep(0.1)
                scene.router.process.send_signal(signal.SIGUSR1)
                await asyncio.sleep(0.5)
                # A connection that had been idle still gets its answer, and is told that it was the last.
                answer = await idle.ask()
                assert (answer.status, answer.headers["connection"]) == (200, "close")
                assert await asyncio.wait_for(scene.router.process.wait(), 10) == 0

            await load.during(stop())
            print(f"{len(load.answers)} requests, {len(load.failures)} failed")
            assert load.failures == []
            assert (await second.counts())["slots"]["a"]["requests"] > 100

    play(act)


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
def test_a_bad_routes_file_is_ignored_and_said_once(play: Play, text: str, reason: str) -> None:
    async def act(scene: Scene) -> None:
        scene.router.write(text)

        def complaints() -> list[str]:
            return [line for line in scene.router.log if "is ignored" in line]

        async def complained() -> bool:
            return bool(complaints())

        await scene.router.until(complained)
        await asyncio.sleep(0.5)  # two more polls, at which it must hold its tongue
        assert len(complaints()) == 1
        assert reason in complaints()[0]
        assert (await scene.router.counts())["id"] == STABLE_A.id()
        assert set(versions(await scene.ask(20))) == {"a"}
        assert await scene.router.route(canary(100)) < 0.5
        assert set(versions(await scene.ask(20))) == {"b"}

    play(act)


def test_a_missing_routes_file_changes_nothing(play: Play) -> None:
    async def act(scene: Scene) -> None:
        (scene.router.folder / "routes").unlink()
        await asyncio.sleep(0.5)  # two polls
        assert set(versions(await scene.ask(20))) == {"a"}
        assert await scene.router.route(canary(100)) < 0.5

    play(act)


def test_metrics_are_for_the_status_port_only(play: Play) -> None:
    async def act(scene: Scene) -> None:
        client = Client(scene.router.traffic)
        for path in ("/metrics", "/metrics/", "/metrics?name[]=x", "/%6detrics"):
            answer = await client.get(path)
            assert (answer.status, json.loads(answer.body)) == (404, {"error": "Not found."}), path
        client.close()
        assert b"haproxy_process_" in (await scene.router.look("/metrics")).body
        assert (await scene.router.look("/other")).status == 404
        assert scene.a.requests == []

    play(act)


def test_a_body_that_never_comes_gets_json(play: Play) -> None:
    async def act(scene: Scene) -> None:
        client = Client(scene.router.traffic)
        answer = await client.send(b"POST /x HTTP/1.1\r\nhost: m\r\ncontent-length: 5\r\n\r\n12")
        client.close()
        assert (answer.status, json.loads(answer.body)) == (408, {"error": "The request did not arrive in time."})
        assert scene.a.requests == []

    play(act, changes={"timeout http-request 15s": "timeout http-request 200ms"})


def test_stable_that_hangs_ends_in_504(play: Play) -> None:
    async def act(scene: Scene) -> None:
        answer = (await scene.ask(1))[0]
        assert (answer.status, json.loads(answer.body)) == (504, {"error": "The model did not answer in time."})
        assert len(scene.a.requests) == 1
        assert (await scene.router.counts())["slots"]["a"] == {"requests": 1, "failed": 1, "fallbacks": 0}

    play(act, a=Reply(seconds=60), changes={"timeout server 60s": "timeout server 300ms"})


def test_memory_stays_small_under_load(play: Play) -> None:
    async def act(scene: Scene) -> None:
        load = Load([Client(scene.router.traffic) for _ in range(8)], pause=0)
        await load.during(asyncio.sleep(2))
        resident = scene.router.resident_kib()
        print(f"{len(load.answers)} requests, resident {resident / 1024:.1f} MiB")
        assert load.failures == []
        assert resident <= 20 * 1024

    play(act, canary(25), b=Reply(status=500))
