"""TLS at the router: a certificate that is renewed, and one that must not be taken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from hack.ports import free_port
from mlmodel_operator.rollout import routes as routes_module
from tests.integration.router.certificates import Authority, Pair
from tests.integration.router.loopback import Client, Message, Revision, read_message
from tests.integration.router.routers import ADDRESSES, STABLE_A, Router, failing
from tests.integration.router.test_router_grpc import SERVICE, GrpcRevision

PER_SECOND = 100
READ = "certificate read"
"""What a process logs when its new connections get another certificate."""
REQUEST = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}"


@dataclass
class Served:
    """A router with TLS, in front of revision a for both protocols."""

    router: Router
    authority: Authority
    a: Revision

    def context(self, *alpn: str) -> ssl.SSLContext:
        """Return what a client needs to verify the router."""
        found = ssl.create_default_context(cadata=self.authority.pem.decode())
        found.set_alpn_protocols(list(alpn or ("http/1.1",)))
        return found

    async def connect(self, address: tuple[str, int] | None = None, context: ssl.SSLContext | None = None) -> Any:
        """Return reader and writer of a new connection."""
        host, port = address or self.router.https
        return await asyncio.open_connection(host, port, ssl=context or self.context(), server_hostname="localhost")

    async def subject(self, address: tuple[str, int] | None = None) -> str:
        """Return the name in the certificate that a new connection gets."""
        _, writer = await self.connect(address)
        found = dict(pair for (pair,) in writer.get_extra_info("peercert")["subject"])
        writer.close()
        return str(found["commonName"])

    async def post(self) -> Message:
        """Send one request on a new connection."""
        reader, writer = await self.connect()
        writer.write(REQUEST)
        answer = await read_message(reader)
        writer.close()
        return answer

    def write(self, pair: Pair) -> None:
        """Replace the files of the Secret."""
        mount(self.router.folder, pair)

    async def renew(self, name: str) -> None:
        """Write a certificate with this name, and wait until each process gives it to new connections."""
        before = self.router.logged(READ)
        self.write(self.authority.issue(name))
        await self.router.until_each_logs(READ, before)

    async def says(self, state: str) -> None:
        """Wait until the page of each process says so of its certificate."""

        async def said() -> bool:
            return all(page["tls"] == state for page in await self.router.statuses())

        await self.router.until(said)


async def infer(channel: grpc.aio.Channel, seconds: float = 20) -> bytes:
    """Send one call."""
    method: Any = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    answer: bytes = await method(b"", timeout=seconds)
    return answer


def mount(folder: Path, pair: Pair) -> None:
    """Replace certificate and key at once by renaming a symbolic link, as the kubelet does."""
    place = folder / "tls"
    data = place / f"..{time.monotonic_ns()}"
    data.mkdir(parents=True)
    (data / "tls.crt").write_bytes(pair.certificate)
    (data / "tls.key").write_bytes(pair.key)
    (place / "..data_tmp").symlink_to(data.name)
    (place / "..data_tmp").rename(place / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (place / name).is_symlink():
            (place / name).symlink_to(f"..data/{name}")


@asynccontextmanager
async def serving(
    folder: Path,
    port: int,
    version: str,
    *,
    tls: str = "only",
    supervised: bool = False,
    changes: dict[str, str] | None = None,
) -> AsyncIterator[Served]:
    """Run a router whose certificate is named `first`."""
    authority = Authority()
    mount(folder, authority.issue("first"))
    grpc_port = free_port(ADDRESSES["a"])
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(Revision("a", ADDRESSES["a"], port))
        await stack.enter_async_context(GrpcRevision("a", ADDRESSES["a"], grpc_port))
        router = Router(folder, changes or {}, grpc_port, version, supervised, tls)
        await stack.enter_async_context(router)
        await router.route(STABLE_A)
        await router.until_each_logs(READ)
        yield Served(router, authority, a)


Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run(scenario, …)`` awaits ``scenario(served)``."""
    port = free_port(*ADDRESSES.values())
    monkeypatch.setattr(routes_module, "SERVER_PORT", port)

    def start(scenario: Callable[[Served], Awaitable[None]], **how: Any) -> None:
        async def main() -> None:
            async with serving(tmp_path / "router", port, version, **how) as served:
                await scenario(served)

        asyncio.run(main())

    return start


# ------------------------------------------------------------------------------------------------------------- ports


