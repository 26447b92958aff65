"""gRPC through the router: a real HAProxy with the shipped configuration between real gRPC peers on loopback.

Messages are plain bytes here: the router does not look into them.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from hack.ports import free_port
from mlmodel_operator.api.status import Slot
from mlmodel_operator.rollout import routes as routes_module
from mlmodel_operator.rollout.routes import Routes
from tests.integration.router.loopback import Client, Revision
from tests.integration.router.routers import ADDRESSES, STABLE_A, Router, Zeros, canary

SERVICE = "inference.GRPCInferenceService"
Behaviour = Callable[[grpc.aio.ServicerContext[bytes, bytes]], Awaitable[None]]


class GrpcRevision:
    """A gRPC server that answers with its name, after ``behave`` has had its way with the call."""

    def __init__(self, name: str, address: str, port: int, behave: Behaviour | None = None) -> None:
        self.name, self.address, self.behave = name, f"{address}:{port}", behave
        self.sizes: list[int] = []
        self.metadata: dict[str, str] = {}

    async def __aenter__(self) -> GrpcRevision:
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", 1 << 24)])
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer),
            "Echo": grpc.stream_stream_rpc_method_handler(self._echo),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        self._server.add_insecure_port(self.address)
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)

    async def drain(self) -> None:
        """Ends as a pod does: takes nothing new, answers what it has."""
        await self._server.stop(5)

    async def _infer(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        self.sizes.append(len(request))
        self.metadata = {name: str(value) for name, value in context.invocation_metadata() or ()}
        if self.behave is not None:
            await self.behave(context)
        return self.name.encode()

    async def _echo(
        self, requests: AsyncIterator[bytes], _: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request


def fails(code: StatusCode) -> Behaviour:
    """Every call ends with this status."""

    async def behave(context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.abort(code, "no luck")

    return behave


async def hangs(_: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    """A call that is not answered in time."""
    await asyncio.sleep(60)


@dataclass(frozen=True)
class Answer:
    """How one call ended: ``text`` is the answer, or what is said of the failure."""

    code: StatusCode
    text: str
    fallback: bool = False


class GrpcClient:
    """One channel, as a client has it."""

    def __init__(self, address: tuple[str, int]) -> None:
        options = [("grpc.max_send_message_length", 1 << 24), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.aio.insecure_channel(f"{address[0]}:{address[1]}", options=options)
        self._infer: Any = self.channel.unary_unary(f"/{SERVICE}/ModelInfer")

    async def ask(self, message: bytes = b"{}", metadata: dict[str, str] | None = None) -> Answer:
        """One prediction."""
        call = self._infer(message, timeout=20, metadata=tuple((metadata or {}).items()))
        try:
            text = (await call).decode()
        except grpc.aio.AioRpcError as error:
            return Answer(error.code(), error.details() or "")
        seen = dict(await call.initial_metadata())
        return Answer(StatusCode.OK, text, seen.get("x-mlmodel-fallback") == "true")


@dataclass
class Scene:
    """A router and revisions a and b, the usual cast."""

    router: Router
    a: GrpcRevision
    b: GrpcRevision
    client: GrpcClient

    async def ask(self, count: int, metadata: dict[str, str] | None = None) -> list[Answer]:
        """``count`` predictions, eight at a time."""
        answers: list[Answer] = []
        todo = iter(range(count))

        async def drive() -> None:
            for _ in todo:
                answers.append(await self.client.ask(metadata=metadata))

        await asyncio.gather(*(drive() for _ in range(8)))
        return answers

    async def slots(self) -> dict[str, dict[str, int]]:
        """What the router has counted."""
        slots: dict[str, dict[str, int]] = (await self.router.counts())["slots"]
        return slots


Play = Callable[..., None]


@pytest.fixture
def port() -> int:
    """Where the revisions answer gRPC."""
    return free_port(*ADDRESSES.values(), "127.0.0.13")


@pytest.fixture
def play(tmp_path: Path, port: int) -> Play:
    """Runs a coroutine function with a scene."""

    def run(
        act: Callable[[Scene], Coroutine[Any, Any, None]],
        routes: Routes | None = STABLE_A,
        a: Behaviour | None = None,
        b: Behaviour | None = None,
        changes: dict[str, str] | None = None,
        listening: bool = True,
    ) -> None:
        async def main() -> None:
            async with AsyncExitStack() as stack:
                first = await stack.enter_async_context(GrpcRevision("a", ADDRESSES["a"], port, a))
                second = GrpcRevision("b", ADDRESSES["b"], port, b)
                if listening:
                    await stack.enter_async_context(second)
                router = await stack.enter_async_context(Router(tmp_path / "router", changes or {}, port))
                if routes is not None:
                    await router.route(routes)
                client = GrpcClient(router.grpc)
                await stack.enter_async_context(client.channel)
                await act(Scene(router, first, second, client))

        asyncio.run(main())

    return run


def test_before_any_route_the_status_says_try_again(play: Play) -> None:
    async def act(scene: Scene) -> None:
        sentence = "This model is not serving yet. Try again in a moment."
        assert await scene.client.ask() == Answer(StatusCode.UNAVAILABLE, sentence)
        await scene.router.route(Routes())
        assert await scene.client.ask() == Answer(StatusCode.UNAVAILABLE, sentence)
        await scene.router.route(STABLE_A)
        assert await scene.client.ask() == Answer(StatusCode.OK, "a")

    play(act, routes=None)


def test_calls_over_grpc_and_http_are_drawn_from_one_deck_and_counted_together(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    http_port = free_port(*ADDRESSES.values())
    monkeypatch.setattr(routes_module, "SERVER_PORT", http_port)

    async def act(scene: Scene) -> None:
        async with (
            Revision("a", ADDRESSES["a"], http_port) as first,
            Revision("b", ADDRESSES["b"], http_port) as second,
        ):
            http = Client(scene.router.traffic)
            for _ in range(200):
                await http.ask()
                assert (await scene.client.ask()).code == StatusCode.OK
            http.close()
            assert await scene.slots() == {"a": {**Zeros, "requests": 300}, "b": {**Zeros, "requests": 100}}
            assert len(scene.a.sizes) + len(first.requests) == 300
            assert len(scene.b.sizes) + len(second.requests) == 100

    play(act, canary(25))


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(fails(StatusCode.INTERNAL), id="internal"),
        pytest.param(fails(StatusCode.CANCELLED), id="cancelled"),
        pytest.param(fails(StatusCode.UNAVAILABLE), id="unavailable"),
        pytest.param(fails(StatusCode.UNKNOWN), id="unknown"),
        pytest.param(fails(StatusCode.DEADLINE_EXCEEDED), id="deadline"),
        pytest.param(fails(StatusCode.DATA_LOSS), id="data loss"),
        pytest.param(fails(StatusCode.INVALID_ARGUMENT), id="only it refuses"),
        pytest.param(fails(StatusCode.RESOURCE_EXHAUSTED), id="only it is full"),
        pytest.param(hangs, id="hangs"),
        pytest.param(None, id="refused"),
    ],
)
def test_what_the_candidate_fails_stable_answers_and_it_is_counted(play: Play, behaviour: Behaviour | None) -> None:
    async def act(scene: Scene) -> None:
        answers = await scene.ask(100)
        assert Counter((answer.code, answer.text) for answer in answers) == {(StatusCode.OK, "a"): 100}
        assert sum(answer.fallback for answer in answers) == 25
        slots = await scene.slots()
        assert slots["b"] == {"requests": 25, "failed": 25, "fallbacks": 25}
        assert slots["a"] == {**Zeros, "requests": 75}
        assert len(scene.b.sizes) == (25 if behaviour else 0), "the candidate is asked once"

    play(
        act,
        canary(25),
        b=behaviour,
        listening=behaviour is not None,
        changes={"timeout server 10s": "timeout server 300ms"},
    )


def test_a_candidate_that_dies_under_its_calls_costs_none(play: Play) -> None:
    async def act(scene: Scene) -> None:
        asked = asyncio.ensure_future(scene.ask(20))

        async def held() -> bool:
            return len(scene.b.sizes) == 8

        await scene.router.until(held)
        await scene.b.__aexit__()
        assert Counter((answer.code, answer.text) for answer in await asked) == {(StatusCode.OK, "a"): 20}
        assert (await scene.slots())["b"] == {"requests": 20, "failed": 20, "fallbacks": 20}

    play(act, canary(100), b=hangs)


def test_a_large_message_is_asked_again_in_full_and_a_larger_one_passes_the_failure_on(play: Play) -> None:
    async def act(scene: Scene) -> None:
        assert await scene.client.ask(os.urandom(60_000)) == Answer(StatusCode.OK, "a", fallback=True)
        assert scene.a.sizes == scene.b.sizes == [60_000]
        assert await scene.client.ask(os.urandom(400_000)) == Answer(StatusCode.INTERNAL, "no luck")
        assert (await scene.slots())["b"] == {"requests": 2, "failed": 2, "fallbacks": 1}

    play(act, canary(100), b=fails(StatusCode.INTERNAL))


def test_a_failure_that_is_passed_on_has_the_status_that_grpc_asks_for(play: Play) -> None:
    """Not every client looks for its own status beside one of HTTP that isn't 200."""

    async def act(scene: Scene) -> None:
        assert (await scene.client.ask(os.urandom(400_000))).code == StatusCode.INTERNAL
        metrics = (await scene.router.look("/metrics")).body.decode()
        (line,) = re.findall(r'haproxy_frontend_http_responses_total{proxy="grpc",code="(.xx)"} 1', metrics)
        assert line == "2xx"

    play(act, canary(100), b=fails(StatusCode.INTERNAL))


