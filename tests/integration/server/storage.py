"""Real storage servers on loopback, for one test module each: S3, Google Cloud Storage, and a container registry.

A test can put a :class:`Cut` before one of them: a relay that breaks one connection.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from hack.cluster.pki import Authority
from hack.cluster.shell import wait_for
from hack.go_programs import FAKE_GCS, REGISTRY, VERSITYGW, Program, program
from hack.ports import free_port

START_SECONDS = 180
USER, PASSWORD = "tester", "hush-hush"
PASSWORD_HASH = "$2b$04$sJ3FSjABJaGgENqamF.JreBmL3RlZZB1I8tkNrFBBDJXa96/cwwUy"
"""bcrypt of the password, as ``htpasswd -B`` makes it."""


@dataclass(frozen=True)
class Service:
    """A running server. ``authority`` is the certificate to trust, if it uses TLS."""

    port: int
    url: str
    log: Path
    authority: Path | None = None


class Cut:
    """A relay to ``port`` that breaks one connection, after ``after`` bytes of responses."""

    def __init__(self, port: int, after: int) -> None:
        self._target, self._left, self.passed, self.cuts = port, after, 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._lock = threading.Lock()

    def __enter__(self) -> Cut:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open |= {client, server}
                for pump in (self._send, self._receive):
                    thread = threading.Thread(target=pump, args=(client, server))
                    self._threads.append(thread)
                    thread.start()

    def _send(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _receive(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                with self._lock:
                    self._left -= len(data)
                    self.passed += len(data)
                    cut = self._left < 0 and not self.cuts
                    self.cuts += cut
                if cut:
                    break
                client.sendall(data)
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            self._open.discard(end)


@contextlib.contextmanager
def running(
    source: Program, arguments: Sequence[str | Path], folder: Path, service: Service, env: Mapping[str, str]
) -> Iterator[Service]:
    """Run a server during the ``with`` block, which starts when the server accepts connections."""
    if not shutil.which("go"):
        pytest.skip(f"{source.name} requires Go, which is missing: apt-get install golang-go")
    binary = program(source)
    with service.log.open("wb") as log:
        process = subprocess.Popen(
            [binary, *arguments],
            cwd=folder,
            env={**os.environ, **env},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )

    def accepts() -> bool:
        assert process.poll() is None, f"{source.name} exited: {service.log.read_text()[-2000:]}"
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", service.port), timeout=1).close()
            return True
        return False

    try:
        wait_for(f"{source.name} on {service.url}", accepts, seconds=START_SECONDS, log=service.log)
        yield service
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)


def _with_tls(folder: Path) -> Service:
    """Return a service on a free port, with a new certificate in ``folder``."""
    Authority.create(folder, "ca").issue("server", "server", hosts=["127.0.0.1"])
    port = free_port()
    return Service(port, f"https://127.0.0.1:{port}", folder / "server.log", folder / "ca.crt")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An S3 server with the bucket ``models``; its user is :data:`USER` with :data:`PASSWORD`."""
    folder = tmp_path_factory.mktemp("s3")
    service = _with_tls(folder)
    for name in ("buckets/models", "metadata"):
        (folder / name).mkdir(parents=True)
    arguments = (
        "--port", f"127.0.0.1:{service.port}", "--quiet",
        "--cert", folder / "server.crt", "--key", folder / "server.key",
        "posix", "--sidecar", folder / "metadata", folder / "buckets",
    )  # fmt: skip
    env = {"ROOT_ACCESS_KEY_ID": USER, "ROOT_SECRET_ACCESS_KEY": PASSWORD}
    with running(VERSITYGW, arguments, folder, service, env) as server:
        yield server


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Google Cloud Storage in memory with the bucket ``models``, without TLS and without users."""
    folder = tmp_path_factory.mktemp("gcs")
    (folder / "data" / "models").mkdir(parents=True)
    (folder / "data" / "models" / "readme.md").write_text("a bucket")
    port = free_port()
    service = Service(port, f"http://127.0.0.1:{port}", folder / "server.log")
    arguments = (
        "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host", "127.0.0.1",
        "-backend", "memory", "-data", "data",
    )  # fmt: skip
    with running(FAKE_GCS, arguments, folder, service, {}) as server:
        yield server


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A container registry; its user is :data:`USER` with :data:`PASSWORD`."""
    folder = tmp_path_factory.mktemp("registry")
    service = _with_tls(folder)
    (folder / "users").write_text(f"{USER}:{PASSWORD_HASH}\n")
    (folder / "config.yml").write_text(
        f"""\
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder / "data"}}}}}
http:
  addr: 127.0.0.1:{service.port}
  tls: {{certificate: {folder / "server.crt"}, key: {folder / "server.key"}}}
auth: {{htpasswd: {{realm: test, path: {folder / "users"}}}}}
"""
    )
    # By default it sends traces to a collector, which does not exist here
    with running(REGISTRY, ("serve", "config.yml"), folder, service, {"OTEL_TRACES_EXPORTER": "none"}) as server:
        yield server
