"""The gRPC server: the inference service in front of the pipeline, with reflection and the health service.

gRPC starts threads: create a :class:`GrpcServer` in the worker, after the fork.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import StatusCode
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from mlmodel_server.errors import RequestError
from mlmodel_server.rpc import accepting, codec
from mlmodel_server.rpc.arrivals import Arrivals, Bounding, Context, headers_of
from mlmodel_server.rpc.exchange import GrpcExchange
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from mlmodel_server.serving import describe
from mlmodel_server.serving.access import Certificate
from mlmodel_server.serving.context import Limits
from mlmodel_server.serving.exchange import LATE, Failure
from mlmodel_server.serving.pipeline import Pipeline

SERVICE = "inference.GRPCInferenceService"

Method = Callable[[Context], Awaitable[Any]]
"""From a call to the response, a message or its bytes, or a :class:`Failure`."""

_CODES = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    408: StatusCode.DEADLINE_EXCEEDED,
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


AGE_MS = 3_000
"""Clients never close a connection, and a call fails if it is sent while the pod exits. So the server closes each one
after less than 5 s, the time for which a pod still serves after Kubernetes sends it no new connections."""

AGE_GRACE = 5.0
"""Seconds beyond ``--timeout`` until the calls of a connection that is closed are cancelled."""

QUIET_TURNS, MOST_TURNS, TURN = 10, 60, 0.05
"""A server that stops rejects further calls after so many turns of the event loop in which no call has begun, or after
so many in all; a turn takes so many seconds at least, and longer on a busy node. gRPC cancels the calls that it has
received and not handed over."""

MAX_CALLS = 1024
"""Maximum number of calls at a time in a worker. The queue and :mod:`~mlmodel_server.rpc.arrivals` bound them long
before, and know whom to end."""

_TRANSPORT = (
    ("grpc.so_reuseport", 1),
    ("grpc.max_connection_age_ms", AGE_MS),
    ("grpc.max_concurrent_streams", 128),  # of one connection; the router uses 8
    ("grpc.server_handshake_timeout_ms", 10_000),  # for the preface of HTTP/2, and TLS
    ("grpc.max_metadata_size", 16 << 10),  # of the headers of a call, in bytes; above the first, calls may be rejected
    ("grpc.absolute_max_metadata_size", 32 << 10),
    # Calls that have not reached us yet. Beyond the first, gRPC rejects calls at random, those of others too.
    ("grpc.server.max_pending_requests", 10_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.http2.bdp_probe", 0),  # or a client that sends fast gets windows of megabytes before its message is read
)


class GrpcServer:
    """Serves gRPC. Every response has version and revision of the model in its trailing metadata."""

    def __init__(self, pipeline: Pipeline) -> None:
        serving = pipeline.serving
        self._pipeline = pipeline
        self._trailer = (("x-mlmodel-version", serving.version), ("x-mlmodel-revision", serving.revision))
        self._health = health.aio.HealthServicer()
        self._stopping = False
        self._begun = 0
        self._arrivals = Arrivals(pipeline.budget, serving.limits.max_body)
        self._server = grpc.aio.server(options=_options(serving.limits), maximum_concurrent_rpcs=MAX_CALLS)
        # As streams, so that a call reaches us before its message: what does not arrive is bounded, and ended.
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.stream_unary_rpc_method_handler(self._guarded(answer), None, _serialised)
            for name, answer in _Service(pipeline, self._arrivals).methods().items()
        }
        self._server.add_registered_method_handlers(SERVICE, handlers)
        bounding: Any = Bounding(self._server, self._arrivals, self._abort)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, bounding)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), bounding)  # type: ignore[no-untyped-call]

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
        """Report NOT_SERVING to probes, reject new calls once none arrives, and wait for calls in flight, ``grace``
        seconds in total."""
        self._stopping = True
        started = time.monotonic()
        await self._health.enter_graceful_shutdown()
        await self._settle()
        await self._server.stop(max(0.0, grace - (time.monotonic() - started)))

    async def _settle(self) -> None:
        """Wait until no call begins any more."""
        quiet, begun = 0, self._begun
        for _ in range(MOST_TURNS):
            await asyncio.sleep(TURN)
            quiet = quiet + 1 if self._begun == begun else 0
            begun = self._begun
            if quiet == QUIET_TURNS:
                return

    def _guarded(self, answer: Method) -> Callable[[Any, Context], Awaitable[Any]]:
        """Return a handler: call ``answer``, turn errors into a gRPC code and one sentence."""

        async def guarded(_: Any, context: Context) -> Any:
            self._begun += 1
            context.set_trailing_metadata(self._trailer)
            try:
                reply = await answer(context)
            except Exception as error:
                reply = self._pipeline.failure(error)
            if isinstance(reply, Failure):
                await self._fail(context, reply)
            return reply

        return guarded

    async def _abort(self, context: Context, error: RequestError) -> None:
        await self._fail(context, self._pipeline.failure(error))

    async def _fail(self, context: Context, failure: Failure) -> None:
        if failure.is_late:
            context.set_trailing_metadata((*self._trailer, (LATE, "true")))
        await context.abort(_code(failure), failure.message)


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.max_body),
        ("grpc.max_send_message_length", limits.max_body),
        ("grpc.max_connection_age_grace_ms", int(1000 * (limits.timeout + AGE_GRACE))),
        ("grpc.max_allowed_incoming_connections", limits.max_connections // 2),
        *_TRANSPORT,
    ]


def _serialised(response: Any) -> bytes:
    raw: bytes = response if isinstance(response, bytes) else response.SerializeToString()
    return raw


def credentials(certificate: Certificate) -> grpc.ServerCredentials:
    """Return credentials that read the files of the certificate for every new connection."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([certificate.pem()])

    return grpc.dynamic_ssl_server_credentials(configuration(), configuration)