def test_a_message_that_comes_slowly_is_asked_again_too(play: Play) -> None:
    async def act(scene: Scene) -> None:
        method: Any = scene.client.channel.stream_unary(f"/{SERVICE}/ModelInfer")
        call = method(timeout=10)
        await call.write(b"{}")
        await asyncio.sleep(0.2)  # the router has it by now, and not its end
        await call.done_writing()
        assert await call == b"a"
        assert scene.a.sizes == scene.b.sizes == [2]

    play(act, canary(100), b=fails(StatusCode.INTERNAL))


@pytest.mark.parametrize("code", [StatusCode.NOT_FOUND, StatusCode.UNAUTHENTICATED], ids=lambda code: str(code.name))
def test_what_the_client_did_wrong_passes_and_is_no_failure(play: Play, code: StatusCode) -> None:
    async def act(scene: Scene) -> None:
        answers = await scene.ask(100)
        expected = {(StatusCode.OK, "a"): 75, (code, "no luck"): 25}
        assert Counter((answer.code, answer.text) for answer in answers) == expected
        assert (await scene.slots())["b"] == {**Zeros, "requests": 25}

    play(act, canary(25), b=fails(code))


@pytest.mark.parametrize(
    "code", [StatusCode.INVALID_ARGUMENT, StatusCode.RESOURCE_EXHAUSTED], ids=lambda code: str(code.name)
)
def test_what_both_versions_refuse_is_told_by_stable_and_is_no_failure(play: Play, code: StatusCode) -> None:
    async def act(scene: Scene) -> None:
        answers = await scene.ask(100)
        assert Counter(answers) == {Answer(code, "no luck"): 100}
        assert (len(scene.a.sizes), len(scene.b.sizes)) == (100, 25)
        assert await scene.slots() == {"a": {**Zeros, "requests": 75}, "b": {**Zeros, "requests": 25}}

    play(act, canary(25), a=fails(code), b=fails(code))


