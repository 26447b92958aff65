"""The gRPC server: the inference service in front of a :class:`DataPlane`, with reflection and the health service.

gRPC starts threads: make a :class:`GrpcServer` in the process that serves, after it has been forked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mlmodel_server.errors import ModelFailure, RequestError
from mlmodel_server.rpc import codec
from mlmodel_server.rpc.dataplane import DataPlane
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from mlmodel_server.serving.access import Certificate

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
"""By the status of a :class:`RequestError`; INTERNAL for any other."""

_AGE = (("grpc.max_connection_age_ms", 3_000), ("grpc.max_connection_age_grace_ms", 60_000))
"""Clients keep a connection for good, and one call too many on it is lost when its pod ends. So they are asked to make
new ones more often than the five seconds for which a pod lives on after Kubernetes has stopped to send it any."""

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Sequence[tuple[str, str]]


class GrpcServer:
    """``metadata`` is sent with every answer, after it; ``max_message`` bytes is the limit of requests and answers.

    ``failed`` is called with whatever the data plane raises that is no :class:`RequestError`, so that it can be logged.
    """

    def __init__(
        self,
        plane: DataPlane,
        *,
        max_message: int,
        metadata: Metadata = (),
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._metadata, self._failed = tuple(metadata), failed
        self._health = health.aio.HealthServicer()
        sizes = [("grpc.max_receive_message_length", max_message), ("grpc.max_send_message_length", max_message)]
        self._server = grpc.aio.server(options=[*sizes, ("grpc.so_reuseport", 1), *_AGE])
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(request, answer), None, lambda response: response.SerializeToString()
            )
            for name, (request, answer) in _Service(plane).methods().items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Listen on ``HOST:PORT`` and return the port. Several processes may share one: the kernel spreads connections.

        Raises RuntimeError when the address cannot be had.
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
        """Tell health checks that it is over, take no new requests, and wait up to ``grace`` seconds for the others."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)

    def _guarded(
        self, request: Any, answer: Callable[[Any, Context], Awaitable[Any]]
    ) -> Callable[[bytes, Context], Awaitable[Any]]:
        """``answer`` to messages of the type ``request``, with errors as gRPC has them: a code and one sentence."""

        async def guarded(raw: bytes, context: Context) -> Any:
            context.set_trailing_metadata(self._metadata)
            try:
                return await answer(request.FromString(raw), context)
            except DecodeError:  # parsed here, as gRPC would log it with a traceback
                code, text = StatusCode.INVALID_ARGUMENT, f"the message is no {request.DESCRIPTOR.name}"
            except RequestError as error:
                code, text = _CODES.get(error.status, StatusCode.INTERNAL), str(error)
            except Exception as error:
                self._failed(error)
                failed = isinstance(error, ModelFailure)
                code, text = StatusCode.INTERNAL, str(error) if failed else f"internal error ({type(error).__name__})"
            return await context.abort(code, text)

        return guarded


def credentials(certificate: Certificate) -> grpc.ServerCredentials:
    """Return credentials that read the certificate's files for every new connection."""

    def present() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([certificate.pem()])

    return grpc.dynamic_ssl_server_credentials(present(), present)


class _Service:
    """The methods of the service, by what they are asked."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def methods(self) -> dict[str, tuple[Any, Callable[[Any, Context], Awaitable[Any]]]]:
        """The message and the function of each, by name."""
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
        return pb.ServerReadyResponse(ready=self._plane.ready())

    async def model_ready(self, request: pb.ModelReadyRequest, _context: Context) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=self._plane.model_ready(request.name, request.version))

    async def server_metadata(self, _request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        self._plane.admit(_sent(context))
        name, version, extensions = self._plane.describe()
        return pb.ServerMetadataResponse(name=name, version=version, extensions=extensions)

    async def model_metadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        self._plane.admit(_sent(context))
        return codec.describe(self._plane.metadata(request.name, request.version))

    async def infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        left = context.time_remaining()
        deadline = None if left is None else perf_counter() + left
        sent, name, version = _sent(context), request.model_name, request.model_version
        try:
            self._plane.admit(sent)
            self._plane.check_room()
            decoded = codec.decode(request)
        except RequestError as error:
            self._plane.refused(error, sent)
            raise
        response = await self._plane.infer(name, version, decoded, deadline, sent)
        described = self._plane.metadata(name, version)
        raw = bool(request.raw_input_contents)
        return codec.encode(response, described.name, version or described.versions[0], raw=raw)


def _sent(context: Context) -> dict[str, str]:
    """The metadata of a call that is text."""
    return {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
