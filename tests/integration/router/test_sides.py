"""Requests that a header assigns to a side, over HTTP and gRPC, and a candidate that gets only those."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from hack.ports import free_port
from mlmodel_operator.api.status import Slot
from mlmodel_operator.rollout import routes as routes_module
from mlmodel_operator.rollout.routes import Routes
from mlmodel_operator.rollout.sides import Sides
from tests.integration.router.loopback import Client, Message, Reply, Revision, http2, versions
from tests.integration.router.routers import ADDRESSES, STABLE_A, UNCOUNTED, Router, canary, candidate, stable
from tests.integration.router.test_router_grpc import MESSAGE, Answer, Behaviour, GrpcClient, GrpcRevision, fails

KEY = hashlib.sha256(b"of the model and the revision").hexdigest()
STICKY = Sides("x-user-id", KEY)
MATCH = Sides(match="x-group", values=("beta", "staff"))
USERS = [f"user-{number}@example.com" for number in range(300)]
INFER = b"/v2/models/m/infer"


def assigned(weight: int, sides: Sides = STICKY, limit_ms: int = 10_000) -> Routes:
    """Return routes at a weight in which a header assigns requests."""
    return replace(canary(weight, limit_ms), sides=sides)


def of_candidate(weight: int, users: list[str] = USERS) -> set[str]:
    """Return the users whose hash is below the weight."""
    hashes = {user: hashlib.sha1((KEY + user).encode(), usedforsecurity=False).digest() for user in users}
    return {user for user, digest in hashes.items() if int.from_bytes(digest[:4], "big") % 100 < weight}


@dataclass
class Setup:
    """A router, the revisions a and b, and a client, for both protocols."""

    router: Router
    a: Revision
    b: Revision
    client: GrpcClient

    async def post(self, **headers: str) -> Message:
        """Send one prediction with these headers (``_`` for ``-``)."""
        client = Client(self.router.traffic)
        answer = await client.post(headers={name.replace("_", "-"): value for name, value in headers.items()})
        client.close()
        return answer

    async def users_of_b(self, users: list[str] = USERS, router: Router | None = None) -> set[str]:
        """Return the users that the candidate answers over HTTP."""
        client = Client((router or self.router).traffic)
        answers = {user: await client.post(headers={"X-User-Id": user}) for user in users}
        client.close()
        assert {answer.status for answer in answers.values()} == {200}
        return {user for user, answer in answers.items() if answer.body == b"b"}

    async def grpc_users_of_b(self, users: list[str] = USERS) -> set[str]:
        """Return the users that the candidate answers over gRPC."""
        answers = {user: await self.client.infer(metadata={"x-user-id": user}) for user in users}
        assert {answer.code for answer in answers.values()} == {StatusCode.OK}
        return {user for user, answer in answers.items() if answer.text == "b"}

    async def uncounted(self) -> dict[str, int]:
        """Return the predictions that could not count, by kind; without those of no kind."""
        return {kind: number for kind, number in (await self.router.counts())["uncounted"].items() if number}


Run = Callable[..., None]
Serve = Reply | Callable[[Message], Reply] | None


@pytest.fixture
def run(tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run(scenario, …)`` sets up a router and revisions, and awaits ``scenario(setup)``."""
    port, grpc_port = free_port(*ADDRESSES.values()), free_port(*ADDRESSES.values())
    monkeypatch.setattr(routes_module, "SERVER_PORT", port)

    def start(
        scenario: Callable[[Setup], Coroutine[Any, Any, None]],
        routes: Routes,
        a: Serve = None,
        b: Serve = None,
        grpc_b: Behaviour | None = None,
        changes: dict[str, str] | None = None,
    ) -> None:
        async def main() -> None:
            async with AsyncExitStack() as stack:
                first = await stack.enter_async_context(Revision("a", ADDRESSES["a"], port, a))
                second = await stack.enter_async_context(Revision("b", ADDRESSES["b"], port, b))
                for slot, behave in (("a", None), ("b", grpc_b)):
                    await stack.enter_async_context(GrpcRevision(slot, ADDRESSES[slot], grpc_port, behave))  # type: ignore[index]
                router = Router(tmp_path / "router", changes or {}, grpc_port, version)
                await stack.enter_async_context(router)
                await router.route(routes)
                client = GrpcClient(router.grpc)
                await stack.enter_async_context(client.channel)
                await scenario(Setup(router, first, second, client))
                assert [line for line in router.log if "Lua" in line or "lua" in line] == []

        asyncio.run(main())

    return start