def test_failures_of_stable_pass_are_counted_and_never_asked_of_the_candidate(play: Play) -> None:
    async def act(scene: Scene) -> None:
        answers = await scene.ask(100)
        expected = {(StatusCode.OK, "b"): 25, (StatusCode.INTERNAL, "no luck"): 75}
        assert Counter((answer.code, answer.text) for answer in answers) == expected
        assert (len(scene.a.sizes), len(scene.b.sizes)) == (75, 25)
        assert (await scene.slots())["a"] == {"requests": 75, "failed": 75, "fallbacks": 0}

    play(act, canary(25), a=fails(StatusCode.INTERNAL))


def test_a_call_that_both_versions_fail_is_asked_of_each_once_and_passed_on(play: Play) -> None:
    async def act(scene: Scene) -> None:
        assert await scene.client.ask() == Answer(StatusCode.UNKNOWN, "no luck")
        assert (len(scene.a.sizes), len(scene.b.sizes)) == (1, 1)
        assert (await scene.slots())["b"] == {"requests": 1, "failed": 1, "fallbacks": 1}

    play(act, canary(100), a=fails(StatusCode.UNKNOWN), b=fails(StatusCode.INTERNAL))


def test_metadata_reaches_the_model_and_picks_the_version(play: Play) -> None:
    async def act(scene: Scene) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        sent = {"traceparent": trace, "authorization": "Bearer k", "x-mlmodel-version": "candidate"}
        assert {answer.text for answer in await scene.ask(5, sent)} == {"b"}
        assert scene.b.metadata.items() >= {**sent, "x-forwarded-for": "127.0.0.1"}.items()
        assert {answer.text for answer in await scene.ask(5, {"x-mlmodel-version": "stable"})} == {"a"}

    play(act, canary(50))


