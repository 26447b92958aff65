"""One worker: the application on a listening socket, drained without losing a request."""

from __future__ import annotations

import asyncio
import socket as sockets
import sys
from collections.abc import Callable
from math import ceil
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from mlmodel_server.errors import MLModelError, UsageError
from mlmodel_server.rest.app import Application
from mlmodel_server.rest.connection import CHECK_SECONDS, HttpProtocol
from mlmodel_server.serving.pipeline import Pipeline

if TYPE_CHECKING:
    from mlmodel_server.rpc.service import GrpcServer

KEEP_ALIVE = 75
"""Seconds for an idle connection. The router closes it sooner, so the server never closes one in use."""

DRAIN_MARGIN = 5
"""Seconds beyond ``--timeout`` for requests in flight at SIGTERM. Those that take longer get 503, so that their clients
retry elsewhere, some seconds before the pod's grace period ends: 10 s beyond ``--timeout`` for us."""

LINGER = 2.0
"""Seconds after SIGTERM during which idle connections may still send a request; its response has
``Connection: close``. Closing them at once would break a request that a client is just sending."""

SWITCH_SECONDS = 0.0005
"""Maximum seconds for which the predicting thread holds the interpreter lock while the event loop waits for it."""


def listen(host: str, port: int, option: str = "--port") -> sockets.socket:
    """Return a listening socket; ``host`` "" is all addresses, IPv4 and, if the machine has it, IPv6. ``option`` set
    the port."""
    try:
        if not host and sockets.has_dualstack_ipv6():
            return sockets.create_server(("", port), family=sockets.AF_INET6, dualstack_ipv6=True, backlog=2048)
        family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
        return sockets.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "ports are 0 to 65535"
        raise UsageError(f"cannot listen on port {port} ({why}): give another {option} or --host") from None


def run(application: Application, socket: sockets.socket, slot: int, ready: Callable[[], None]) -> None:
    """Serve as the worker of ``slot`` until SIGTERM or SIGINT, then drain. Call ``ready`` once it accepts requests."""
    sys.setswitchinterval(SWITCH_SECONDS)
    serving = application.pipeline.serving
    certificate = serving.certificate
    config = uvicorn.Config(
        application,
        loop="uvloop",
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[("x-mlmodel-version", serving.version), ("x-mlmodel-revision", serving.revision)],
        timeout_keep_alive=KEEP_ALIVE,
        # uvicorn answers with 500; the pipeline has answered before.
        timeout_graceful_shutdown=ceil(serving.limits.timeout) + DRAIN_MARGIN,
        ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
    )
    server = _Server(config, application, slot, ready)
    server.run([socket])
    if server.failed:
        raise MLModelError("the gRPC server accepted no further calls")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, application: Application, slot: int, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._application, self._slot, self._ready = application, slot, ready
        self._pipeline, self._certificate = application.pipeline, application.pipeline.serving.certificate
        self._grpc: GrpcServer | None = None
        self.failed = False

    async def startup(self, sockets: list[sockets.socket] | None = None) -> None:
        self._pipeline.start(self._slot)
        if self._pipeline.serving.grpc:
            self._grpc = await _serve_grpc(self._pipeline, self._fail)
        await super().startup(sockets)
        self._check_connections()
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Publish counts and reload the certificate; uvicorn calls this ten times a second."""
        self._pipeline.tick()
        if self._certificate:
            self._certificate.reload()
        return await super().on_tick(counter)

    def _check_connections(self) -> None:
        """Bound the time of all connections, also while the server drains."""
        loop = asyncio.get_running_loop()
        for connection in list(self.server_state.connections):
            assert isinstance(connection, HttpProtocol), "the server has no other protocol"
            connection.check(loop.time())
        loop.call_later(CHECK_SECONDS, self._check_connections)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Start to drain. Unlike uvicorn, do not raise the signal again afterwards: the exit code is 0."""
        self._application.drain()
        self.force_exit = self.should_exit
        self.should_exit = True

    def _fail(self) -> None:
        """Drain, then exit like a process that crashed, so that the parent starts another: gRPC accepts no calls."""
        self._application.drain()
        self.should_exit = self.failed = True

    async def shutdown(self, sockets: list[sockets.socket] | None = None) -> None:
        self._pipeline.wipe()  # not in the handler of the signal, which may have interrupted a write
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        drain_seconds = self._pipeline.serving.limits.timeout + DRAIN_MARGIN
        loop.call_later(drain_seconds, self._pipeline.cut)
        end = loop.time() + LINGER
        while self.server_state.connections and not self.force_exit and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # uvicorn has a plain set, which cannot be awaited
        stopping = [super().shutdown(sockets)]
        if self._grpc and not self.failed:
            stopping.append(self._grpc.stop(drain_seconds))
        await asyncio.gather(*stopping)
        await self._pipeline.stop()


async def _serve_grpc(pipeline: Pipeline, on_failure: Callable[[], None]) -> GrpcServer:
    from mlmodel_server.rpc.service import (
        GrpcServer,
        credentials,
    )  # takes 20 MB and starts threads: only after the fork

    address, certificate = pipeline.serving.grpc, pipeline.serving.certificate
    grpc = GrpcServer(pipeline)
    try:
        await grpc.start(address, credentials(certificate) if certificate else None, on_failure)
    except RuntimeError:
        raise UsageError(f"cannot listen on {address} for gRPC: give another --grpc-port") from None
    return grpc
