"""gRPC through the router: HAProxy with the shipped configuration between gRPC clients and servers on loopback.

Messages are short here: the router reads only whether they have a version.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from tests.integration.router.loopback import Client, Revision, http2, until
from tests.integration.router.routers import ADDRESSES, STABLE_A, UNCOUNTED, Router, canary, candidate, stable

SERVICE = "inference.GRPCInferenceService"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
Behaviour = Callable[[grpc.aio.ServicerContext[bytes, bytes]], Awaitable[None]]


GRPC_HEADERS = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
MESSAGE = b"\x2a\x64" + bytes(100)  # an input
MESSAGE *= 200


class GrpcRevision:
    """A gRPC server that answers with its name, unless ``behave`` aborts the call before."""

    def __init__(self, name: str, address: str, port: int, behave: Behaviour | None = None) -> None:
        self.name, self.address, self.behave = name, f"{address}:{port}", behave
        self.sizes: list[int] = []
        self.metadata: dict[str, str] = {}

    async def __aenter__(self) -> GrpcRevision:
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", 1 << 24)])
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer),
        }
        # The one public method with a stream in both directions.
        streams: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(self._echo)
        }
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, methods),
                grpc.method_handlers_generic_handler(REFLECTION, streams),
            )
        )
        self._server.add_insecure_port(self.address)
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)

    async def drain(self) -> None:
        """Drain as a pod does: accept no new call, and finish those in flight."""
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
    """Return a behaviour that ends every call with this status."""

    async def behave(context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.abort(code, "no luck")

    return behave


async def hangs(_: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    """Do not answer the call in time."""
    await asyncio.sleep(60)


def waits(hold: asyncio.Event) -> Behaviour:
    """Return a behaviour that answers no call before this event."""

    async def behave(_: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await hold.wait()

    return behave


@dataclass(frozen=True)
class Answer:
    """The outcome of one call: ``text`` is the response, or the details of the error."""

    code: StatusCode
    text: str
    fallback: bool = False


class GrpcClient:
    """One channel of a client."""

    def __init__(self, address: tuple[str, int]) -> None:
        options = [("grpc.max_send_message_length", 1 << 24), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.aio.insecure_channel(f"{address[0]}:{address[1]}", options=options)
        self._infer: Any = self.channel.unary_unary(f"/{SERVICE}/ModelInfer")

    async def infer(
        self, message: bytes = b"\n\x01m", metadata: dict[str, str] | None = None, deadline: float | None = None
    ) -> Answer:
        """Request one prediction; a ``deadline`` in seconds is sent to the server."""
        call = self._infer(message, timeout=deadline, metadata=tuple((metadata or {}).items()))
        try:
            text = (await call).decode()
        except grpc.aio.AioRpcError as error:
            return Answer(error.code(), error.details() or "")
        seen = dict(await call.initial_metadata())
        return Answer(StatusCode.OK, text, seen.get("x-mlmodel-fallback") == "true")


@dataclass
class Setup:
    """A router, the revisions a and b, and a client."""

    router: Router
    a: GrpcRevision
    b: GrpcRevision
    client: GrpcClient

    async def send(self, count: int, metadata: dict[str, str] | None = None, at_once: int = 8) -> list[Answer]:
        """Request ``count`` predictions, ``at_once`` of them at a time."""
        answers: list[Answer] = []
        todo = iter(range(count))

        async def drive() -> None:
            for _ in todo:
                answers.append(await self.client.infer(metadata=metadata))

        await asyncio.gather(*(drive() for _ in range(at_once)))
        return answers


Run = Callable[..., None]


@pytest.fixture
def port() -> int:
    """The port of the revisions for gRPC."""
    return free_port(*ADDRESSES.values(), "127.0.0.13")


@pytest.fixture
def run(tmp_path: Path, port: int, version: str) -> Run:
    """``run(scenario, …)`` sets up a router and revisions, and awaits ``scenario(setup)``."""

    def start(
        scenario: Callable[[Setup], Coroutine[Any, Any, None]],
        routes: Routes | None = STABLE_A,
        a: Behaviour | None = None,
        b: Behaviour | None = None,
        changes: dict[str, str] | None = None,
        listening: bool = True,
        supervised: bool = False,
    ) -> None:
        async def main() -> None:
            async with AsyncExitStack() as stack:
                first = await stack.enter_async_context(GrpcRevision("a", ADDRESSES["a"], port, a))
                second = GrpcRevision("b", ADDRESSES["b"], port, b)
                if listening:
                    await stack.enter_async_context(second)
                router = await stack.enter_async_context(
                    Router(tmp_path / "router", changes or {}, port, version, supervised)
                )
                if routes is not None:
                    await router.route(routes)
                client = GrpcClient(router.grpc)
                await stack.enter_async_context(client.channel)
                await scenario(Setup(router, first, second, client))

        asyncio.run(main())

    return start


def test_without_routes_the_status_is_unavailable(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        sentence = "This model is not serving yet. Try again in a moment."
        assert await setup.client.infer() == Answer(StatusCode.UNAVAILABLE, sentence)
        await setup.router.route(Routes())
        assert await setup.client.infer() == Answer(StatusCode.UNAVAILABLE, sentence)
        await setup.router.route(STABLE_A)
        assert await setup.client.infer() == Answer(StatusCode.OK, "a")

    run(scenario, routes=None)


def test_calls_over_grpc_and_http_share_the_draw_and_the_counts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    http_port = free_port(*ADDRESSES.values())
    monkeypatch.setattr(routes_module, "SERVER_PORT", http_port)

    async def scenario(setup: Setup) -> None:
        async with (
            Revision("a", ADDRESSES["a"], http_port) as first,
            Revision("b", ADDRESSES["b"], http_port) as second,
        ):
            http = Client(setup.router.traffic)
            for _ in range(200):
                await http.post()
                assert (await setup.client.infer()).code == StatusCode.OK
            http.close()
            assert await setup.router.tally(25) == (candidate(100), stable(300))
            assert len(setup.a.sizes) + len(first.requests) == 300
            assert len(setup.b.sizes) + len(second.requests) == 100

    run(scenario, canary(25))


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(fails(StatusCode.INTERNAL), id="internal"),
        pytest.param(fails(StatusCode.CANCELLED), id="cancelled"),
        pytest.param(fails(StatusCode.UNAVAILABLE), id="unavailable"),
        pytest.param(fails(StatusCode.UNKNOWN), id="unknown"),
        pytest.param(fails(StatusCode.DEADLINE_EXCEEDED), id="deadline"),
        pytest.param(fails(StatusCode.DATA_LOSS), id="data loss"),
        pytest.param(fails(StatusCode.UNIMPLEMENTED), id="unimplemented"),
        pytest.param(fails(StatusCode.INVALID_ARGUMENT), id="invalid argument"),
        pytest.param(fails(StatusCode.RESOURCE_EXHAUSTED), id="resource exhausted"),
        pytest.param(hangs, id="hangs"),
        pytest.param(None, id="connection refused"),
    ],
)
def test_a_call_that_the_candidate_fails_or_rejects_is_retried_on_stable_and_counted(
    run: Run, behaviour: Behaviour | None
) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(100, at_once=100 if behaviour is hangs else 8)
        assert Counter((answer.code, answer.text) for answer in answers) == {(StatusCode.OK, "a"): 100}
        assert sum(answer.fallback for answer in answers) == 25
        assert await setup.router.tally(25) == (candidate(25, failed=25), stable(75))
        assert len(setup.b.sizes) == (25 if behaviour else 0), "the candidate gets each call once"

    # Only one that hangs meets the limit, and stable must not on a busy machine.
    limit_ms = 2_000 if behaviour is hangs else 10_000
    run(scenario, canary(25, limit_ms=limit_ms), b=behaviour, listening=behaviour is not None)


def test_calls_in_flight_are_retried_on_stable_when_the_candidate_dies(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        calls = asyncio.ensure_future(setup.send(20))

        async def in_flight() -> bool:
            return len(setup.b.sizes) == 8

        await setup.router.until(in_flight)
        await setup.b.__aexit__()
        assert Counter((answer.code, answer.text) for answer in await calls) == {(StatusCode.OK, "a"): 20}
        assert await setup.router.tally(100) == (candidate(20, failed=20), stable(0))

    run(scenario, canary(100), b=hangs)


def test_a_message_that_fits_the_buffer_is_retried_and_a_larger_one_goes_to_stable_and_does_not_count(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        assert await setup.client.infer(MESSAGE) == Answer(StatusCode.OK, "a", fallback=True)
        assert setup.a.sizes == setup.b.sizes == [len(MESSAGE)]
        await setup.router.route(canary(99))
        for _ in range(20):
            assert await setup.client.infer(MESSAGE * 20) == Answer(StatusCode.OK, "a")
        assert len(setup.b.sizes) == 1
        assert (await setup.router.counts())["uncounted"] == {**UNCOUNTED, "large": 20}
        assert await setup.router.tally(99) == (candidate(0), stable(0))

    run(scenario, canary(100), b=fails(StatusCode.INTERNAL))


def field(number: int, value: bytes) -> bytes:
    """Return a field of a protobuf message; ``value`` has less than 128 bytes."""
    return bytes([number << 3 | 2, len(value)]) + value


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "rest", [b"", field(3, b"id"), b"\x18\x96\x01", b"\x19" + bytes(8), b"\x1d" + bytes(4)], ids=range(5)
)
@pytest.mark.parametrize(("label", "name"), [(b"v1", "a"), (b"v2", "b"), (b"v9", "a")])
def test_a_version_in_the_message_goes_to_that_version_and_does_not_count(
    run: Run, label: bytes, name: str, rest: bytes
) -> None:
    async def scenario(setup: Setup) -> None:
        chooses = field(1, b"m") + rest + field(2, label)
        assert {(await setup.client.infer(chooses)).text for _ in range(20)} == {name}
        await setup.send(100)
        # A message without a version, or an empty one, chooses nothing.
        for _ in range(50):
            await setup.client.infer(field(1, b"m") + field(2, b""))
            await setup.client.infer(field(1, b"m") + field(5, field(2, b"v2")))
        assert await setup.router.tally(50) == (candidate(100), stable(100))
        assert (await setup.router.counts())["uncounted"] == {**UNCOUNTED, "chosen": 20}

    run(scenario, canary(50))


def sheds(code: StatusCode) -> Behaviour:
    """Return a behaviour that ends every call because its deadline cannot be met."""

    async def behave(context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        context.set_trailing_metadata((("x-mlmodel-late", "true"),))
        await context.abort(code, "too late")

    return behave


@pytest.mark.parametrize("behaviour", [fails(StatusCode.INTERNAL), fails(StatusCode.UNAVAILABLE), hangs], ids=range(3))
def test_a_failure_counts_though_the_client_set_a_deadline(run: Run, behaviour: Behaviour) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await asyncio.gather(*(setup.client.infer(deadline=10) for _ in range(10)))
        assert {answer.text for answer in answers} == {"a"}
        assert await setup.router.tally(100) == (candidate(10, failed=10), stable(0))

    run(scenario, canary(100, limit_ms=2_000), b=behaviour)


@pytest.mark.attack(held=True)
def test_a_deadline_that_the_server_cannot_meet_counts_for_neither_side(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        for _ in range(10):
            await setup.client.infer(deadline=5)
        assert await setup.router.tally(100) == (candidate(0), stable(0))

    run(scenario, canary(100), b=sheds(StatusCode.UNAVAILABLE))


class Silent:
    """A server in the place of a revision that gets calls and never answers.

    One of grpcio ends a call at its deadline, as the client does: HAProxy may report no outcome if both do so at once.
    """

    def __init__(self, revision: GrpcRevision) -> None:
        self.revision, self.calls = revision, 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Silent:
        await self.revision.__aexit__()
        self._server = await asyncio.start_server(self._accept, *self.revision.address.split(":"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readexactly(24)  # the preface
            writer.write(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))  # SETTINGS
            while True:
                head = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == 1:  # HEADERS
                    self.calls += 1
                elif head[3:5] == b"\4\0":  # SETTINGS, to acknowledge
                    writer.write(bytes([0, 0, 0, 4, 1, 0, 0, 0, 0]))


CALLS = 20  # of clients that give up


async def cancel(setup: Setup, hanging: Silent) -> int:
    """Send calls, and cancel those on which this server hangs after 150 ms; return their number. HAProxy learns it from
    the reset of the streams."""
    hanging.calls = 0
    calls = [setup.client._infer(b"\n\x01m") for _ in range(CALLS)]

    async def hang() -> bool:
        return bool(hanging.calls + sum(call.done() for call in calls) == CALLS)

    await setup.router.until(hang)
    await asyncio.sleep(0.15)
    for call in calls:
        call.cancel()
    return hanging.calls


async def expire(setup: Setup, hanging: Silent) -> int:
    """Send calls with a deadline of 2 s, after which the client resets the streams; return the number of those on which
    this server hangs."""
    hanging.calls = 0
    answers = await asyncio.gather(*(setup.client.infer(deadline=2) for _ in range(CALLS)))
    assert Counter(answer.code for answer in answers)[StatusCode.DEADLINE_EXCEEDED] == hanging.calls
    return hanging.calls


GIVE_UP = {"cancels": cancel, "deadline": expire}


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("give_up", GIVE_UP.values(), ids=GIVE_UP.keys())
@pytest.mark.parametrize("hanging", ["a", "b"])
def test_a_client_that_gives_up_soon_blames_nobody_and_one_that_waited_long_blames_the_version(
    run: Run, hanging: str, give_up: Callable[[Setup, Silent], Awaitable[int]]
) -> None:
    async def scenario(setup: Setup) -> None:
        weight, version = (1, setup.a) if hanging == "a" else (100, setup.b)
        async with Silent(version) as silent:
            for patience in (50_000, 100):
                routes = canary(weight, limit_ms=60_000, revision=f"b{patience}", patience_ms=patience)
                await setup.router.route(routes)
                hung = await give_up(setup, silent)
                assert hung >= CALLS - 1
                await setup.router.idle()
                blamed = hung if patience == 100 else 0
                if hanging == "a":
                    of_stable = stable(blamed, failed=blamed, left=hung - blamed)
                    assert await setup.router.tally(weight) == (candidate(CALLS - hung), of_stable)
                else:
                    of_candidate = candidate(blamed, failed=blamed, shared=blamed)
                    assert await setup.router.tally(weight) == (of_candidate, stable(0))

    run(scenario)


def test_a_client_that_gives_up_during_the_retry_blames_the_candidate_only_if_it_has_waited_long(run: Run) -> None:
    """As it would blame stable, which is still trying."""

    async def scenario(setup: Setup) -> None:
        blamed = candidate(CALLS, failed=CALLS, shared=CALLS)
        async with Silent(setup.a) as silent:
            for patience, expected in ((50_000, candidate(0)), (100, blamed)):
                await setup.router.route(canary(100, 60_000, revision=f"b{patience}", patience_ms=patience))
                for code in (StatusCode.INTERNAL, StatusCode.INVALID_ARGUMENT):
                    setup.b.behave = fails(code)
                    assert await cancel(setup, silent) == CALLS
                await setup.router.idle()
                assert await setup.router.tally(100) == (expected, stable(0))

    run(scenario, canary(100))


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "message",
    [b"\xa3\x06\xa4\x06" + field(2, b"v2"), field(2, b"v2")[:-1], b"\x12\xff\xff\xff\xff\xff\x01"],
    ids=range(3),
)
def test_a_message_that_cannot_be_read_to_its_end_does_not_count(run: Run, message: bytes) -> None:
    async def scenario(setup: Setup) -> None:
        for _ in range(20):
            assert (await setup.client.infer(message)).text == "a"
        assert await setup.router.tally(50) == (candidate(0), stable(0))
        assert (await setup.router.counts())["uncounted"] == {**UNCOUNTED, "other": 20}

    run(scenario, canary(50))


@pytest.mark.attack(held=True)
def test_a_path_that_is_not_ascii_reaches_no_server(run: Run) -> None:
    """A server of grpcio stops after one."""

    async def scenario(setup: Setup) -> None:
        headers = GRPC_HEADERS
        for routes in (STABLE_A, canary(50), canary(100)):
            await setup.router.route(routes)
            for path in (b"/\xe9/ModelInfer", b"/x?\xff", b"/\xe9"):
                answer = await http2(setup.router.grpc, path, headers=headers, body=b"\0\0\0\0\0")
                assert b"must be encoded" in answer
        assert {answer.code for answer in await setup.send(20)} == {StatusCode.OK}
        assert await setup.router.tally(100) == (candidate(20), stable(0))

    run(scenario)


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(2 * b"\0\0\0\0\x03\n\x01m", id="two messages"),
        pytest.param(b"\0\0\0\0\x03\n\x01m" + b"\0\0\0\0\x07\n\x01m\x12\x02v2", id="the second chooses"),
        pytest.param(b"\0\0\0\0\x09\n\x01m", id="a part of a message"),
        pytest.param(b"\0\0", id="a part of a prefix"),
        pytest.param(b"\x01\0\0\0\x03\n\x01m", id="compressed"),
    ],
)
def test_a_body_that_is_not_one_message_counts_for_neither_side(run: Run, body: bytes) -> None:
    async def scenario(setup: Setup) -> None:
        headers = GRPC_HEADERS
        path = f"/{SERVICE}/ModelInfer".encode()
        send = (http2(setup.router.grpc, path, headers=headers, body=body) for _ in range(20))
        calls = [asyncio.ensure_future(call) for call in send]

        async def arrived() -> bool:
            return bool((await setup.router.counts())["uncounted"] == {**UNCOUNTED, "large": 20})

        await setup.router.until(arrived)
        await asyncio.wait(calls, timeout=1)  # the server never answers a part of a message
        for call in calls:
            call.cancel()
        assert await setup.router.tally(50) == (candidate(0), stable(0))
        assert await arrived()

    run(scenario, canary(50))


def test_a_failure_that_is_passed_on_has_the_http_status_200(run: Run) -> None:
    """Not every client reads the gRPC status if the HTTP status is not 200."""

    async def scenario(setup: Setup) -> None:
        assert (await setup.client.infer(os.urandom(400_000))).code == StatusCode.INTERNAL
        metrics = (await setup.router.get("/metrics")).body.decode()
        (line,) = re.findall(r'haproxy_frontend_http_responses_total{proxy="grpc",code="(.xx)"} 1', metrics)
        assert line == "2xx"

    run(scenario, canary(100), b=fails(StatusCode.INTERNAL))


def test_a_message_that_arrives_slowly_is_retried_too(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        method: Any = setup.client.channel.stream_unary(f"/{SERVICE}/ModelInfer")
        call = method(timeout=60)
        await call.write(b"\n\x01m")
        await asyncio.sleep(0.2)  # by now the router has the message, but not its end
        await call.done_writing()
        assert await call == b"a"
        assert setup.a.sizes == setup.b.sizes == [3]

    run(scenario, canary(100), b=fails(StatusCode.INTERNAL))


@pytest.mark.parametrize("code", [StatusCode.NOT_FOUND, StatusCode.UNAUTHENTICATED], ids=lambda code: str(code.name))
def test_client_errors_are_passed_on_and_are_not_failures(run: Run, code: StatusCode) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(100)
        expected = {(StatusCode.OK, "a"): 75, (code, "no luck"): 25}
        assert Counter((answer.code, answer.text) for answer in answers) == expected
        assert await setup.router.tally(25) == (candidate(0), stable(75))

    run(scenario, canary(25), b=fails(code))


@pytest.mark.parametrize(
    "code", [StatusCode.INVALID_ARGUMENT, StatusCode.RESOURCE_EXHAUSTED], ids=lambda code: str(code.name)
)
def test_a_call_that_both_versions_reject_gets_the_response_of_stable_and_is_nobodys_fault_alone(
    run: Run, code: StatusCode
) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(100)
        assert Counter(answers) == {Answer(code, "no luck"): 100}
        assert (len(setup.a.sizes), len(setup.b.sizes)) == (100, 25)
        shed = (candidate(25, failed=25, shared=25), stable(75, failed=75))
        is_shed = code == StatusCode.RESOURCE_EXHAUSTED
        assert await setup.router.tally(25) == (shed if is_shed else (candidate(0), stable(0)))

    run(scenario, canary(25), a=fails(code), b=fails(code))


def test_failures_of_stable_are_passed_on_counted_and_never_retried_on_the_candidate(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        answers = await setup.send(100)
        expected = {(StatusCode.OK, "b"): 25, (StatusCode.INTERNAL, "no luck"): 75}
        assert Counter((answer.code, answer.text) for answer in answers) == expected
        assert (len(setup.a.sizes), len(setup.b.sizes)) == (75, 25)
        assert await setup.router.tally(25) == (candidate(25), stable(75, failed=75))

    run(scenario, canary(25), a=fails(StatusCode.INTERNAL))


def test_a_call_that_both_versions_fail_is_sent_to_each_once_and_the_failure_is_passed_on(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        assert await setup.client.infer() == Answer(StatusCode.UNKNOWN, "no luck")
        assert (len(setup.a.sizes), len(setup.b.sizes)) == (1, 1)
        assert await setup.router.tally(100) == (candidate(1, failed=1, shared=1), stable(0))

    run(scenario, canary(100), a=fails(StatusCode.UNKNOWN), b=fails(StatusCode.INTERNAL))


@pytest.mark.attack(held=True)
def test_metadata_reaches_the_model_and_selects_the_version(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        sent = {"traceparent": trace, "authorization": "Bearer k"}
        for _ in range(5):
            assert (await setup.client.infer(metadata={**sent, "x-mlmodel-version": "candidate"})).text == "b"
            assert (await setup.client.infer(metadata={"x-mlmodel-version": "stable"})).text == "a"
        assert setup.b.metadata.items() >= sent.items()
        ours = {name: value for name, value in setup.b.metadata.items() if name.startswith("x-mlmodel-")}
        assert ours == {"x-mlmodel-client": "127.0.0.1"}

    run(scenario, canary(50))


def test_the_server_learns_what_was_drawn(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        await setup.send(100, {"x-mlmodel-drawn": "99 b0b0b0b0 candidate"})
        assert setup.a.metadata["x-mlmodel-drawn"] == "50 b0b0b0b0 stable"
        assert setup.b.metadata["x-mlmodel-drawn"] == "50 b0b0b0b0 candidate"

    run(scenario, canary(50))


def test_a_stream_is_answered_while_it_is_open(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        method: Any = setup.client.channel.stream_stream(f"/{REFLECTION}/ServerReflectionInfo")
        for version in ("stable", "candidate"):
            call = method(timeout=60, metadata=(("x-mlmodel-version", version),))
            for word in (b"one", b"two"):
                await call.write(word)
                assert await call.read() == word
            await call.done_writing()
            assert await call.read() == grpc.aio.EOF

    run(scenario, canary(50))


@pytest.mark.attack(held=True)
def test_more_calls_than_the_memory_holds_are_shed(run: Run) -> None:
    hold = asyncio.Event()

    async def scenario(setup: Setup) -> None:
        answers = await setup.router.released((setup.client.infer() for _ in range(20)), hold, answered=10)
        assert Counter(answer.code for answer in answers) == {StatusCode.OK: 10, StatusCode.RESOURCE_EXHAUSTED: 10}
        assert "too many" in next(answer.text for answer in answers if answer.code != StatusCode.OK)

    run(scenario, a=waits(hold), changes={"be_conn gt 500": "be_conn gt 10"})


class Load:
    """Continuous calls over several channels during an action."""

    def __init__(self, router: Router, channels: int = 4) -> None:
        self.clients = [GrpcClient(router.grpc) for _ in range(channels)]
        self.answers: list[Answer] = []
        self._stopped = asyncio.Event()

    async def during(self, action: Awaitable[None]) -> None:
        """Run the load until ``action`` is done."""

        async def drive(client: GrpcClient) -> None:
            while not self._stopped.is_set():
                self.answers.append(await client.infer())
                await asyncio.sleep(0.002)

        drivers = [asyncio.ensure_future(drive(client)) for client in self.clients for _ in range(2)]
        try:
            await action
        finally:
            self._stopped.set()
            await asyncio.gather(*drivers)
            for client in self.clients:
                await client.channel.close()

    async def progress(self, answers: int) -> None:
        """Wait for this number of further answers."""
        end = len(self.answers) + answers
        await until(lambda: len(self.answers) >= end)

    @property
    def failures(self) -> Counter[tuple[StatusCode, str]]:
        """Number of calls that failed, by code and details."""
        return Counter((answer.code, answer.text) for answer in self.answers if answer.code != StatusCode.OK)


def test_a_whole_rollout_loses_no_call(run: Run, port: int) -> None:
    async def scenario(setup: Setup) -> None:
        load = Load(setup.router)
        counts: list[dict[str, Any]] = []

        async def rollout() -> None:
            for weight in (0, 5, 50, 100):
                await setup.router.route(canary(weight))
                await load.progress(100)
            counts.append((await setup.router.counts())["weights"])
            # b is promoted; a's pod drains, and its slot goes to another revision, which fails and is rolled back.
            await setup.router.route(Routes({"b": ADDRESSES["b"]}, stable="b"))
            await setup.a.drain()
            async with GrpcRevision("c", "127.0.0.13", port, fails(StatusCode.INTERNAL)):
                third: dict[Slot, str] = {"a": "127.0.0.13", "b": ADDRESSES["b"]}
                await setup.router.route(Routes(third, "b", "a", 50, "c0c0c0c0"))
                await load.progress(100)
                counts.insert(0, (await setup.router.counts())["weights"])
                await setup.router.route(Routes(third, stable="b"))
            await load.progress(100)

        await load.during(rollout())
        print(f"{len(load.answers)} calls, failed: {load.failures}; {counts}")
        assert not load.failures
        bad, good = counts
        assert bad["50"]["candidate"]["failed"] == bad["50"]["candidate"]["requests"] > 0
        assert {weight: sides["candidate"]["failed"] for weight, sides in good.items()} == {"5": 0, "50": 0, "100": 0}

    run(scenario)


def test_a_router_that_stops_finishes_its_calls(run: Run) -> None:
    hold = asyncio.Event()

    async def scenario(setup: Setup) -> None:
        calls = [asyncio.ensure_future(setup.client.infer()) for _ in range(10)]

        async def in_flight() -> bool:
            return len(setup.a.sizes) == 10

        await setup.router.until(in_flight)
        setup.router.process.send_signal(signal.SIGUSR1)
        await setup.router.until(setup.router.is_closed)
        await asyncio.sleep(0.3)  # in which it must not end them
        hold.set()
        assert {answer.text for answer in await asyncio.gather(*calls)} == {"a"}
        assert await setup.router.exits() == 0

    run(scenario, a=waits(hold))


@pytest.mark.parametrize("weight", [25, 100])
def test_a_router_that_stops_sends_a_call_to_the_version_that_it_names(run: Run, weight: int) -> None:
    async def scenario(setup: Setup) -> None:
        await setup.router.begin_stop()
        for _ in range(5):
            assert (await setup.client.infer(b"\n\x01m" + field(2, b"v2"))).text == "b"
            assert (await setup.client.infer(metadata={"x-mlmodel-version": "candidate"})).text == "b"
            assert (await setup.client.infer(b"\n\x01m" + field(2, b"v1"))).text == "a"
            assert (await setup.client.infer(metadata={"x-mlmodel-version": "stable"})).text == "a"
            assert (await setup.client.infer()).text == "a"
        assert (await setup.router.counts())["uncounted"] == UNCOUNTED | {"chosen": 20}

    run(scenario, canary(weight))


@pytest.mark.attack
def test_while_a_router_stops_at_most_two_calls_that_choose_the_candidate_are_in_flight(run: Run) -> None:
    hold = asyncio.Event()

    async def scenario(setup: Setup) -> None:
        await setup.router.begin_stop()
        message = b"\n\x01m" + field(2, b"v2")
        answers = await setup.router.released((setup.client.infer(message) for _ in range(10)), hold, answered=8)
        assert Counter(answer.code for answer in answers) == {StatusCode.OK: 2, StatusCode.RESOURCE_EXHAUSTED: 8}
        assert len(setup.b.sizes) == 2

    run(scenario, canary(25), b=waits(hold))


@pytest.mark.parametrize("weight", [50, 100])
def test_a_router_that_stops_retries_the_calls_that_the_candidate_fails(run: Run, version: str, weight: int) -> None:
    async def fail(context: Any) -> None:
        await asyncio.sleep(0.5)
        await context.abort(StatusCode.INTERNAL, "broken")

    async def scenario(setup: Setup) -> None:
        calls = [asyncio.ensure_future(setup.client.infer()) for _ in range(20)]

        async def in_flight() -> bool:
            return len(setup.a.sizes) + len(setup.b.sizes) == 20

        await setup.router.until(in_flight)
        setup.router.process.send_signal(signal.SIGUSR1)
        # Over the same connection, while the router stops.
        calls += [asyncio.ensure_future(setup.client.infer()) for _ in range(20)]
        assert {(answer.code, answer.text) for answer in await asyncio.gather(*calls)} == {(StatusCode.OK, "a")}
        if version == "shipped":  # HAProxy 3.0 waits for its idle connections to itself, until `hard-stop-after`
            assert await setup.router.exits() == 0

    run(scenario, canary(weight), b=fail, supervised=True)