class _Service:
    """The methods of the service. Each receives its message itself, after it has checked the API key."""

    def __init__(self, pipeline: Pipeline, arrivals: Arrivals) -> None:
        self._pipeline, self._serving, self._arrivals = pipeline, pipeline.serving, arrivals

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

    async def live(self, context: Context) -> pb.ServerLiveResponse:
        codec.parse(pb.ServerLiveRequest, await self._arrivals.receive(context))
        return pb.ServerLiveResponse(live=True)

    async def ready(self, context: Context) -> pb.ServerReadyResponse:
        codec.parse(pb.ServerReadyRequest, await self._arrivals.receive(context))
        return pb.ServerReadyResponse(ready=not self._serving.draining)

    async def model_ready(self, context: Context) -> pb.ModelReadyResponse:
        request = codec.parse(pb.ModelReadyRequest, await self._arrivals.receive(context))
        describe.check(self._serving, request.name, request.version)
        return pb.ModelReadyResponse(ready=not self._serving.draining)

    async def server_metadata(self, context: Context) -> pb.ServerMetadataResponse:
        self._pipeline.authorise(headers_of(context))
        codec.parse(pb.ServerMetadataRequest, await self._arrivals.receive(context))
        name, version, extensions = describe.server()
        return pb.ServerMetadataResponse(name=name, version=version, extensions=extensions)

    async def model_metadata(self, context: Context) -> pb.ModelMetadataResponse:
        self._pipeline.authorise(headers_of(context))
        request = codec.parse(pb.ModelMetadataRequest, await self._arrivals.receive(context))
        describe.check(self._serving, request.name, request.version)
        return codec.describe(describe.model(self._serving))

    async def infer(self, context: Context) -> bytes | Failure:
        exchange = GrpcExchange(context, self._serving, self._arrivals)
        reply = await self._pipeline.serve(exchange)
        if isinstance(reply, bytes):
            self._arrivals.charge(context, exchange, len(reply))
        return reply
