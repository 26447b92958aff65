"""The gRPC server: the inference service in front of the pipeline, with reflection and the health service.

gRPC starts threads: create a :class:`GrpcServer` in the worker, after the fork.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mlmodel_server.rpc import codec
from mlmodel_server.rpc.exchange import Context, GrpcExchange, headers_of
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from mlmodel_server.serving import describe
from mlmodel_server.serving.access import Certificate
from mlmodel_server.serving.exchange import Failure
from mlmodel_server.serving.pipeline import Pipeline

SERVICE = "inference.GRPCInferenceService"

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
        limit = serving.limits.max_body
        sizes = [("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", limit)]
        self._server = grpc.aio.server(options=[*sizes, ("grpc.so_reuseport", 1), *_AGE])
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(request, answer), None, lambda response: response.SerializeToString()
            )
            for name, (request, answer) in _Service(pipeline).methods().items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Listen on ``HOST:PORT`` and return the port. Several processes may share one: the kernel spreads connections.

        Raise RuntimeError if it cannot listen on the address.
        """
        port = (
            self._server.add_secure_port(address, credentials)
            if credentials
            else self._server.add_insecure_port(address)
        )
        await self._server.start()
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, grace: float) -> None:
        """Report NOT_SERVING to probes, reject new calls, and wait up to ``grace`` seconds for calls in flight."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)

    def _guarded(
        self, request: Any, answer: Callable[[Any, Context], Awaitable[Any]]
    ) -> Callable[[bytes, Context], Awaitable[Any]]:
        """Return a handler: decode a ``request``, call ``answer``, turn errors into a gRPC code and one sentence."""

        async def guarded(raw: bytes, context: Context) -> Any:
            context.set_trailing_metadata(self._trailer)
            try:
                reply = await answer(request.FromString(raw), context)
            except DecodeError:  # decoded here, because gRPC would log a traceback
                reply = Failure(400, f"the message is not a {request.DESCRIPTOR.name}")
            except Exception as error:
                reply = self._pipeline.failure(error)
            if isinstance(reply, Failure):
                await context.abort(_CODES.get(reply.status, StatusCode.INTERNAL), reply.message)
            return reply

        return guarded


def credentials(certificate: Certificate) -> grpc.ServerCredentials:
    """Return credentials that read the files of the certificate for every new connection."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([certificate.pem()])

    return grpc.dynamic_ssl_server_credentials(configuration(), configuration)


class _Service:
    """The methods of the service."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._serving = pipeline, pipeline.serving

    def methods(self) -> dict[str, tuple[Any, Callable[[Any, Context], Awaitable[Any]]]]:
        """Return request message and function of each method, by name."""
        return {
            "ServerLive": (pb.ServerLiveRequest, self.live),
            "ServerReady": (pb.ServerReadyRequest, self.ready),
            "ModelReady": (pb.ModelReadyRequest, self.model_ready),
            "ServerMetadata": (pb.ServerMetadataRequest, self.server_metadata),
            "ModelMetadata": (pb.ModelMetadataRequest, self.model_metadata),
            "ModelInfer": (pb.ModelInferRequest, self.infer),
        }

    async def live(self, _request: pb.ServerLiveRequest, _context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ready(self, _request: pb.ServerReadyRequest, _context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=not self._serving.draining)

    async def model_ready(self, request: pb.ModelReadyRequest, _context: Context) -> pb.ModelReadyResponse:
        describe.check(self._serving, request.name, request.version)
        return pb.ModelReadyResponse(ready=not self._serving.draining)

    async def server_metadata(self, _request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        self._pipeline.authorise(headers_of(context))
        name, version, extensions = describe.server()
        return pb.ServerMetadataResponse(name=name, version=version, extensions=extensions)

    async def model_metadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        self._pipeline.authorise(headers_of(context))
        describe.check(self._serving, request.name, request.version)
        return codec.describe(describe.model(self._serving))

    async def infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse | Failure:
        return await self._pipeline.serve(GrpcExchange(request, context, self._serving))
