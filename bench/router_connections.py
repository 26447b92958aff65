"""The memory that one HAProxy process of the router takes per client connection, on loopback: with and without TLS,
idle and while the body of a request is missing. With both versions of HAProxy.
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.router_cpu import GRPC, HTTP, STATUS, on_ports
from hack import haproxy
from hack.cluster.shell import run, wait_for
from hack.ports import free_port
from mlmodel_operator.resources import router_files

PATH = "/v2/models/m/infer"
BODY = b"x" * 22_000
"""What arrives of a body of 23,000 bytes, which fits into the buffer."""


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _http2(*fields: tuple[str, str], body: bytes = b"", ends: bool = True) -> bytes:
    """Return the bytes of one request over HTTP/2, of which the end may be missing."""
    block = b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields
    )
    parts = [_frame(0, 0, 1, body[at : at + 16_000]) for at in range(0, len(body), 16_000)]
    head = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"") + _frame(1, 4 + ends, 1, block)
    return head + b"".join(parts)


_GET = ((":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "m"))
_POST = ((":method", "POST"), (":scheme", "https"), (":path", PATH), (":authority", "m"), ("content-length", "23000"))


@dataclass(frozen=True)
class Kind:
    """One kind of connection: its protocol (empty without TLS), what the client sends, and whether it is answered."""

    protocol: str
    data: bytes
    is_answered: bool


KINDS: Mapping[str, Kind] = {
    "idle": Kind("", b"GET / HTTP/1.1\r\nhost: m\r\n\r\n", True),
    "a body is missing": Kind(
        "", f"POST {PATH} HTTP/1.1\r\nhost: m\r\ncontent-length: 23000\r\n\r\n".encode() + BODY, False
    ),
    "TLS, idle": Kind("http/1.1", b"GET / HTTP/1.1\r\nhost: m\r\n\r\n", True),
    "TLS, idle, HTTP/2": Kind("h2", _http2(*_GET), True),
    "TLS, a body is missing, HTTP/2": Kind("h2", _http2(*_POST, body=BODY, ends=False), False),
}


def main() -> None:
    """Print the resident memory before and after, and per connection, for each version and kind."""
    parser = argparse.ArgumentParser(prog="python -m bench.router_connections", description=__doc__)
    parser.add_argument("--connections", type=int, default=2000, help="of each kind (default: 2000)")
    count = parser.parse_args().connections
    for version in haproxy.SUITES:
        print(run([*haproxy.program(version), "-v"], what="Reading the version of HAProxy").splitlines()[0])
        for name, kind in KINDS.items():
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                pid, plain, tls = stack.enter_context(_router(folder, version))
                _open(stack, 1, kind, plain, tls)
                before = _resident(pid)
                _open(stack, count, kind, plain, tls)
                after = _resident(pid)
            per = (after - before) / count
            print(
                f"{name}: {before / 1024:.0f} MiB, with {count} more {after / 1024:.0f} MiB: {per:.1f} KiB for each",
                flush=True,
            )


def _open(stack: ExitStack, count: int, kind: Kind, plain: int, tls: int) -> None:
    """Open connections that stay open as long as ``stack``; return when the router has what they sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([kind.protocol or "http/1.1"])
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", tls if kind.protocol else plain), 20)
        if kind.protocol:
            client = context.wrap_socket(client)
        stack.callback(client.close)
        client.sendall(kind.data)
        if kind.is_answered:
            assert client.recv(65_536)
    time.sleep(1)


def _resident(pid: int) -> int:
    """Return the resident memory of a process in KiB."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])


@contextmanager
def _router(folder: Path, version: str) -> Iterator[tuple[int, int, int]]:
    """Run one process of the router without routes; yield its PID, and its ports without and with TLS."""
    ports = {address: free_port() for address in (HTTP, ":8443", GRPC, ":9443", STATUS)}
    for name, text in on_ports(router_files(), ports).items():
        (folder / name).write_text(text)
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files: list[str | Path] = ["-keyout", folder / "tls.key", "-out", folder / "tls.crt", "-subj", "/CN=m"]
    run([*request, *files], what="Making a certificate")
    variables = {"MLMODEL_TLS": "both", "MLMODEL_TLS_PATH": str(folder), "MLMODEL_ROUTES": str(folder / "routes")}
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [*haproxy.program(version), "-db", "-f", str(folder / "haproxy.cfg")],
            env={**os.environ, **variables, "MLMODEL_PROCESS": f"bench-{os.getpid()}"},
            stdout=log,
            stderr=log,
        )
    plain = ports[HTTP]
    try:
        wait_for("The router listens", lambda: _listens(plain), seconds=10, log=folder / "log")
        yield running.pid, plain, ports[":8443"]
    finally:
        running.kill()
        running.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
