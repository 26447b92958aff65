"""A worker whose gRPC server fails: it drains and exits like one that crashed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from mlmodel_server.errors import MLModelError
from mlmodel_server.rest.app import Application
from mlmodel_server.rpc.service import GrpcServer
from mlmodel_server.serving.pipeline import Pipeline
from mlmodel_server.startup.run import _exit_code
from mlmodel_server.startup.server import listen, run
from tests.unit.server.doubling import serving


def test_a_worker_that_accepts_no_more_grpc_calls_exits_like_one_that_crashed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(_: GrpcServer, _address: str, _credentials: Any, on_failure: Callable[[], None]) -> int:
        asyncio.get_running_loop().call_later(0.01, on_failure)
        return 1

    monkeypatch.setattr(GrpcServer, "start", start)
    monkeypatch.setattr(sys, "setswitchinterval", lambda _: None)
    application = Application(Pipeline(serving(grpc="127.0.0.1:0")))
    ready: list[bool] = []

    def serve() -> None:
        with listen("127.0.0.1", 0) as socket:
            run(application, socket, 0, lambda: ready.append(True))

    with pytest.raises(MLModelError, match="accepted no further calls"):
        serve()
    assert ready
    assert application.pipeline.serving.draining, "readiness is 503"


def test_the_parent_replaces_a_worker_with_this_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise MLModelError("the gRPC server accepted no further calls")

    assert _exit_code(fails) == 1
