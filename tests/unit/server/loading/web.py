"""A small HTTPS server on loopback whose responses a test defines, also incomplete ones."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hack.cluster.pki import Authority


@dataclass(frozen=True)
class Request:
    """A request, with lower-case names of headers."""

    path: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Reply:
    """A response; ``cut`` closes the connection after so many bytes of the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


@dataclass
class Web:
    """A running server: its address, every request so far, and the authority of its certificate."""

    url: str
    requests: list[Request]
    authority: Authority


@contextmanager
def serving(folder: Path, answer: Callable[[Request], Reply], authority: Authority | None = None) -> Iterator[Web]:
    """Run a server during the ``with`` block; the authority to trust is ``folder/ca.crt``, or the given one."""
    requests: list[Request] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            request = Request(self.path, {name.lower(): value for name, value in self.headers.items()})
            requests.append(request)
            reply = answer(request)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body[: reply.cut])
            self.close_connection = reply.cut is not None

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    authority = authority or Authority.create(folder, "ca")
    authority.issue("server", "server", hosts=["127.0.0.1"])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Web(f"https://127.0.0.1:{server.server_port}", requests, authority)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ranged(content: bytes, request: Request, cut: int | None = None, etag: str = '"1"') -> Reply:
    """Return the content, or the requested part of it if the ETag is the same."""
    range_header = request.headers.get("range")
    if range_header and request.headers.get("if-range") == etag:
        start = int(range_header.removeprefix("bytes=").removesuffix("-"))
        part = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}", "ETag": etag}
        return Reply(206, content[start:], part, cut)
    return Reply(200, content, {"ETag": etag}, cut)
