"""API keys at the router: it answers as the server does, so that a client without a key reaches no pod."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from hack.ports import free_port
from mlmodel_operator.rollout import routes as routes_module
from mlmodel_server.errors import RequestError
from mlmodel_server.rest.reply import reply_of
from mlmodel_server.serving.access import ApiKeys
from mlmodel_server.serving.exchange import failure_of
from tests.integration.router.loopback import Client, Message, Revision, http2, read_message
from tests.integration.router.routers import ADDRESSES, STABLE_A, Router, canary, candidate, stable
from tests.integration.router.test_router_grpc import SERVICE, GrpcRevision

pytestmark = pytest.mark.attack

KEY = "correct horse"


def line(key: str, name: str = "alice") -> str:
    """Return the line of a key in the file."""
    return f"{name}: {hashlib.sha256(key.encode()).hexdigest()}\n"


Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run(scenario, keys)`` awaits ``scenario(router, a)``; ``keys`` is the text of the file, None for none."""
    port = free_port(*ADDRESSES.values())
    monkeypatch.setattr(routes_module, "SERVER_PORT", port)

    def start(
        scenario: Callable[[Router, Revision], Coroutine[Any, Any, None]],
        keys: str | None = line(KEY),
        changes: dict[str, str] | None = None,
    ) -> None:
        async def main() -> None:
            folder, grpc_port = tmp_path / "router", free_port(ADDRESSES["a"])
            folder.mkdir()
            if keys is not None:
                (folder / "keys").write_text(keys)
            async with AsyncExitStack() as stack:
                a = await stack.enter_async_context(Revision("a", ADDRESSES["a"], port))
                await stack.enter_async_context(Revision("b", ADDRESSES["b"], port))
                await stack.enter_async_context(GrpcRevision("a", ADDRESSES["a"], grpc_port))
                router = Router(folder, changes or {}, grpc_port=grpc_port, version=version, with_keys=True)
                await stack.enter_async_context(router)
                router.write(STABLE_A.text())
                await scenario(router, a)

        asyncio.run(main())

    return start


async def says(router: Router, state: str) -> None:
    """Wait until the page of the router says so of its keys."""

    async def said() -> bool:
        return bool((await router.counts())["keys"] == state)

    await router.until(said)


async def ready(router: Router) -> None:
    """Wait until the router serves."""

    async def served() -> bool:
        return (await router.get("/ready")).status == 200

    await router.until(served)


async def post(router: Router, headers: dict[str, str], path: str = "/v2/models/m/infer") -> Message:
    """Send one request with these headers."""
    client = Client(router.traffic)
    try:
        return await client.post(path, headers)
    finally:
        client.close()


# What a client may send, also in other spellings than that of the documentation.
SENT: tuple[dict[str, str], ...] = (
    {},
    {"authorization": f"Bearer {KEY}"},
    {"authorization": f"bearer {KEY}"},
    {"Authorization": f"BEARER   {KEY}  "},
    {"authorization": f"Bearer \t{KEY}"},
    {"x-api-key": KEY},
    {"X-API-Key": f" {KEY} "},
    {"authorization": "Bearer wrong", "x-api-key": KEY},
    {"authorization": f"Bearer {KEY}", "x-api-key": "wrong"},
    {"authorization": f"Basic {KEY}", "x-api-key": KEY},
    {"authorization": f"Basic {KEY}"},
    {"authorization": KEY},
    {"authorization": "Bearer"},
    {"authorization": "Bearer "},
    {"authorization": f"Bearer{KEY}"},
    {"authorization": f"Bearer {KEY},{KEY}"},
    {"authorization": f"Bearer {KEY.upper()}"},
    {"authorization": f"Bearer {line(KEY).split()[1]}"},
    {"x-api-key": "alice"},
    {"x-api-key": ""},
    {"x-api-key": "a" * 5000},
    {"x-api-key": f"{KEY}%00"},
    {"authorization": "Bearer ", "x-api-key": KEY},
)


def _expected(folder: Path, headers: dict[str, str]) -> tuple[int, bytes, str]:
    """Return what the server answers: status, body and WWW-Authenticate."""
    # As the server gets them: without the spaces around a value.
    sent = {name.lower().encode(): value.strip().encode() for name, value in headers.items()}
    try:
        ApiKeys(folder / "keys").check(sent)
    except RequestError as error:
        reply = reply_of(failure_of(error))
        return reply.status, reply.body, dict(reply.headers).get(b"www-authenticate", b"").decode()
    return 200, b"a", ""


def test_the_answer_is_that_of_the_server(run: Run) -> None:
    async def scenario(router: Router, a: Revision) -> None:
        await ready(router)
        for headers in SENT:
            before = len(a.requests)
            answer = await post(router, headers)
            found = answer.status, answer.body, answer.headers.get("www-authenticate", "")
            assert found == _expected(router.folder, headers), headers
            assert len(a.requests) - before == (answer.status == 200), "without a key no pod is reached"

    # Also if the file has the hash of no key.
    run(scenario, line(KEY) + line("", "empty"))


