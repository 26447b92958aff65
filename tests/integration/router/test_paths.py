"""Only public paths of the server pass the router, in one spelling each; they are the paths that the server has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from hack.ports import free_port
from mlmodel_operator.rollout import routes as routes_module
from mlmodel_server.rest import management
from mlmodel_server.rest.endpoints import endpoints
from mlmodel_server.rpc.service import GrpcServer
from mlmodel_server.serving.pipeline import Pipeline
from tests.integration.router.loopback import Client, Revision, http2
from tests.integration.router.routers import ADDRESSES, STABLE_A, Router, canary, candidate, stable
from tests.unit.server.doubling import serving

pytestmark = pytest.mark.attack

HIDDEN = {"/metrics", "/metrics/"}
"""Paths of the server that are for the cluster; copies of a rehearsal have no route."""

Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run(scenario)`` awaits ``scenario(router, revision)``: a router, and a revision for both protocols."""
    port = free_port(*ADDRESSES.values())
    monkeypatch.setattr(routes_module, "SERVER_PORT", port)

    def start(scenario: Callable[[Router, Revision], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with AsyncExitStack() as stack:
                revision = await stack.enter_async_context(Revision("a", ADDRESSES["a"], port))
                await stack.enter_async_context(Revision("b", ADDRESSES["b"], port))
                # A gRPC call that passes reaches the same server, which does not speak HTTP/2.
                router = await stack.enter_async_context(Router(tmp_path / "router", grpc_port=port, version=version))
                await router.route(STABLE_A)
                await scenario(router, revision)

        asyncio.run(main())

    return start


def _public() -> set[str]:
    """Return the paths of the routes of a real server."""
    served = serving()
    app = management.routes(served)
    found = {*endpoints(served), *(str(getattr(route, "path", "")) for route in app.routes)}
    return {path for path in found if path} - HIDDEN


def test_every_path_of_the_server_passes(run: Run) -> None:
    assert {"/", "/docs", "/openapi.json", "/v2/models/double/infer", "/v2/models/double/feedback"} <= _public()

    async def scenario(router: Router, revision: Revision) -> None:
        client = Client(router.traffic)
        for path in sorted(_public()):
            for target in (path, f"{path}?outputs=a%20b", f"http://m{path}"):
                answer = await client.post(target)
                assert answer.status == 200, target
                assert revision.requests[-1].path == target.removeprefix("http://m")
        client.close()

    run(scenario)


@pytest.mark.parametrize(
    ("sent", "passed_on"),
    [
        ("/v2/models/m/inf%65r", "/v2/models/m/infer"),
        ("/v1/models/m%3Apredict", "/v1/models/m:predict"),
        ("/v1/models/m%3apredict?a=%3a%0a", "/v1/models/m:predict?a=%3a%0a"),
        ("/v2%2fmodels/m/versions%2Fv1/infer", "/v2/models/m/versions/v1/infer"),
        ("HTTP://m/%70redict?x", "/predict?x"),
        ("http://m", "/"),
        ("http://m:80/predict", "/predict"),
    ],
)
def test_a_path_is_decoded_once_and_passed_on_decoded(run: Run, sent: str, passed_on: str) -> None:
    async def scenario(router: Router, revision: Revision) -> None:
        host = "m:80" if ":80" in sent else "m"
        client = Client(router.traffic)
        answer = await client.send(f"POST {sent} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 2\r\n\r\n{{}}".encode())
        client.close()
        assert answer.status == 200
        assert [request.path for request in revision.requests] == [passed_on]

    run(scenario)


def test_an_encoded_prediction_is_drawn_and_counts_as_any_other(run: Run) -> None:
    async def scenario(router: Router, a: Revision) -> None:
        await router.route(canary(50))
        client = Client(router.traffic)
        for _ in range(100):
            assert (await client.post("/v2/models/m/inf%65r")).status == 200
        client.close()
        assert await router.tally(50) == (candidate(50), stable(50))
        assert {request.path for request in a.requests} == {"/v2/models/m/infer"}

    run(scenario)


def _spellings(path: str) -> list[bytes]:
    """Return spellings of a path that some parser somewhere reads as that path, or that must not pass in any case."""
    name = path.removeprefix("/").encode()
    first, rest = name[:1], name[1:]
    encoded = b"/%" + first.hex().encode() + rest
    return [
        b"/" + name,
        b"/" + name + b"/",
        b"/" + name + b"?",
        b"/" + name + b"?a=/predict",
        b"/" + name.upper(),
        encoded,
        encoded.replace(b"/%", b"/%25"),
        b"/%" + first.hex().upper().encode() + rest + b"%2f",
        b"".join(b"%%%02x" % byte for byte in b"/" + name),
        b"%2f" + name,
        b"/%2f" + name,
        b"//" + name,
        b"///" + name,
        b"/./" + name,
        b"/%2e/" + name,
        b"/v2/../" + name,
        b"/v2/%2e%2e/" + name,
        b"/v2/models/m/..%2f..%2f..%2f" + name,
        b"/predict/../" + name,
        b"/predict/..;/" + name,
        b"/predict;/../" + name,
        b"/predict%00/../" + name,
        b"/predict%3f/../" + name,
        b"/predict%23" + name,
        b"/predict\\..\\" + name,
        b"/predict%5c..%5c" + name,
        b"/predict%0d%0aGET%20/" + name,
        b"/docs%20/" + name,
        b"/\\" + name,
        b"\\" + name,
        b"/" + name + b";",
        b"/" + name + b";a=b",
        b"/;/" + name,
        b"/" + name + b".",
        b"/" + name + b"%2e",
        b"/" + name + b"%00",
        b"/" + name + b"%0a",
        b"/" + name + b"%0d",
        b"/" + name + b"%09",
        b"/" + name + b"%20",
        b"/" + name + b"%c2%a0",
        b"/" + name + b"%7f",
        b"/" + name + b"%",
        b"/" + name + b"%2",
        b"/" + name + b"%zz",
        b"/" + name + b"%u002f",
        b"/" + name + b"#a",
        b"/" + name + b"\x00",
        b"/" + name + b"\x0b",
        b"/" + name + b"\xff",
        b"/%c1%ad" + rest,  # an overlong form of the letter m
        b"/%e0%81%ad" + rest,
        b"/%ef%bd%8d" + rest,  # a wide letter m
        b"http://m/" + name,
        b"http://m//" + name,
        b"http://m/%2f" + name,
        b"http://m?/" + name,
        b"http://m#/" + name,
        b"http://m/predict@/" + name,
        b"http:/" + name,
        b"http:///" + name,
        b"//m/" + name,
        name,
        b"*",
        b"m:80",
    ]


@pytest.mark.parametrize("path", ["/metrics", "/rehearsal", "/status", "/v2/models/m/secret", "/v2/repository/index"])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_no_spelling_of_another_path_reaches_a_pod(run: Run, path: str, method: bytes) -> None:
    async def scenario(router: Router, revision: Revision) -> None:
        for spelling in _spellings(path):
            client = Client(router.traffic)
            try:
                head = method + b" " + spelling + b" HTTP/1.1\r\nhost: m\r\ncontent-length: 0\r\n\r\n"
                answer = await asyncio.wait_for(client.send(head), 60)
            except (asyncio.IncompleteReadError, ConnectionError):
                continue
            finally:
                client.close()
            assert answer.status in (400, 404), spelling
        assert revision.requests == []
        answer = await router.get(path, router.traffic)
        assert (answer.status, answer.headers["content-type"]) == (404, "application/json")
        assert "/v2/models/NAME/infer" in json.loads(answer.body)["error"]

    run(scenario)


@pytest.mark.parametrize("path", ["/predict", "/v2/models/m/infer", "/v2/health/live"])
@pytest.mark.parametrize("end", ["%00", "%0a", "%0d%0a", ";a", ".", "%2e", "%20", "//", "%2f%2f", "/x", "%c0%af", "\\"])
def test_a_public_path_with_a_tail_does_not_pass(run: Run, path: str, end: str) -> None:
    async def scenario(router: Router, revision: Revision) -> None:
        assert (await router.get(path + end, router.traffic)).status == 404
        assert revision.requests == []

    run(scenario)


def test_methods_without_a_path_do_not_pass(run: Run) -> None:
    async def scenario(router: Router, revision: Revision) -> None:
        for line in (b"CONNECT m:80", b"OPTIONS *", b"CONNECT /predict", b"PRI *"):
            client = Client(router.traffic)
            try:
                answer = await asyncio.wait_for(client.send(line + b" HTTP/1.1\r\nhost: m:80\r\n\r\n"), 60)
                assert answer.status in (400, 404), line
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                client.close()
        assert revision.requests == []

    run(scenario)


def test_over_http_2_only_the_same_paths_pass(run: Run) -> None:
    async def scenario(router: Router, revision: Revision) -> None:
        short = [spelling for spelling in _spellings("/metrics") if len(spelling) < 120]
        await asyncio.gather(
            *(http2(router.traffic, spelling, headers=((b"content-length", b"2"),), body=b"{}") for spelling in short)
        )
        # A target without a path is the page.
        assert {request.path for request in revision.requests} <= {"/"}
        revision.requests.clear()
        await http2(router.traffic, b"/predict", headers=((b"content-length", b"2"),), body=b"{}")
        assert [request.path for request in revision.requests] == ["/predict"]

    run(scenario)


def _methods(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the paths of all methods of a real gRPC server, as it registers them."""
    found: set[str] = set()

    class Recorded:
        def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
            found.update(f"/{service}/{name}" for name in handlers)

        def add_generic_rpc_handlers(self, handlers: object) -> None:
            """Accept what reflection and the health service register beside the methods."""

    monkeypatch.setattr(grpc.aio, "server", lambda **_: Recorded())
    GrpcServer(Pipeline(serving()))
    return found


def test_every_method_of_the_grpc_server_passes_in_one_spelling(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = _methods(monkeypatch)
    monkeypatch.undo()
    assert "/inference.GRPCInferenceService/ModelInfer" in methods
    assert any(method.startswith("/grpc.health.v1.Health/") for method in methods)
    assert any(method.startswith("/grpc.reflection.") for method in methods)
    headers = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))

    async def scenario(router: Router, revision: Revision) -> None:
        async def call(path: bytes) -> bytes:
            return await http2(router.grpc, path, headers=headers, body=b"\0\0\0\0\0")

        method = b"/inference.GRPCInferenceService/ModelInfer"
        wrong = [method + end for end in (b"?", b"?a", b"/", b"%0a", b"\n", b"\0", b";", b".", b"#", b" ")]
        wrong += [b"/" + method, method[1:], method.upper(), b"http://m" + method, b"/x/.." + method, b"*", b""]
        wrong += [method.replace(b"ModelInfer", b"ModelInf%65r"), method.replace(b"/M", b"%2fM"), b"/x/ModelInfer"]
        wrong += [b"/inference.GRPCInferenceService/RepositoryModelUnload", b"/metrics", b"/rehearsal", b"/"]
        answers = await asyncio.gather(*(call(path) for path in wrong))
        assert revision.connections == 0, "none reached a server"
        assert sum(b"unknown method" in answer for answer in answers) >= 8
        answers = await asyncio.gather(*(call(method.encode()) for method in sorted(methods)))
        assert revision.connections > 0
        assert not any(b"unknown method" in answer for answer in answers)

    run(scenario)
