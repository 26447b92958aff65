"""No request is lost when the server stops, not even on a node so busy that the server stands still meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from hack.ports import free_port
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from mlmodel_server.startup.server import LINGER
from tests.integration.server.processes import SECONDS, Server, running

IRIS = ("--uri", "builtin://iris")
INFER = "/v2/models/tumour/infer"
ROW = [5.1, 3.5, 1.4, 0.2]
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": ROW}]})
CALLS = 50


@contextlib.contextmanager
def standing_still(server: Server) -> Iterator[None]:
    """The server has received SIGTERM, and stands still in the context and for longer than it waits for requests."""
    probe = server.connect()
    assert server.send("GET", "/v2/health/ready", connection=probe).status == 200
    server.process.send_signal(signal.SIGTERM)
    while server.send("GET", "/v2/health/ready", connection=probe).status == 200:
        pass  # until the signal arrives
    stopped = [server.process.pid, *server.children()]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
        time.sleep(LINGER + 0.5)  # what is tested: the time passes while the server stands still
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def test_a_request_on_an_idle_connection_is_answered_by_a_server_that_stood_still() -> None:
    with running(*IRIS) as server, ThreadPoolExecutor(1) as pool:
        idle = server.connect()
        assert server.send("POST", INFER, BODY, idle).status == 200
        with standing_still(server):
            late = pool.submit(server.send, "POST", INFER, BODY, idle)
        answer = late.result()
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert "drained" in server.ended()


def test_calls_over_grpc_are_answered_by_a_server_that_stood_still() -> None:
    port = free_port()
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", shape=[1, 4], datatype="FP64")
    tensor.contents.fp64_contents.extend(ROW)
    message = pb.ModelInferRequest(model_name="tumour", inputs=[tensor])
    with running(*IRIS, "--grpc-port", str(port)) as server, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        infer(message, timeout=SECONDS)
        with standing_still(server):
            calls = [infer.future(message, timeout=SECONDS) for _ in range(CALLS)]
        assert [call.code() for call in calls] == [grpc.StatusCode.OK] * CALLS
        assert "drained" in server.ended()


def test_a_small_request_that_takes_longer_to_arrive_than_idle_connections_stay_is_answered() -> None:
    body = BODY.encode()
    with running(*IRIS) as server:
        slow, idle = server.connect(), server.connect()
        assert server.send("POST", INFER, BODY, idle).status == 200
        slow.putrequest("POST", INFER)
        slow.putheader("Content-Type", "application/json")
        slow.putheader("Content-Length", str(len(body)))
        slow.endheaders(body[:10])
        server.process.send_signal(signal.SIGTERM)
        assert idle.sock.recv(1) == b"", "it is closed"
        slow.send(body[10:])
        response = slow.getresponse()
        assert response.status == 200
        assert response.headers["connection"] == "close"
        assert "drained" in server.ended()


def test_calls_that_go_on_without_end_do_not_hold_up_a_stop() -> None:
    port = free_port()
    options = (*IRIS, "--grpc-port", str(port), "--timeout", "120")
    with running(*options) as server, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        live: Any = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        live(b"", timeout=SECONDS)
        server.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(grpc.RpcError):
            while True:
                live(b"", timeout=SECONDS)
        assert "drained" in server.ended()
