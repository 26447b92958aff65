"""Readiness of our server from its start to its exit."""

from __future__ import annotations

import http.client
import json
import signal
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conformance.own import running
from tests.conformance.target import TIMEOUT, Target

pytestmark = pytest.mark.section("inference_rest.md, Health")


def test_ready_from_the_first_response_until_sigterm(request: pytest.FixtureRequest) -> None:
    """A server is ready from its first response until SIGTERM, and still answers requests after it."""
    if request.config.getoption("url", None):
        pytest.skip("the test can stop only a server that it has started")
    with running("iris", "--uri", "builtin://iris") as server:
        target = Target(server.url, "iris", server.grpc, own=True)
        assert target.send("GET", "/v2/health/ready").json == {"ready": True}
        target.discover()
        address = urlsplit(server.url).netloc
        # Each gets one response after the signal, which closes it.
        polling, second, third = (http.client.HTTPConnection(address, timeout=TIMEOUT) for _ in range(3))
        for connection in (polling, second, third):
            assert send(connection, "GET", "/v2/health/live") == (200, {"live": True})
        channel = grpc.insecure_channel(server.grpc)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        health = stub.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING

        server.process.send_signal(signal.SIGTERM)
        while send(polling, "GET", "/v2/health/ready") == (200, {"ready": True}):
            pass  # the server has not received the signal yet
        assert send(second, "GET", f"{target.base}/ready") == (503, {"name": "iris", "ready": False})
        status, answer = send(third, "POST", f"{target.base}/infer", json.dumps(target.sample))
        assert status == 200
        assert answer["outputs"]
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        for connection in (polling, second, third):
            connection.close()
        channel.close()
        assert server.process.wait(timeout=TIMEOUT) == 0


def send(connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    """Send one request on an open connection; return status and JSON."""
    connection.request(method, path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())