@pytest.mark.attack
def test_with_tls_a_request_in_plain_text_is_rejected_and_reaches_no_pod(run: Run) -> None:
    async def scenario(served: Served) -> None:
        router = served.router
        assert (await served.post()).status == 200
        before = len(served.a.requests)
        for path in ("/predict", "/v2/models/m/infer", "/", "/v2/health/ready/", "/metrics"):
            client = Client(router.traffic)
            answer = await client.post(path)
            client.close()
            assert answer.status == 403
            assert "https://" in json.loads(answer.body)["error"]
        assert len(served.a.requests) == before
        # Probes, and the operator's own check of the address.
        for path in ("/v2/health/ready", "/v2/health/live"):
            assert (await router.get(path, router.traffic)).status == 200
        async with grpc.aio.insecure_channel(f"localhost:{router.grpc[1]}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await infer(channel)
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert "9443" in str(caught.value.details())

    run(scenario)


def test_plain_text_is_served_beside_tls_if_the_spec_says_so(run: Run) -> None:
    async def scenario(served: Served) -> None:
        router = served.router
        client = Client(router.traffic)
        assert (await client.post()).status == (await served.post()).status == 200
        client.close()
        async with grpc.aio.insecure_channel(f"localhost:{router.grpc[1]}") as channel:
            assert await infer(channel) == b"a"

    run(scenario, tls="both")


def test_grpc_and_http_2_are_spoken_over_tls(run: Run) -> None:
    async def scenario(served: Served) -> None:
        credentials = grpc.ssl_channel_credentials(served.authority.pem)
        async with grpc.aio.secure_channel(f"localhost:{served.router.grpcs[1]}", credentials) as channel:
            assert await infer(channel) == b"a"
        for alpn in ("h2", "http/1.1"):
            _, writer = await served.connect(context=served.context(alpn))
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == alpn
            writer.close()

    run(scenario)


@pytest.mark.attack
def test_only_tls_1_2_and_newer_with_forward_secrecy_is_spoken(run: Run) -> None:
    async def scenario(served: Served) -> None:
        for protocol in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = served.context()
            context.minimum_version = context.maximum_version = protocol
            _, writer = await served.connect(context=context)
            assert writer.get_extra_info("cipher")[0].startswith(("ECDHE-", "TLS_"))
            writer.close()
        old = served.context()
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        weak = served.context()
        weak.maximum_version = ssl.TLSVersion.TLSv1_2
        weak.set_ciphers("AES128-SHA:AES256-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
        for context in (old, weak):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await served.connect(context=context)

    run(scenario)


@pytest.mark.attack
def test_clients_that_do_not_finish_a_handshake_stop_nobody(run: Run) -> None:
    async def scenario(served: Served) -> None:
        idle = [await asyncio.open_connection(*served.router.https) for _ in range(100)]
        for _, writer in idle[::2]:
            writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01")  # a part of a first message
        for _, writer in idle[1::2]:
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await asyncio.wait_for(served.post(), 60)).status == 200
        for _, writer in idle:
            writer.close()

    run(scenario)


# ----------------------------------------------------------------------------------------------------------- renewal


@dataclass
class Load:
    """Requests at a steady rate, half on kept connections and half on new ones; gRPC on one channel and on new ones."""

    served: Served
    answers: int = 0
    failures: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    async def during(self, action: Awaitable[None]) -> None:
        """Send requests until ``action`` is done."""
        running = asyncio.ensure_future(action)
        drivers = [self._drive(fresh, kind) for fresh in (True, False) for kind in (self._http, self._grpc)]
        await asyncio.gather(running, *(driver(running) for driver in drivers))

    def _drive(self, fresh: bool, kind: Callable[..., AsyncIterator[None]]) -> Callable[..., Awaitable[None]]:
        async def drive(running: asyncio.Future[None]) -> None:
            at = time.monotonic()
            while not running.done():
                try:
                    async for _ in kind(fresh, running):
                        self.answers += 1
                        at += 4 / PER_SECOND
                        await asyncio.sleep(max(at - time.monotonic(), 0))
                except (ssl.SSLError, OSError, asyncio.IncompleteReadError, grpc.aio.AioRpcError) as error:
                    self.failures.append(repr(error))

        return drive

    async def _http(self, fresh: bool, running: asyncio.Future[None]) -> AsyncIterator[None]:
        reader, writer = await self.served.connect()
        self.names.add(str(writer.get_extra_info("peercert")["subject"][0][0][1]))
        with contextlib.closing(writer):
            while not running.done():
                writer.write(REQUEST)
                answer = await read_message(reader)
                if answer.status != 200:
                    self.failures.append(str(answer.status))
                yield
                if fresh or answer.headers.get("connection") == "close":
                    return

    async def _grpc(self, fresh: bool, running: asyncio.Future[None]) -> AsyncIterator[None]:
        credentials = grpc.ssl_channel_credentials(self.served.authority.pem)
        options = [("grpc.use_local_subchannel_pool", 1)]
        target = f"localhost:{self.served.router.grpcs[1]}"
        async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
            while not running.done():
                await infer(channel, 60)
                yield
                if fresh:
                    return


def test_a_renewed_certificate_is_taken_without_a_lost_request(run: Run) -> None:
    """Five renewals under a hundred requests a second over both protocols, with both processes of a pod."""

    async def scenario(served: Served) -> None:
        load = Load(served)

        async def renew() -> None:
            for number in range(5):
                name = f"renewal {number}"
                await served.renew(name)
                for address in (served.router.https, served.router.grpcs):
                    assert {await served.subject(address) for _ in range(6)} == {name}
                before = load.answers

                async def is_used(name: str = name, before: int = before) -> bool:
                    return name in load.names and load.answers >= before + 30

                await served.router.until(is_used)

        await load.during(renew())
        assert load.failures == []
        print(f"{load.answers} requests, {len(load.failures)} lost")

    run(scenario, supervised=True)


def _broken(authority: Authority) -> dict[str, Pair]:
    good, other = authority.issue("good"), authority.issue("other")
    return {
        "a key of another certificate": Pair(good.certificate, other.key),
        "an encrypted key": authority.issue("encrypted", password=b"secret"),
        "no PEM": Pair(b"not PEM", b"not PEM"),
        "empty": Pair(b"", b""),
        "no key": Pair(good.certificate, b""),
        "no certificate": Pair(b"", good.key),
        "half a certificate": Pair(good.certificate[:300], good.key),
        "half a key": Pair(good.certificate, good.key[:100]),
        "control characters": Pair(b"\0\x1b]0;\xff" * 1000, good.key),
        "large": Pair(b"A" * 1_000_000, good.key),
    }


def test_a_certificate_that_cannot_be_taken_now_is_tried_again(run: Run, tmp_path: Path) -> None:
    changes, fails = failing(tmp_path, "CertCache.set")

    async def scenario(served: Served) -> None:
        fails.touch()
        served.write(served.authority.issue("second"))
        await served.says("former")
        assert await served.subject() == "first"
        fails.unlink()
        await served.says("current")
        assert await served.subject() == "second"
        assert sum("certificate rejected" in line for line in served.router.log) == 1

    run(scenario, changes=changes)


@pytest.mark.attack
def test_a_renewed_certificate_that_is_broken_is_not_taken_and_the_former_one_stays(run: Run) -> None:
    async def scenario(served: Served) -> None:
        reader, writer = await served.connect()
        for name, pair in _broken(served.authority).items():
            served.write(pair)
            await served.says("former")
            for address in (served.router.https, served.router.grpcs):
                assert await served.subject(address) == "first", name
            writer.write(REQUEST)
            assert (await read_message(reader)).status == 200, "the connection from before serves on"
            served.write(served.authority.issue("first"))
            await served.says("current")
        writer.close()
        log = "\n".join(served.router.log)
        assert "the key is encrypted" in log
        assert "the key does not belong to the certificate" in log
        assert "BEGIN" not in log

    run(scenario)


def test_a_certificate_that_has_expired_is_served_and_the_client_decides(run: Run) -> None:
    async def scenario(served: Served) -> None:
        served.write(served.authority.issue("expired", days=-1))
        careless = ssl.create_default_context()
        careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE

        async def is_rejected() -> bool:
            try:
                await served.post()
            except ssl.SSLCertVerificationError as error:
                return "expired" in str(error)
            return False

        await served.router.until(is_rejected)
        _, writer = await served.connect(context=careless)
        writer.close()
        await served.says("current")

    run(scenario)


@pytest.mark.parametrize("name", ["a key of another certificate", "an encrypted key", "no PEM", "no key", "missing"])
def test_a_router_does_not_start_with_a_broken_certificate_and_says_why(
    tmp_path: Path, version: str, name: str
) -> None:
    """Kubernetes then keeps the pods from before, which serve on."""

    async def main() -> None:
        folder = tmp_path / "router"
        if name != "missing":
            mount(folder, _broken(Authority())[name])
        router = Router(folder, version=version, tls="only", supervised=True)
        reason = folder / "termination-log"
        router.environment = {"MLMODEL_TERMINATION_LOG": str(reason)}
        with pytest.raises(AssertionError):
            await router.__aenter__()
        assert await router.process.wait() != 0
        await router.__aexit__()
        assert "tls.crt and tls.key" in reason.read_text()
        with socket.socket() as client:
            assert client.connect_ex(router.https) != 0, "nothing listens"

    asyncio.run(main())
