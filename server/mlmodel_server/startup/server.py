"""One serving process: the application on a listening socket, drained without losing a request."""

from __future__ import annotations

import asyncio
import socket as sockets
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from mlmodel_server.errors import UsageError
from mlmodel_server.rest.app import Application
from mlmodel_server.rest.connection import HttpProtocol
from mlmodel_server.serving.pipeline import Pipeline

if TYPE_CHECKING:
    from mlmodel_server.rpc.service import GrpcServer

KEEP_ALIVE = 75
"""Seconds. Longer than the router keeps an idle connection, so that it is never we who close one that is being used."""

GRACE = 30
"""Seconds for requests in flight at SIGTERM; with the 5 s of the preStop hook well within the pod's 45."""

GRPC_GRACE = 20.0
"""Seconds for gRPC calls in flight at SIGTERM."""

LINGER = 2.0
"""Seconds during which idle connections may still carry a request after SIGTERM; it is answered with
``Connection: close``. Closing them at once would race with a client that is just sending."""

SWITCH_SECONDS = 0.0005
"""How long the predicting thread may keep the interpreter to itself while the event loop waits for it."""


def listen(host: str, port: int) -> sockets.socket:
    """A listening socket; ``host`` "" is every address, IPv6 too where the machine has it."""
    try:
        if not host and sockets.has_dualstack_ipv6():
            return sockets.create_server(("", port), family=sockets.AF_INET6, dualstack_ipv6=True, backlog=2048)
        family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
        return sockets.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "not a port"
        raise UsageError(f"cannot listen on port {port} ({why}): give another --port or --host") from None


def run(application: Application, socket: sockets.socket, slot: int, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; as the worker of this slot. ``ready`` is called when it answers."""
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
        timeout_graceful_shutdown=GRACE,
        ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
    )
    _Server(config, application, slot, ready).run([socket])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, application: Application, slot: int, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._application, self._slot, self._ready = application, slot, ready
        self._pipeline, self._certificate = application.pipeline, application.pipeline.serving.certificate
        self._grpc: GrpcServer | None = None

    async def startup(self, sockets: list[sockets.socket] | None = None) -> None:
        self._pipeline.start(self._slot)
        if self._pipeline.serving.grpc:
            self._grpc = await _serve_grpc(self._pipeline)
        await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        self._pipeline.tick()
        if self._certificate:
            self._certificate.reload()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Not ready from this moment. Unlike uvicorn's own, the signal is not raised again afterwards: exit code 0."""
        self._application.drain()
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[sockets.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + LINGER
        while self.server_state.connections and not self.force_exit and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # uvicorn keeps a plain set: there is nothing to await
        await super().shutdown(sockets)
        if self._grpc:
            await self._grpc.stop(GRPC_GRACE)
        await self._pipeline.stop()


async def _serve_grpc(pipeline: Pipeline) -> GrpcServer:
    from mlmodel_server.rpc.service import GrpcServer, credentials  # 20 MB and threads: only after the fork

    address, certificate = pipeline.serving.grpc, pipeline.serving.certificate
    grpc = GrpcServer(pipeline)
    try:
        await grpc.start(address, credentials(certificate) if certificate else None)
    except RuntimeError:
        raise UsageError(f"cannot listen at {address} for gRPC: give another --grpc-port") from None
    return grpc
