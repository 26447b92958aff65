"""The gRPC server in front of a data plane: every method, codes of errors, health and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mlmodel_server.errors import ModelFailure, RequestError
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from mlmodel_server.rpc.service import SERVICE, GrpcServer
from mlmodel_server.tensors import InferRequest, InferResponse, ModelMetadata, TensorSpec, named

SPEC = TensorSpec("x", "FP64", (-1,))


class Plane:
    """Doubles numbers, or raises what it is told to."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.full = False
        self.asked: list[tuple[float | None, Mapping[str, str]]] = []
        self.refusals: list[str] = []

    def admit(self, metadata: Mapping[str, str]) -> None:
        if metadata.get("x-api-key") != "k":
            raise RequestError("this model asks for an API key", 401)

    def check_room(self) -> None:
        if self.full:
            raise RequestError("too many wait", 429)

    async def infer(
        self, model: str, version: str, request: InferRequest, deadline: float | None, metadata: Mapping[str, str]
    ) -> InferResponse:
        self.model_ready(model, version)
        self.asked.append((deadline, metadata))
        if self.error:
            raise self.error
        return InferResponse(request.id, [named("y", request.inputs[0].array * 2)])

    def refused(self, error: RequestError, metadata: Mapping[str, str]) -> None:
        self.refusals.append(str(error))

    def metadata(self, model: str, version: str) -> ModelMetadata:
        self.model_ready(model, version)
        return ModelMetadata("double", ("v1",), "test", (SPEC,), (SPEC,))

    def model_ready(self, model: str, version: str) -> bool:
        if model != "double" or version not in ("", "v1"):
            raise RequestError("there is no such model", 404)
        return True

    def ready(self) -> bool:
        return True

    def describe(self) -> tuple[str, str, tuple[str, ...]]:
        return "server", "1", ("binary_tensor_data",)


class Client:
    """Calls a method by its name."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

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
async def serving(plane: Plane, failed: Callable[[Exception], None]) -> AsyncIterator[tuple[Client, GrpcServer]]:
    server = GrpcServer(plane, max_message=10_000, metadata=(("x-mlmodel-version", "v1"),), failed=failed)
    port = await server.start("127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Client(channel), server
    finally:
        await server.stop(0)


def run(test: Callable[[Client, GrpcServer], Awaitable[None]], plane: Plane | None = None) -> list[Exception]:
    """Run a test against a server; returns what the server was told of failures."""
    failures: list[Exception] = []

    async def whole() -> None:
        async with serving(plane or Plane(), failures.append) as (client, server):
            await test(client, server)

    asyncio.run(whole())
    return failures


def test_every_method_answers() -> None:
    plane = Plane()

    async def test(client: Client, server: GrpcServer) -> None:
        assert (await client.call("ServerLive")).live
        assert (await client.call("ServerReady")).ready
        assert (await client.call("ModelReady", name="double")).ready
        assert (await client.call("ModelReady", name="double", version="v1")).ready
        told = await client.call("ServerMetadata")
        assert (told.name, told.version, list(told.extensions)) == ("server", "1", ["binary_tensor_data"])
        assert list((await client.call("ModelMetadata", name="double")).inputs[0].shape) == [-1]
        call = client.infer(id="7")
        answer = await call
        assert (answer.id, answer.model_name, answer.model_version) == ("7", "double", "v1")
        assert list(answer.outputs[0].contents.fp64_contents) == [3.0]
        assert ("x-mlmodel-version", "v1") in [(key, value) for key, value in await call.trailing_metadata()]

    assert run(test, plane) == []
    deadline, metadata = plane.asked[0]
    assert metadata["x-api-key"] == "k"
    assert deadline is not None
    assert 0 < deadline - perf_counter() < 11, "10 s, which gRPC rounds up"


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
def test_errors_have_a_code_and_a_sentence(error: Exception, code: grpc.StatusCode, words: str) -> None:
    plane = Plane()
    plane.error = error

    async def test(client: Client, server: GrpcServer) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.infer()
        assert (caught.value.code(), caught.value.details()) == (code, words)
        assert ("x-mlmodel-version", "v1") in [(key, value) for key, value in caught.value.trailing_metadata()]

    assert run(test, plane) == ([] if isinstance(error, RequestError) else [error])


def test_what_is_not_there_is_not_found_and_what_is_too_long_is_refused() -> None:
    async def test(client: Client, server: GrpcServer) -> None:
        for call in (client.infer("other"), client.infer(model_version="v2"), client.call("ModelReady", name="other")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.infer(rows=2_000)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

    run(test)


def test_what_is_no_message_is_refused_and_not_logged() -> None:
    async def test(client: Client, server: GrpcServer) -> None:
        method: Any = client.channel.unary_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"\xff\xff", timeout=10)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "the message is no ModelInferRequest"

    assert run(test) == []


def test_a_request_that_cannot_be_decoded_is_told_to_who_counts() -> None:
    plane = Plane()

    async def test(client: Client, server: GrpcServer) -> None:
        with pytest.raises(grpc.aio.AioRpcError):
            await client.call("ModelInfer", model_name="double", inputs=[])

    run(test, plane)
    assert len(plane.refusals) == 1
    assert plane.asked == []


def test_without_a_key_only_health_is_told_and_nothing_is_decoded() -> None:
    plane = Plane()

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

    run(test, plane)
    assert plane.refusals == ["this model asks for an API key"] * 2, "predictions, decoded or not, are counted"
    assert plane.asked == []


def test_with_no_room_a_request_is_not_even_decoded() -> None:
    plane = Plane()
    plane.full = True

    async def test(client: Client, server: GrpcServer) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call("ModelInfer", model_name="double", inputs=[])
        assert caught.value.details() == "too many wait"

    run(test, plane)
    assert plane.refusals == ["too many wait"]


def test_health_and_reflection_know_the_service() -> None:
    async def test(client: Client, server: GrpcServer) -> None:
        health: Any = health_pb2_grpc.HealthStub(client.channel)
        for service in ("", SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        messages: Any = reflection_pb2
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(client.channel)  # type: ignore[arg-type]
        asked = [messages.ServerReflectionRequest(file_containing_symbol=SERVICE)]
        (described,) = [answer async for answer in reflection.ServerReflectionInfo(iter(asked))]
        assert b"ModelInfer" in described.file_descriptor_response.file_descriptor_proto[0]

    run(test)


def test_stopping_answers_what_is_in_flight() -> None:
    class Slow(Plane):
        def __init__(self) -> None:
            super().__init__()
            self.begun, self.go_on = asyncio.Event(), asyncio.Event()

        async def infer(self, *arguments: Any) -> InferResponse:
            self.begun.set()
            await self.go_on.wait()
            return InferResponse(None, [named("y", np.array([1.0]))])

    plane = Slow()

    async def test(client: Client, server: GrpcServer) -> None:
        call = asyncio.ensure_future(client.infer())
        await plane.begun.wait()
        stopping = asyncio.ensure_future(server.stop(10))
        await asyncio.sleep(0)
        plane.go_on.set()
        assert (await call).outputs[0].name == "y"
        await stopping

    run(test, plane)