HEAD = "POST {} HTTP/1.1\r\nhost: m\r\ncontent-length: 5\r\n{}\r\n"


@pytest.mark.parametrize("expect", ["", "expect: 100-continue\r\n"], ids=["", "expects 100"])
@pytest.mark.parametrize(
    ("path", "key", "status"),
    [("/v2/models/m/infer", "", 401), ("/v2/models/m/infer", "x-api-key: wrong\r\n", 401), ("/metrics", "", 404)],
    ids=["no key", "wrong key", "path"],
)
def test_a_request_is_rejected_before_its_body_arrives(run: Run, path: str, key: str, status: int, expect: str) -> None:
    async def scenario(router: Router, a: Revision) -> None:
        await ready(router)
        client = Client(router.traffic)
        for body in (b"", b"12345", b"12345"):  # the body of the request before, which is then ignored
            answer = await asyncio.wait_for(client.send(body + HEAD.format(path, key + expect).encode()), 60)
            assert answer.status == status
        client.close()
        assert a.requests == []

    run(scenario)


def test_a_client_with_a_key_that_waits_for_100_gets_it_at_once(run: Run) -> None:
    async def scenario(router: Router, a: Revision) -> None:
        await ready(router)
        client = Client(router.traffic)
        head = HEAD.format("/v2/models/m/infer", f"x-api-key: {KEY}\r\nexpect: 100-continue\r\n")
        assert (await asyncio.wait_for(client.send(head.encode()), 60)).status == 100
        assert a.requests == []
        assert (await client.send(b"12345")).status == 200
        assert a.requests[0].body == b"12345"
        client.close()

    run(scenario)


def test_a_connection_whose_rejected_body_does_not_arrive_is_closed(run: Run) -> None:
    async def scenario(router: Router, _: Revision) -> None:
        await ready(router)
        reader, writer = await asyncio.open_connection(*router.traffic)
        writer.write(HEAD.format("/metrics", "").encode())
        assert (await read_message(reader)).status == 404
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()

    run(scenario, changes={"timeout client 60s": "timeout client 1s", "http-keep-alive 120s": "http-keep-alive 1s"})


def test_of_two_headers_the_last_counts_as_in_the_server(run: Run) -> None:
    async def scenario(router: Router, a: Revision) -> None:
        await ready(router)
        for first, last, status in ((KEY, "wrong", 401), ("wrong", KEY, 200)):
            lines = f"x-api-key: {first}\r\nx-api-key: {last}\r\n"
            client = Client(router.traffic)
            head = f"POST /predict HTTP/1.1\r\nhost: m\r\ncontent-length: 2\r\n{lines}\r\n{{}}"
            assert (await client.send(head.encode())).status == status
            client.close()
        assert len(a.requests) == 1

    run(scenario)


OPEN = ("/", "/v2/health/live", "/v2/health/ready/", "/v2/models/m/ready", "/v2/models/m/versions/v1/ready")
CLOSED = (
    "/v2",
    "/v2/models/m",
    "/v2/models/m/infer",
    "/v2/models/m/versions/v1",
    "/v2/models/m/feedback",
    "/v2/models/m/stats",
    "/v1/models",
    "/v1/models/m",
    "/v1/models/m:predict",
    "/predict",
    "/invocations/",
    "/ping",
    "/docs",
    "/openapi.json",
    "/v2/models/m%2finfer",
    "/v2/models/m/inf%65r",
)


def test_the_paths_without_a_key_are_those_of_the_server(run: Run) -> None:
    from mlmodel_server.rest.app import _needs_no_key

    async def scenario(router: Router, _: Revision) -> None:
        await ready(router)
        for path in (*OPEN, *CLOSED):
            assert ((await post(router, {}, path)).status == 200) == (path in OPEN) == _needs_no_key(path), path
            assert (await post(router, {"x-api-key": KEY}, path)).status == 200
        for path in ("/metrics", "/rehearsal", "/metrics/ready", "/ready", "/x/live"):
            assert (await post(router, {"x-api-key": KEY}, path)).status == 404, path

    run(scenario)


def test_over_http_2_a_refusal_before_the_body_is_whole_and_no_error_of_the_stream(run: Run) -> None:
    """HEADERS, DATA with the end of the stream, and RST_STREAM with NO_ERROR, as RFC 9113 (8.1) has it: some clients
    report an error of the stream, and not the answer."""

    async def scenario(router: Router, _: Revision) -> None:
        await ready(router)
        rest = await http2(router.traffic, b"/v2/models/m/infer", headers=((b"content-length", b"9000000"),), body=None)
        frames: list[tuple[int, int, bytes]] = []
        while rest:
            size = int.from_bytes(rest[:3], "big")
            if rest[5:9] == b"\0\0\0\1" and rest[3] != 8:  # of our stream; no WINDOW_UPDATE
                frames.append((rest[3], rest[4] & 1, rest[9 : 9 + size]))
            rest = rest[9 + size :]
        (headers, is_last, _block), data, reset = frames
        assert (headers, is_last) == (1, 0)
        assert data[:2] == (0, 1)
        assert b"this model requires an API key" in data[2]
        assert (reset[0], reset[2]) == (3, bytes(4))

    run(scenario)