def test_each_user_has_a_side_and_a_higher_weight_moves_none_back(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        before: set[str] = set()
        for weight in (5, 25, 50, 75):
            await setup.router.route(assigned(weight))
            found = await setup.users_of_b()
            assert found == of_candidate(weight)
            assert await setup.users_of_b() == found
            assert found > before
            before = found
            assert await setup.router.tally(weight) == (candidate(0), stable(0))
        assert await setup.uncounted() == {"sticky": 8 * len(USERS)}

    run(scenario, STABLE_A)


def test_the_shares_are_those_of_the_weights() -> None:
    users = [str(number) for number in range(50_000)]
    for weight in (1, 5, 25, 50, 99):
        # Five standard deviations of a draw.
        assert len(of_candidate(weight, users)) / 500 == pytest.approx(weight, abs=1.2)


def test_a_user_has_the_same_side_over_grpc_and_in_another_router(run: Run, tmp_path: Path, version: str) -> None:
    async def scenario(setup: Setup) -> None:
        expected = of_candidate(25)
        assert await setup.grpc_users_of_b() == await setup.users_of_b() == expected
        async with Router(tmp_path / "second", version=version) as second:
            await second.route(assigned(25))
            assert await setup.users_of_b(router=second) == expected
        assert await setup.router.tally(25) == (candidate(0), stable(0))
        assert await setup.uncounted() == {"sticky": 2 * len(USERS)}

    run(scenario, assigned(25))


def test_another_revision_has_other_users(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        before = await setup.users_of_b()
        await setup.router.route(assigned(25, replace(STICKY, key="5e" * 32)))
        after = await setup.users_of_b()
        assert len(before & after) < len(before) // 2

    run(scenario, assigned(25))


def test_requests_without_the_header_are_drawn_and_counted_as_before(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client, drawn = Client(setup.router.traffic), Counter[bytes]()
        for number in range(200):
            drawn[(await client.post()).body] += 1
            await client.post(headers={"x-user-id": USERS[number]})
            await client.post(headers={"x-user": USERS[number], "x-user-id-2": "b"})
        client.close()
        assert (await setup.router.tally(25))[0]["requests"] == 100
        assert await setup.router.tally(25) == (candidate(100), stable(300))
        assert 30 <= drawn[b"b"] <= 70
        for _ in range(100):
            await setup.client.infer()
        assert await setup.router.tally(25) == (candidate(125), stable(375))
        assert await setup.uncounted() == {"sticky": 200}

    run(scenario, assigned(25))


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "reply", [Reply(500), Reply(400), Reply(429), Reply(501), Reply(reset=True), Reply(raw=b""), Reply(seconds=60)]
)
@pytest.mark.parametrize("headers", [{"x_user_id": ""}, {"x_group": "beta"}], ids=["sticky", "matched"])
def test_what_the_candidate_fails_is_retried_on_stable_and_counts_nowhere(
    run: Run, reply: Reply, headers: dict[str, str]
) -> None:
    async def scenario(setup: Setup) -> None:
        for user in sorted(of_candidate(25))[:10]:
            answer = await setup.post(**{name: value or user for name, value in headers.items()})
            assert (answer.status, answer.body, answer.headers["x-mlmodel-fallback"]) == (200, b"a", "true")
            assert "x-mlmodel-first" not in answer.headers
        assert len(setup.b.requests) >= 10
        assert await setup.router.tally(25) == (candidate(0), stable(0))

    run(scenario, assigned(25, replace(STICKY, match="x-group", values=("beta",)), 200), b=reply)


@pytest.mark.parametrize("code", [StatusCode.INTERNAL, StatusCode.INVALID_ARGUMENT, StatusCode.UNAVAILABLE], ids=str)
def test_a_call_that_the_candidate_fails_is_retried_on_stable_and_counts_nowhere(run: Run, code: StatusCode) -> None:
    async def scenario(setup: Setup) -> None:
        for user in sorted(of_candidate(25))[:10]:
            answer = await setup.client.infer(metadata={"x-user-id": user})
            assert answer == Answer(StatusCode.OK, "a", fallback=True)
        assert await setup.router.tally(25) == (candidate(0), stable(0))

    run(scenario, assigned(25), grpc_b=fails(code))


def test_at_a_weight_of_100_there_are_no_sides_and_failures_count_however_they_are_marked(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        both = replace(STICKY, match="x-group", values=("beta",))
        await setup.router.route(assigned(100, both))  # the operator sends no rules then; the router ignores them
        for user in USERS[:20]:
            assert (await setup.post(x_user_id=user, x_group="beta")).body == b"a"
        assert await setup.router.tally(100) == (candidate(20, failed=20), stable(0))
        assert await setup.uncounted() == {}

    run(scenario, STABLE_A, b=Reply(500))


ODD = {
    "empty": (b"x-user-id:\r\n", None),
    "spaces": (b"x-user-id:    \t \r\n", None),
    "twice": (b"x-user-id: %s\r\nx-user-id: %s\r\n", None),
    "twice, the second empty": (b"x-user-id: %s\r\nX-USER-ID:\r\n", None),
    "spaces around": (b"x-user-id: \t %s \t \r\n", b"%s"),
    "a list": (b"x-user-id: %s, %s\r\n", b"%s, %s"),
    "quotes": (b'x-user-id: "%s"\r\n', b'"%s"'),
    "bytes beyond ASCII": (b"x-user-id: \xff\x80%s\xfe\r\n", b"\xff\x80%s\xfe"),
    "10 KiB": (b"x-user-id: %s" + b"x" * 10_000 + b"\r\n", b"%s" + b"x" * 10_000),
    "a pattern of Lua": (b"x-user-id: %s%%b()[[.-\r\n", b"%s%%b()[[.-"),
    "a format of HAProxy": (b"x-user-id: %s%%[src]%%[rand(1)]\r\n", b"%s%%[src]%%[rand(1)]"),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_the_side_is_that_of_the_bytes_of_one_header_with_a_value_and_all_else_is_drawn(
    run: Run, odd: tuple[bytes, bytes | None]
) -> None:
    lines, value = odd

    async def scenario(setup: Setup) -> None:
        seen = []
        for user in USERS[:100]:
            text = user.encode()
            client = Client(setup.router.traffic)
            head = b"POST " + INFER + b" HTTP/1.1\r\nhost: m\r\ncontent-length: 2\r\n"
            answer = await client.send(head + lines.replace(b"%s", text).replace(b"%%", b"%") + b"\r\n{}")
            client.close()
            assert answer.status == 200
            seen.append((text, answer.body))
        if value is None:
            assert await setup.router.tally(25) == (candidate(25), stable(75))
            return
        for text, body in seen:
            whole = KEY.encode() + value.replace(b"%s", text).replace(b"%%", b"%")
            digest = hashlib.sha1(whole, usedforsecurity=False).digest()
            assert (body == b"b") == (int.from_bytes(digest[:4], "big") % 100 < 25)
        assert await setup.uncounted() == {"sticky": 100}

    run(scenario, assigned(25))


HIDDEN = b"POST /hidden HTTP/1.1\r\nhost: m\r\ncontent-length: 0\r\n\r\n"
CHUNKED = b"0\r\n\r\n" + HIDDEN


def smuggling() -> dict[bytes, bytes]:
    """Return requests whose second half is a request for one reading of the first half and not for another, by the
    lines that make the difference. Each has a header that assigns it."""
    length = b"content-length: %d\r\n" % len(CHUNKED)
    lengths = [b"+%d", b"%d,%d", b"%d, 0", b"0x%x", b"%d.0", b"-%d", b"%d a", b"00%d", b'"%d"']
    lines = [b"content-length: " + text.replace(b"%d", b"5").replace(b"%x", b"5") + b"\r\n" for text in lengths]
    lines += [length + b"content-length: 5\r\n", b"content-length: 5\r\n" + length]
    lines += [
        b"content-length : 5\r\n",
        b"content-length\x00: 5\r\n",
        b"content_length: 5\r\n",
        b" content-length: 5\r\n",
    ]
    codings = [b"chunked", b" chunked", b"\tchunked", b"\x0bchunked", b"chunked ", b"xchunked", b"chunkedx", b"CHUNKED"]
    codings += [
        b"chunked, identity",
        b"identity, chunked",
        b"chunked, chunked",
        b"gzip, chunked",
        b"chunked;q=1",
        b"",
        b"'",
    ]
    lines += [length + b"transfer-encoding:" + coding + b"\r\n" for coding in codings]
    lines += [length + b"transfer-encoding : chunked\r\n", length + b"transfer_encoding: chunked\r\n"]
    lines += [length + b"Transfer-Encoding\x00: chunked\r\n", length + b"x: y\ntransfer-encoding: chunked\r\n"]
    lines += [length + b"x: y\r\n transfer-encoding: chunked\r\n", length + b"transfer-encoding:\r\n chunked\r\n"]
    lines += [length + b"transfer-encoding: chunked\r\ntransfer-encoding: x\r\n", b"x-user-id: a\x01b\r\n" + length]
    lines += [length + b"x-user-id: a\nx-mlmodel-version: candidate\r\n", length + b"x-user-id: a\x00b\r\n"]
    lines += [length + b"x-user-id: a\rx-mlmodel-version: candidate\r\n", length + b"x-user-id: a\r\n b\r\n"]
    lines += [
        length + b"x-user-id : a\r\n",
        length + b"x-user-id\t: a\r\n",
        length + b": a\r\n",
        length + b"x-user-id\r\n",
    ]
    start = b"POST " + INFER + b" HTTP/1.1\r\nhost: m\r\nx-group: beta\r\n"
    return {line: start + line + b"\r\n" + CHUNKED for line in lines}


@pytest.mark.attack(held=True)
def test_a_header_that_assigns_a_request_smuggles_no_second_one(run: Run) -> None:
    forms = smuggling()
    assert len(forms) > 45

    async def scenario(setup: Setup) -> None:
        async def send(form: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(*setup.router.traffic)
            writer.write(form)
            return reader, writer

        async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[bytes]:
            """Return the status of each answer on this connection."""
            answers = b""
            with contextlib.closing(writer), contextlib.suppress(TimeoutError, ConnectionError):
                while data := await asyncio.wait_for(reader.read(10_000), 0.2):
                    answers += data
            return re.findall(rb"HTTP/1.1 (\d+)", answers)

        seen = []
        for routes in (canary(50), assigned(50, replace(STICKY, match="x-group", values=("beta",)))):
            await setup.router.route(routes)
            streams = await asyncio.gather(*map(send, forms.values()))
            # Some get no answer. The router has one thread: when it has answered some later requests, it has answered
            # what of these it will, and what follows in them.
            for _ in range(10):
                await setup.router.get("/live")
                await setup.router.idle()
            seen.append(await asyncio.gather(*(read(*stream) for stream in streams)))
            reached = setup.a.requests + setup.b.requests
            # A version reads exactly the requests that the router has read and answered.
            assert len(reached) == sum(answers.count(b"200") for form in seen for answers in form)
            assert not any("x-mlmodel-version" in request.headers for request in reached)
        # The rules change nothing about what is valid HTTP.
        assert dict(zip(forms, seen[0], strict=True)) == dict(zip(forms, seen[1], strict=True))
        # 404 is of the router, for a path that is not public.
        expected = {b"200", b"400", b"404", b"422", b"501"}
        assert {status for form in seen for answers in form for status in answers} <= expected

    run(scenario, STABLE_A)


def test_a_group_goes_to_the_candidate_and_others_are_drawn(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        for value in ("beta", "staff", "users,beta", "users, staff ,x", "\t beta", ",,beta"):
            for _ in range(5):
                assert (await setup.post(X_Group=value)).body == b"b", value
        assert (await setup.client.infer(metadata={"x-group": "staff"})).text == "b"
        assert await setup.uncounted() == {"matched": 31}
        assert await setup.router.tally(1) == (candidate(0), stable(0))
        others = [
            "Beta",
            "betas",
            "bet",
            "not beta",
            "beta staff",
            "",
            ",",
            " ",
            "users",
            "be,ta",
            "beta;q=1",
            "*",
            ".*",
        ]
        others += ["[beta]", "%62eta", "b" * 10_000, " " * 9_000 + "x beta", "beta\xff"]
        client = Client(setup.router.traffic)
        for value in others:
            for _ in range(50):
                await client.post(headers={"x-group": value})
        client.close()
        assert await setup.router.tally(1) == (candidate(9), stable(891))
        assert await setup.uncounted() == {"matched": 31}

    run(scenario, assigned(1, MATCH))


@pytest.mark.attack(held=True)
def test_a_header_that_occurs_twice_matches_nothing(run: Run) -> None:
    """A client could add its own to that of the gateway."""

    async def scenario(setup: Setup) -> None:
        fields = ((b"content-length", b"2"), (b"x-group", b"beta"), (b"x-group", b"users"))
        for _ in range(20):
            await http2(setup.router.traffic, INFER, headers=fields, body=b"{}")
        assert (await setup.uncounted()).get("matched") is None
        own, others = await setup.router.tally(1)
        assert own["requests"] + others["requests"] == 20

    run(scenario, assigned(1, MATCH))


def test_x_mlmodel_version_and_a_version_in_the_path_win(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        staff = {"x-group": "staff"}
        for path, headers, body in (
            ("/v2/models/m/infer", staff | {"x-mlmodel-version": "stable"}, b"a"),
            ("/v2/models/m/versions/v1/infer", staff, b"a"),
            ("/v2/models/m/versions/v2/infer", {"x-group": "users"}, b"b"),
            ("/v2/models/m/infer", {"x-mlmodel-version": "candidate"}, b"b"),
            # Not a prediction: it goes where it went before.
            ("/v2/models/m/feedback", staff, b"a"),
        ):
            assert (await client.post(path, headers)).body == body
        client.close()
        of_stable = b"\n\x01m\x12\x02v1"
        assert (await setup.client.infer(of_stable, {"x-group": "staff"})).text == "a"
        assert (await setup.client.infer(metadata={"x-group": "staff", "x-mlmodel-version": "stable"})).text == "a"
        assert await setup.uncounted() == {"chosen": 6}

    run(scenario, assigned(25, MATCH))


def test_what_cannot_be_repeated_stays_on_stable(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        for _ in range(5):
            answer = await client.post(headers={"x-group": "beta"}, body=b" " * 30_000)
            assert (answer.status, answer.body) == (200, b"a")
        client.close()
        assert (await setup.client.infer(MESSAGE * 4, {"x-group": "beta"})).text == "a"
        assert await setup.uncounted() == {"large": 6}

    run(scenario, assigned(99, MATCH))


@pytest.mark.attack(held=True)
def test_at_a_weight_of_0_only_what_chooses_the_candidate_reaches_it_and_nothing_is_counted(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        client = Client(setup.router.traffic)
        for sides in (Sides(is_open=True), replace(MATCH, is_open=True), replace(STICKY, is_open=True)):
            await setup.router.route(assigned(0, sides))
            is_matched = b"b" if sides.match else b"a"
            for _ in range(50):
                assert (await client.post()).body == b"a"
                assert (await client.post(headers={"x-user-id": "u"})).body == b"a"
                assert (await client.post(body=b" " * 30_000)).body == b"a"
                assert (await client.get("/v2/models/m")).body == b"a"
            assert (await client.post(headers={"x-group": "beta"})).body == is_matched
            assert (await client.post(headers={"x-mlmodel-version": "candidate"})).body == b"b"
            assert (await client.post("/v2/models/m/versions/v2/infer")).body == b"b"
            assert (await setup.client.infer()).text == "a"
            assert (await setup.client.infer(metadata={"x-group": "beta"})).text == is_matched.decode()
            assert (await setup.client.infer(metadata={"x-mlmodel-version": "candidate"})).text == "b"
            page = await setup.router.counts()
            assert (page["candidate"], page["weights"], page["uncounted"]) == ("b0b0b0b0", {}, UNCOUNTED)
        await setup.router.route(canary(5))
        assert Counter([(await client.post()).body for _ in range(100)]) == {b"a": 95, b"b": 5}
        assert await setup.router.tally(5) == (candidate(5), stable(95))
        client.close()

    run(scenario, STABLE_A)


@pytest.mark.parametrize("reply", [Reply(500), Reply(400), Reply(reset=True)], ids=["500", "400", "reset"])
def test_at_a_weight_of_0_what_the_candidate_fails_is_retried_on_stable(run: Run, reply: Reply) -> None:
    async def scenario(setup: Setup) -> None:
        for headers in ({"x_group": "beta"}, {"x_mlmodel_version": "candidate"}):
            answer = await setup.post(**headers)
            assert (answer.status, answer.body, answer.headers["x-mlmodel-fallback"]) == (200, b"a", "true")

    run(scenario, assigned(0, replace(MATCH, is_open=True)), b=reply)


def test_a_weight_of_0_without_open_routes_gives_the_candidate_nothing(run: Run) -> None:
    """A verdict was held, or the candidate has no ready pod."""

    async def scenario(setup: Setup) -> None:
        for headers in ({"x_group": "beta"}, {"x_user_id": "u"}, {"x_mlmodel_version": "candidate"}):
            assert (await setup.post(**headers)).body == b"a"
            metadata = {name.replace("_", "-"): value for name, value in headers.items()}
            assert (await setup.client.infer(metadata=metadata)).text == "a"
        assert setup.b.requests == []

    run(scenario, assigned(0, replace(STICKY, match="x-group", values=("beta",))))


@pytest.mark.attack(held=True)
def test_clients_that_a_header_assigns_do_not_overload_the_candidate(run: Run) -> None:
    hold = asyncio.Event()

    async def scenario(setup: Setup) -> None:
        answers = await setup.router.released((setup.post(x_group="beta") for _ in range(60)), hold, answered=51)
        assert Counter(answer.status for answer in answers) == {200: 60}
        assert 8 <= len(setup.b.requests) <= 9
        assert Counter(versions(list(answers)))["b"] == len(setup.b.requests)
        calls = await asyncio.gather(*(setup.client.infer(metadata={"x-group": "beta"}) for _ in range(40)))
        assert {call.code for call in calls} == {StatusCode.OK}

    run(scenario, assigned(5, MATCH), b=Reply(hold=hold))


def test_the_share_of_the_candidate_grows_with_the_requests_in_flight(run: Run) -> None:
    hold = asyncio.Event()

    async def scenario(setup: Setup) -> None:
        users = sorted(of_candidate(50))[:50] + sorted(set(USERS) - of_candidate(50))[:50]
        posts = [asyncio.ensure_future(setup.post(x_user_id=user)) for user in sorted(users)]

        async def arrived() -> bool:
            return len(setup.a.requests) + len(setup.b.requests) == 100

        await setup.router.until(arrived)
        hold.set()
        assert {answer.status for answer in await asyncio.gather(*posts)} == {200}
        # As many as stable has: within twice the share and eight.
        assert len(setup.b.requests) == 50

    run(scenario, assigned(50), a=Reply(hold=hold), b=Reply(hold=hold))


def test_a_line_of_a_later_release_is_ignored_and_the_routes_are_followed(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        routes = assigned(25, MATCH)
        setup.router.write(
            routes.text(), f"id {routes.id()}\ngeo x-country de\n" + MATCH.text() + "sticky x\n\nmatch bad\x01 v\n"
        )

        async def followed() -> bool:
            return bool((await setup.router.counts())["id"] == routes.id())

        await setup.router.until(followed)

        async def warned() -> bool:
            return sum("not understood" in line for line in setup.router.log) == 3

        await setup.router.until(warned)
        assert (await setup.post(x_group="beta")).body == b"b"
        # And without the file, as a release before writes it.
        await setup.router.route(canary(25))
        await setup.post(x_group="beta")
        own, others = await setup.router.tally(25)
        assert own["requests"] + others["requests"] == 1

    run(scenario, STABLE_A)


def test_an_assigned_request_in_flight_is_never_sent_to_the_next_candidate_in_its_slot(run: Run) -> None:
    hold = asyncio.Event()

    async def scenario(setup: Setup) -> None:
        slow = asyncio.ensure_future(setup.post(x_group="beta"))

        async def arrived() -> bool:
            return len(setup.b.requests) == 1

        await setup.router.until(arrived)
        # The candidate is promoted, and the slot of the former stable gets another one, at an address without a server.
        await setup.router.route(Routes({"b": ADDRESSES["b"]}, "b", labels={"b": "v2"}))
        addresses: dict[Slot, str] = {"a": "127.0.0.13", "b": ADDRESSES["b"]}
        next_routes = Routes(addresses, "b", "a", 50, "c0c0c0c0", labels={"a": "v3", "b": "v2"})
        following = asyncio.ensure_future(setup.router.route(next_routes))
        await asyncio.sleep(0.5)
        assert not following.done()
        hold.set()
        assert (await slow).body == b"a"
        await following

    run(scenario, assigned(5, MATCH), b=Reply(500, hold=hold))


@pytest.mark.parametrize("first", ["", "id 0123456789abcdef\n", "id \n", "id"], ids=["none", "other", "empty", "half"])
def test_rules_of_other_routes_are_ignored(run: Run, first: str) -> None:
    """As of a restored backup: server-side apply removes no key that somebody else wrote."""

    async def scenario(setup: Setup) -> None:
        routes = canary(1, revision="c0c0c0c0")
        setup.router.write(routes.text(), first + MATCH.text())

        async def followed() -> bool:
            return bool((await setup.router.counts())["id"] == routes.id())

        await setup.router.until(followed)
        for _ in range(10):
            await setup.post(x_group="beta")
        own, others = await setup.router.tally(1)
        assert own["requests"] + others["requests"] == 10

    run(scenario, assigned(1, MATCH))


def test_a_change_of_the_rules_alone_is_followed(run: Run) -> None:
    async def scenario(setup: Setup) -> None:
        assert (await setup.post(x_group="qa")).body in (b"a", b"b")
        await setup.router.route(assigned(1, replace(MATCH, values=("qa",))))
        assert {(await setup.post(x_group="qa")).body for _ in range(10)} == {b"b"}

    run(scenario, assigned(1, MATCH))
