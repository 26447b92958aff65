"""The gRPC server: the inference service in front of the pipeline, with reflection and the health service.

gRPC starts threads: create a :class:`GrpcServer` in the worker, after the fork.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import StatusCode
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mlmodel_server.rpc import accepting, codec
from mlmodel_server.rpc.exchange import Context, GrpcExchange, headers_of
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from mlmodel_server.serving import describe
from mlmodel_server.serving.access import Certificate
from mlmodel_server.serving.exchange import LATE, Failure
from mlmodel_server.serving.pipeline import Pipeline

SERVICE = "inference.GRPCInferenceService"

Method = Callable[[bytes, Context], Awaitable[Any]]
"""From the bytes of a message to the response message or a :class:`Failure`."""

_CODES = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    413: StatusCode.RESOURCE_EXHAUSTED,
    429: StatusCode.RESOURCE_EXHAUSTED,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}
"""By the HTTP status of a failure; INTERNAL for any other."""


def _code(failure: Failure) -> StatusCode:
    """Return the code of a failure. Clients retry UNAVAILABLE, so a deadline that no retry can meet has another one."""
    if failure.is_late and not failure.retry_after:
        return StatusCode.DEADLINE_EXCEEDED
    return _CODES.get(failure.status, StatusCode.INTERNAL)


_AGE = (("grpc.max_connection_age_ms", 3_000), ("grpc.max_connection_age_grace_ms", 60_000))
"""Clients never close a connection, and a call fails if it is sent while the pod exits. So the server closes each one
after less than 5 s, the time for which a pod still serves after Kubernetes sends it no new connections."""


class GrpcServer:
    """Serves gRPC. Every response has version and revision of the model in its trailing metadata."""

    def __init__(self, pipeline: Pipeline) -> None:
        serving = pipeline.serving
        self._pipeline = pipeline
        self._trailer = (("x-mlmodel-version", serving.version), ("x-mlmodel-revision", serving.revision))
        self._health = health.aio.HealthServicer()
        self._stopping = False
        limit = serving.limits.max_body
        sizes = [("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", limit)]
        self._server = grpc.aio.server(options=[*sizes, ("grpc.so_reuseport", 1), *_AGE])
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(answer), None, lambda response: response.SerializeToString()
            )
            for name, answer in _Service(pipeline).methods().items()
        }
        self._server.add_registered_method_handlers(SERVICE, handlers)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(
        self, address: str, credentials: grpc.ServerCredentials | None, on_failure: Callable[[], None]
    ) -> int:
        """Listen on ``HOST:PORT`` and return the port. Several processes may share one: the kernel spreads connections.

        ``on_failure`` is called if the server accepts no further calls although it was not stopped. Raise RuntimeError
        if it cannot listen on the address.
        """
        port = (
            self._server.add_secure_port(address, credentials)
            if credentials
            else self._server.add_insecure_port(address)
        )

        def on_end() -> None:
            if not self._stopping:
                on_failure()

        await accepting.start(self._server, on_end)
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, grace: float) -> None:
        """Report NOT_SERVING to probes, reject new calls, and wait up to ``grace`` seconds for calls in flight."""
        self._stopping = True
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)

    def _guarded(self, answer: Method) -> Method:
        """Return a handler: call ``answer``, turn errors into a gRPC code and one sentence."""

        async def guarded(raw: bytes, context: Context) -> Any:
            context.set_trailing_metadata(self._trailer)
            try:
                reply = await answer(raw, context)
            except Exception as error:
                reply = self._pipeline.failure(error)
            if isinstance(reply, Failure):
                if reply.is_late:
                    context.set_trailing_metadata((*self._trailer, (LATE, "true")))
                await context.abort(_code(reply), reply.message)
            return reply

        return guarded


def credentials(certificate: Certificate) -> grpc.ServerCredentials:
    """Return credentials that read the files of the certificate for every new connection."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([certificate.pem()])

    return grpc.dynamic_ssl_server_credentials(configuration(), configuration)


class _Service:
    """The methods of the service. Each gets the bytes of its message, so that it checks the API key before it parses
    them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._serving = pipeline, pipeline.serving

    def methods(self) -> dict[str, Method]:
        """Return the function of each method, by name."""
        return {
            "ServerLive": self.live,
            "ServerReady": self.ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.infer,
        }

    async def live(self, raw: bytes, _context: Context) -> pb.ServerLiveResponse:
        codec.parse(pb.ServerLiveRequest, raw)
        return pb.ServerLiveResponse(live=True)

    async def ready(self, raw: bytes, _context: Context) -> pb.ServerReadyResponse:
        codec.parse(pb.ServerReadyRequest, raw)
        return pb.ServerReadyResponse(ready=not self._serving.draining)

    async def model_ready(self, raw: bytes, _context: Context) -> pb.ModelReadyResponse:
        request = codec.parse(pb.ModelReadyRequest, raw)
        describe.check(self._serving, request.name, request.version)
        return pb.ModelReadyResponse(ready=not self._serving.draining)

    async def server_metadata(self, raw: bytes, context: Context) -> pb.ServerMetadataResponse:
        self._pipeline.authorise(headers_of(context))
        codec.parse(pb.ServerMetadataRequest, raw)
        name, version, extensions = describe.server()
        return pb.ServerMetadataResponse(name=name, version=version, extensions=extensions)

    async def model_metadata(self, raw: bytes, context: Context) -> pb.ModelMetadataResponse:
        self._pipeline.authorise(headers_of(context))
        request = codec.parse(pb.ModelMetadataRequest, raw)
        describe.check(self._serving, request.name, request.version)
        return codec.describe(describe.model(self._serving))

    async def infer(self, raw: bytes, context: Context) -> pb.ModelInferResponse | Failure:
        return await self._pipeline.serve(GrpcExchange(raw, context, self._serving))
