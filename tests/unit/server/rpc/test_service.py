"""The gRPC server in front of the pipeline: every method, codes of errors, health and reflection."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mlmodel_server.errors import ModelFailure, RequestError
from mlmodel_server.rpc import accepting, codec
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from mlmodel_server.rpc.service import SERVICE, GrpcServer
from mlmodel_server.serving import describe
from mlmodel_server.serving.access import ApiKeys
from mlmodel_server.serving.context import Limits
from mlmodel_server.serving.exchange import Exchange
from mlmodel_server.serving.inference import Answer, Call
from mlmodel_server.serving.pipeline import Pipeline
from tests.integration.router.loopback import http2
from tests.unit.server.doubling import serving
from tests.unit.server.rest.test_app import application

GARBAGE = b"\xff\xff"
"""Bytes that cannot be parsed as a message."""


class Recording(Pipeline):
    """Records the exchanges, and raises ``error`` instead of a prediction."""

    def __init__(self, keys: Path) -> None:
        keys.write_text(f"client: {hashlib.sha256(b'k').hexdigest()}\n")
        super().__init__(serving(limits=Limits(max_body=10_000, timeout=100.0), keys=ApiKeys(keys)))
        self.exchanges: list[Exchange[Any]] = []
        self.error: Exception | None = None
        self.predicted = 0
        predict = self.inference.predict

        async def recorded(call: Call, deadline: float, source: object) -> Answer:
            self.predicted += 1
            if self.error:
                raise self.error
            return await predict(call, deadline, source)

        self.inference.predict = recorded  # type: ignore[method-assign]

    async def serve(self, exchange: Exchange[Any]) -> Any:
        self.exchanges.append(exchange)
        return await super().serve(exchange)

    def counts(self) -> Any:
        """Return the number of requests by HTTP status."""
        return self.serving.recorder.report()["requests"]


@pytest.fixture
def pipeline(tmp_path: Path) -> Recording:
    return Recording(tmp_path / "keys")


class Client:
    """Calls methods by name."""

    def __init__(self, channel: grpc.aio.Channel, port: int) -> None:
        self.channel, self.address = channel, ("127.0.0.1", port)

    def call(self, name: str, /, *, key: str = "k", **fields: Any) -> Any:
        method: Any = self.channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(pb, f"{name}Response").FromString,
        )
        return method(getattr(pb, f"{name}Request")(**fields), timeout=10, metadata=(("x-api-key", key),))

    def infer(self, model: str = "double", rows: int = 1, **fields: Any) -> Any:
        contents = pb.InferTensorContents(fp64_contents=[1.5] * rows)
        tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP64", shape=[rows], contents=contents)
        return self.call("ModelInfer", model_name=model, inputs=[tensor], **fields)


@asynccontextmanager
async def served(pipeline: Pipeline) -> AsyncIterator[tuple[Client, GrpcServer]]:
    pipeline.start(0)
    server = GrpcServer(pipeline)
    port = await server.start("127.0.0.1:0", None, lambda: pytest.fail("accepts no further calls"))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Client(channel, port), server
    finally:
        await server.stop(0)
        await pipeline.stop()


def run(test: Callable[[Client, GrpcServer], Awaitable[None]], pipeline: Pipeline) -> None:
    """Run a test against a server."""

    async def whole() -> None:
        async with served(pipeline) as (client, server):
            await test(client, server)

    asyncio.run(whole())


def test_every_method_answers(pipeline: Recording, caplog: pytest.LogCaptureFixture) -> None:
    async def test(client: Client, server: GrpcServer) -> None:
        assert (await client.call("ServerLive")).live
        assert (await client.call("ServerReady")).ready
        assert (await client.call("ModelReady", name="double")).ready
        assert (await client.call("ModelReady", name="double", version="v1")).ready
        info = await client.call("ServerMetadata")
        assert (info.name, info.version, list(info.extensions)) == (
            *describe.server()[:2],
            ["binary_tensor_data"],
        )
        assert list((await client.call("ModelMetadata", name="double")).inputs[0].shape) == [-1]
        call = client.infer(id="7")
        answer = await call
        assert (answer.id, answer.model_name, answer.model_version) == ("7", "double", "v1")
        assert list(answer.outputs[0].contents.fp64_contents) == [3.0]
        assert ("x-mlmodel-version", "v1") in [(key, value) for key, value in await call.trailing_metadata()]

    run(test, pipeline)
    assert caplog.messages == []
    (exchange,) = pipeline.exchanges
    assert exchange.headers[b"x-api-key"] == b"k"
    assert 0 < exchange.deadline - perf_counter() < 11, "10 s, rounded up by gRPC"
    assert pipeline.counts() == {"200": 1}


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RequestError("no"), grpc.StatusCode.INVALID_ARGUMENT, "no"),
        (RequestError("no", 404), grpc.StatusCode.NOT_FOUND, "no"),
        (RequestError("no", 413), grpc.StatusCode.RESOURCE_EXHAUSTED, "no"),
        (RequestError("no", 429), grpc.StatusCode.RESOURCE_EXHAUSTED, "no"),
        (RequestError("no", 503), grpc.StatusCode.UNAVAILABLE, "no"),
        (RequestError("no", 504), grpc.StatusCode.DEADLINE_EXCEEDED, "no"),
        (RequestError("no", 418), grpc.StatusCode.INTERNAL, "no"),
        (ModelFailure("it failed"), grpc.StatusCode.INTERNAL, "it failed"),
        (KeyError("secret"), grpc.StatusCode.INTERNAL, "internal error (KeyError)"),
    ],
)
def test_errors_have_a_code_and_a_sentence(
    error: Exception, code: grpc.StatusCode, words: str, pipeline: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.error = error

    async def test(client: Client, server: GrpcServer) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.infer()
        assert (caught.value.code(), caught.value.details()) == (code, words)
        assert ("x-mlmodel-version", "v1") in [(key, value) for key, value in caught.value.trailing_metadata()]

    run(test, pipeline)
    assert len(caplog.messages) == (0 if isinstance(error, RequestError) else 1)
    assert "secret" not in caplog.text


def test_an_unknown_model_is_not_found_and_a_large_message_is_rejected(pipeline: Recording) -> None:
    async def test(client: Client, server: GrpcServer) -> None:
        for call in (client.infer("other"), client.infer(model_version="v2"), client.call("ModelReady", name="other")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.infer(rows=2_000)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

    run(test, pipeline)


@pytest.mark.attack(held=True)
def test_a_malformed_message_is_rejected_and_not_logged(pipeline: Recording, caplog: pytest.LogCaptureFixture) -> None:
    async def test(client: Client, server: GrpcServer) -> None:
        for name in ("ModelInfer", "ModelMetadata", "ServerMetadata", "ModelReady", "ServerReady", "ServerLive"):
            method: Any = client.channel.unary_unary(f"/{SERVICE}/{name}")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(GARBAGE, timeout=10, metadata=(("x-api-key", "k"),))
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() == f"the message is not a {name}Request"

    run(test, pipeline)
    assert caplog.messages == []
    assert pipeline.counts() == {"400": 1}


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("name", ["ModelInfer", "ModelMetadata", "ServerMetadata"])
def test_without_a_key_no_byte_is_parsed(name: str, pipeline: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    parse = codec.parse

    def recorded(kind: Any, raw: bytes) -> Any:
        parsed.append(raw)
        return parse(kind, raw)

    monkeypatch.setattr(codec, "parse", recorded)

    async def test(client: Client, server: GrpcServer) -> None:
        method: Any = client.channel.unary_unary(f"/{SERVICE}/{name}")
        for metadata in ((), (("x-api-key", "another"),)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(GARBAGE, timeout=10, metadata=metadata)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert parsed == []
        with pytest.raises(grpc.aio.AioRpcError):
            await method(GARBAGE, timeout=10, metadata=(("x-api-key", "k"),))
        assert parsed == [GARBAGE]

    run(test, pipeline)


def test_a_request_that_cannot_be_decoded_is_counted(pipeline: Recording) -> None:
    async def test(client: Client, server: GrpcServer) -> None:
        with pytest.raises(grpc.aio.AioRpcError):
            await client.call("ModelInfer", model_name="double", inputs=[])

    run(test, pipeline)
    assert pipeline.counts() == {"400": 1}
    assert pipeline.predicted == 0


@pytest.mark.attack(held=True)
def test_without_a_key_only_health_is_answered_and_nothing_is_decoded(pipeline: Recording) -> None:
    async def test(client: Client, server: GrpcServer) -> None:
        for call in (
            client.infer(key="another"),
            client.call("ModelInfer", key="another", model_name="double", inputs=[]),
            client.call("ModelMetadata", key="another", name="double"),
            client.call("ServerMetadata", key="another"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        for name in ("ServerLive", "ServerReady"):
            await client.call(name, key="another")
        await client.call("ModelReady", key="another", name="double")

    run(test, pipeline)
    assert pipeline.counts() == {"401": 2}, "inference requests are counted, decoded or not"
    assert pipeline.predicted == 0


@pytest.mark.attack(held=True)
def test_with_a_full_queue_a_request_is_not_decoded(pipeline: Recording) -> None:
    def full(_: object) -> None:
        raise RequestError("too many wait", 429)

    pipeline.inference.check_room = full  # type: ignore[assignment, method-assign]

    async def test(client: Client, server: GrpcServer) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call("ModelInfer", model_name="double", inputs=[])
        assert caught.value.details() == "too many wait"

    run(test, pipeline)
    assert pipeline.counts() == {"429": 1}


def test_health_and_reflection_list_the_service(pipeline: Recording) -> None:
    async def test(client: Client, server: GrpcServer) -> None:
        health: Any = health_pb2_grpc.HealthStub(client.channel)
        for service in ("", SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        messages: Any = reflection_pb2
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(client.channel)  # type: ignore[arg-type]
        requests = [messages.ServerReflectionRequest(file_containing_symbol=SERVICE)]
        (described,) = [answer async for answer in reflection.ServerReflectionInfo(iter(requests))]
        assert b"ModelInfer" in described.file_descriptor_response.file_descriptor_proto[0]

    run(test, pipeline)


def paused(pipeline: Recording) -> tuple[asyncio.Event, asyncio.Event]:
    """Let each prediction wait; return the events that one has started, and that they may go on."""
    started, go_on, predict = asyncio.Event(), asyncio.Event(), pipeline.inference.predict

    async def waits(call: Call, deadline: float, source: object) -> Answer:
        started.set()
        await go_on.wait()
        return await predict(call, deadline, source)

    pipeline.inference.predict = waits  # type: ignore[method-assign]
    return started, go_on


def test_stop_finishes_calls_in_flight(pipeline: Recording) -> None:
    async def test(client: Client, server: GrpcServer) -> None:
        started, go_on = paused(pipeline)
        call = asyncio.ensure_future(client.infer())
        await started.wait()
        stopping = asyncio.ensure_future(server.stop(10))
        await asyncio.sleep(0)
        go_on.set()
        assert (await call).outputs[0].name == "y"
        await stopping

    run(test, pipeline)


def test_a_call_that_outlives_the_drain_gets_unavailable(pipeline: Recording) -> None:
    async def test(client: Client, server: GrpcServer) -> None:
        started = asyncio.Event()

        async def endless(call: Call, deadline: float, source: object) -> Answer:
            started.set()
            await asyncio.Event().wait()
            raise AssertionError("cancelled before")

        pipeline.inference.predict = endless  # type: ignore[method-assign]
        call = asyncio.ensure_future(client.infer())
        await started.wait()
        stopping = asyncio.ensure_future(server.stop(10))
        await asyncio.sleep(0)
        pipeline.cut()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "the server stops: retry, on a new connection"
        await stopping

    run(test, pipeline)
    assert pipeline.counts() == {"503": 1}


def test_a_call_selects_any_outputs() -> None:
    async def test(client: Client, _: GrpcServer) -> None:
        for names in (["predict"], ["predict_proba"], ["decision function", "predict_proba", "predict"]):
            answer = await client.infer(outputs=[{"name": name} for name in names])
            assert [output.name for output in answer.outputs] == names
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.infer(outputs=[{"name": "transform"}])
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "unknown output 'transform'; the model has predict, predict_proba" in (caught.value.details() or "")

    run(test, application().pipeline)


BAD_PATHS = [b"/\xff\xfe", b"\xff", b"/\xc3", b"/inference.GRPCInferenceService/ModelInf\xe9r", b"/\xed\xa0\x80"]
"""Paths that are not UTF-8."""

GRPC = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_call_with_a_path_that_is_not_utf8_stops_nothing(
    pipeline: Recording, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(client: Client, _: GrpcServer) -> None:
        started, go = paused(pipeline)
        in_flight = asyncio.ensure_future(client.infer())
        await started.wait()
        for _repeated in range(3):
            answer = await http2(client.address, path, headers=GRPC, body=bytes(5))
            assert b"grpc-status\x0212" in answer, "UNIMPLEMENTED"
        assert (await client.call("ServerLive")).live, "on the connection that was open before"
        go.set()
        assert (await in_flight).outputs[0].contents.fp64_contents == [3.0]

    run(test, pipeline)
    assert not caplog.records


def test_an_unknown_method_is_named_so(pipeline: Recording) -> None:
    async def test(client: Client, _: GrpcServer) -> None:
        for path in (f"/{SERVICE}/RepositoryIndex", "/a/b", "/grpc.health.v1.Health/Nothing"):
            method: Any = client.channel.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(b"", timeout=10)
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            assert caught.value.details() == accepting.UNKNOWN
        many = [method(b"") for _repeated in range(50)]
        codes = {await call.code() for call in many}
        assert codes == {grpc.StatusCode.UNIMPLEMENTED}
        assert (await client.call("ServerLive")).live

    run(test, pipeline)


def test_a_loop_that_ends_is_reported() -> None:
    async def whole() -> None:
        ended = asyncio.Event()
        server = grpc.aio.server()
        server.add_insecure_port("127.0.0.1:0")
        tasks = asyncio.all_tasks()
        await accepting.start(server, ended.set)
        for task in asyncio.all_tasks() - tasks:
            task.cancel()
        await asyncio.wait_for(ended.wait(), 10)

    asyncio.run(whole())