def test_over_grpc_the_same_keys_and_answers(run: Run) -> None:
    async def scenario(router: Router, _: Revision) -> None:
        await ready(router)
        async with grpc.aio.insecure_channel(f"localhost:{router.grpc[1]}") as channel:

            async def call(method: str, *metadata: tuple[str, str]) -> tuple[StatusCode, str]:
                try:
                    send: Any = channel.unary_unary(method)
                    await send(b"", metadata=metadata, timeout=60)
                except grpc.aio.AioRpcError as error:
                    return error.code(), error.details() or ""
                return StatusCode.OK, ""

            infer = f"/{SERVICE}/ModelInfer"
            for key in (("authorization", f"Bearer {KEY}"), ("x-api-key", KEY)):
                assert (await call(infer, key))[0] == StatusCode.OK
            for method in (infer, f"/{SERVICE}/ServerMetadata", f"/{SERVICE}/ModelMetadata"):
                none, unknown = await call(method), await call(method, ("x-api-key", "wrong"))
                missing = json.loads(_expected(router.folder, {})[1])["error"]
                assert none == (StatusCode.UNAUTHENTICATED, missing)
                wrong = json.loads(_expected(router.folder, {"x-api-key": "wrong"})[1])["error"]
                assert unknown == (StatusCode.UNAUTHENTICATED, wrong)
            # The server of this test has no such methods: the calls reach it.
            for method in (
                f"/{SERVICE}/ServerLive",
                f"/{SERVICE}/ModelReady",
                "/grpc.health.v1.Health/Check",
            ):
                assert (await call(method))[0] == StatusCode.UNIMPLEMENTED
                assert "unknown method" not in (await call(method))[1]

    run(scenario)


def test_a_request_without_a_key_is_evidence_for_nobody(run: Run) -> None:
    async def scenario(router: Router, _: Revision) -> None:
        await ready(router)
        await router.route(canary(50))
        for number in range(200):
            await post(router, {"x-api-key": KEY if number % 2 else "wrong"})
        assert await router.tally(50) == (candidate(50), stable(50))

    run(scenario)


def test_changed_keys_are_read_while_requests_go_on(run: Run) -> None:
    async def scenario(router: Router, _: Revision) -> None:
        await ready(router)
        file = router.folder / "keys"
        other = router.folder / "new"
        for number in range(3):
            new = f"key {number}"
            other.write_text(f"# a comment\r\n\n{line(KEY)}{line(new, 'bob')}")
            other.rename(file)

            async def is_known(key: str = new) -> bool:
                return (await post(router, {"x-api-key": key})).status == 200

            await router.until(is_known)
            assert (await post(router, {"x-api-key": KEY})).status == 200
            if number:
                assert (await post(router, {"x-api-key": f"key {number - 1}"})).status == 401, (
                    "a removed key is unknown"
                )

    run(scenario)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# no key\n",
        "alice: 1234\n",
        line(KEY) + "bob\n",
        line(KEY).upper(),
        line(KEY).replace("alice", ""),
        line(KEY).replace("alice", "-"),
        line(KEY) + line("x", "n" * 64),
        "\0" * 1000,
        None,
    ],
)
def test_a_file_that_becomes_wrong_changes_nothing_and_one_that_was_never_right_opens_nothing(
    run: Run, text: str | None
) -> None:
    async def was_right(router: Router, _: Revision) -> None:
        await ready(router)
        file = router.folder / "keys"
        if text is None:
            file.unlink()
        else:
            (router.folder / "new").write_text(text)
            (router.folder / "new").rename(file)
        await says(router, "former")
        assert (await router.get("/ready")).status == 200
        assert (await post(router, {"x-api-key": KEY})).status == 200, "as the server, which keeps the keys before"
        assert (await post(router, {})).status == 401

    run(was_right)


@pytest.mark.parametrize("text", ["", line(KEY) + "bob\n", None])
def test_a_router_that_has_never_read_its_keys_opens_nothing(run: Run, text: str | None) -> None:
    async def scenario(router: Router, a: Revision) -> None:
        await says(router, "closed")
        assert (await router.get("/ready")).status == 503
        for headers in ({}, {"x-api-key": KEY}, {"x-api-key": "bob"}):
            assert (await post(router, headers)).status == 503
        assert a.requests == []
        (router.folder / "new").write_text(line(KEY))
        (router.folder / "new").rename(router.folder / "keys")
        await ready(router)
        assert (await post(router, {"x-api-key": KEY})).status == 200

    run(scenario, text)