def test_a_stream_is_answered_while_it_is_open(play: Play) -> None:
    async def act(scene: Scene) -> None:
        method: Any = scene.client.channel.stream_stream(f"/{SERVICE}/Echo")
        for version in ("stable", "candidate"):
            call = method(timeout=10, metadata=(("x-mlmodel-version", version),))
            for word in (b"one", b"two"):
                await call.write(word)
                assert await call.read() == word
            await call.done_writing()
            assert await call.read() == grpc.aio.EOF

    play(act, canary(50))


def test_more_calls_than_memory_holds_are_refused_in_time(play: Play) -> None:
    async def slow(_: object) -> None:
        await asyncio.sleep(0.5)

    async def act(scene: Scene) -> None:
        answers = await asyncio.gather(*(scene.client.ask() for _ in range(20)))
        assert Counter(answer.code for answer in answers) == {StatusCode.OK: 10, StatusCode.RESOURCE_EXHAUSTED: 10}
        assert "Too many" in next(answer.text for answer in answers if answer.code != StatusCode.OK)

    play(act, a=slow, changes={"be_conn(grpc_stable_a) ge 500": "be_conn(grpc_stable_a) ge 10"})


class Load:
    """Steady calls over several channels while something else happens."""

    def __init__(self, router: Router, channels: int = 4) -> None:
        self.clients = [GrpcClient(router.grpc) for _ in range(channels)]
        self.answers: list[Answer] = []
        self._over = asyncio.Event()

    async def during(self, happening: Awaitable[None]) -> None:
        """Runs the load until ``happening`` is over."""

        async def drive(client: GrpcClient) -> None:
            while not self._over.is_set():
                self.answers.append(await client.ask())
                await asyncio.sleep(0.002)

        drivers = [asyncio.ensure_future(drive(client)) for client in self.clients for _ in range(2)]
        try:
            await happening
        finally:
            self._over.set()
            await asyncio.gather(*drivers)
            for client in self.clients:
                await client.channel.close()

    @property
    def failures(self) -> Counter[tuple[StatusCode, str]]:
        """What did not go well."""
        return Counter((answer.code, answer.text) for answer in self.answers if answer.code != StatusCode.OK)


def test_a_whole_rollout_loses_no_call(play: Play, port: int) -> None:
    async def act(scene: Scene) -> None:
        load = Load(scene.router)

        async def rollout() -> None:
            for weight in (0, 5, 50, 100):
                assert await scene.router.route(canary(weight)) < 1
                await asyncio.sleep(0.3)
            # b is promoted; a's pod goes, and its slot is given to another revision, which fails and is rolled back.
            await scene.router.route(Routes({"b": ADDRESSES["b"]}, stable="b"))
            await scene.a.drain()
            async with GrpcRevision("c", "127.0.0.13", port, fails(StatusCode.INTERNAL)):
                third: dict[Slot, str] = {"a": "127.0.0.13", "b": ADDRESSES["b"]}
                await scene.router.route(Routes(third, stable="b", candidate="a", weight=50))
                await asyncio.sleep(0.3)
                await scene.router.route(Routes(third, stable="b"))
            await asyncio.sleep(0.3)

        await load.during(rollout())
        slots = await scene.slots()
        print(f"{len(load.answers)} calls, failed: {load.failures}; {slots}")
        assert not load.failures
        assert len(load.answers) > 300
        assert slots["a"]["requests"] + slots["b"]["requests"] == len(load.answers)
        assert slots["a"]["failed"] == slots["a"]["fallbacks"] > 0
        assert slots["b"]["failed"] == 0

    play(act)


def test_a_router_that_stops_finishes_its_calls(play: Play) -> None:
    async def slow(_: object) -> None:
        await asyncio.sleep(0.3)

    async def act(scene: Scene) -> None:
        asked = [asyncio.ensure_future(scene.client.ask()) for _ in range(10)]

        async def held() -> bool:
            return len(scene.a.sizes) == 10

        await scene.router.until(held)
        scene.router.process.send_signal(signal.SIGUSR1)
        assert {answer.text for answer in await asyncio.gather(*asked)} == {"a"}
        assert await asyncio.wait_for(scene.router.process.wait(), 10) == 0

    play(act, a=slow)
