"""Asks a model at a fixed rate and says each second what came back. Only the standard library: it runs in any pod.

Open loop: a slow answer does not slow the asking. Every other request takes a fresh connection, the others share kept
ones. Nothing is repeated: what fails, failed. Each line is a JSON object with totals since the start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 30.0
IDLE = 30.0
"""Seconds after which an unused connection is not used again, as in common clients; the router keeps it longer."""
PIECES = 10
"""In which a request is sent that takes its time, as over a slow line."""


class Users:
    """All clients; counts what they saw."""

    def __init__(self, url: str, bodies: list[Any], clients: int, over: float = 0.0) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.path = parts.path
        self.turns = clients
        self.over, self.pieces = over, PIECES if over else 1
        self.bodies = [json.dumps(body).encode() for body in bodies]
        self.sent = self.ok = self.failed = self.fallbacks = 0
        self.versions: dict[str, int] = {}
        self.clients: dict[str, dict[str, int]] = {}
        self.errors: list[str] = []
        self.times: list[float] = []
        self.slowest = 0.0
        self.kept: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, number: int, client: str) -> None:
        """One request and its bookkeeping."""
        self.sent += 1
        began = time.perf_counter()
        keep = number // self.turns % 2 == 0
        try:
            code, headers = await asyncio.wait_for(self._exchange(number, keep=keep), TIMEOUT)
        except (OSError, EOFError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
            self._fail(f"{'kept' if keep else 'fresh'} connection: {type(error).__name__}: {error}")
            return
        took = 1000 * (time.perf_counter() - began)
        self.times.append(took)
        self.slowest = max(self.slowest, took)
        if code != 200:
            self._fail(f"HTTP {code}")
            return
        self.ok += 1
        version = headers.get("x-mlmodel-version", "?")
        self.versions[version] = self.versions.get(version, 0) + 1
        per_client = self.clients.setdefault(client, {})
        per_client[version] = per_client.get(version, 0) + 1
        self.fallbacks += "x-mlmodel-fallback" in headers

    def _fail(self, why: str) -> None:
        self.failed += 1
        if len(self.errors) < 10:
            self.errors.append(f"{time.strftime('%H:%M:%S')} {why}")

    async def _exchange(self, number: int, *, keep: bool) -> tuple[int, dict[str, str]]:
        reader, writer = (keep and self._take()) or await asyncio.open_connection(self.host, self.port)
        body = self.bodies[number % len(self.bodies)]
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: {self.host}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{'' if keep else 'connection: close' + chr(13) + chr(10)}\r\n"
        )
        try:
            message = head.encode() + body
            for piece in range(self.pieces):
                if piece:
                    await asyncio.sleep(self.over / (self.pieces - 1))
                writer.write(message[piece * len(message) // self.pieces : (piece + 1) * len(message) // self.pieces])
                await writer.drain()
            status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
            if headers.get("transfer-encoding") == "chunked":
                while size := int(await reader.readuntil(b"\r\n"), 16):
                    await reader.readexactly(size + 2)
                await reader.readexactly(2)
            else:
                await reader.readexactly(int(headers.get("content-length", "0")))
        except BaseException:
            writer.close()
            raise
        if keep and headers.get("connection") != "close":
            self.kept.append((time.monotonic(), reader, writer))
        else:
            writer.close()
        return int(status.split(" ")[1]), headers

    def _take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A kept connection, the latest used first; closes those that were idle for too long."""
        while self.kept:
            used, reader, writer = self.kept.pop()
            if time.monotonic() - used < IDLE and not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    def line(self) -> str:
        """The totals as a line of JSON."""
        times = sorted(self.times[-2000:]) or [0.0]
        return json.dumps(
            {
                "at": time.time(),
                "sent": self.sent,
                "ok": self.ok,
                "failed": self.failed,
                "fallbacks": self.fallbacks,
                "versions": self.versions,
                "clients": self.clients,
                "slowest_ms": round(self.slowest, 1),
                "p50_ms": round(times[len(times) // 2], 2),
                "p99_ms": round(times[int(len(times) * 0.99)], 2),
                "errors": self.errors,
            }
        )


def main(kind: type[Users] = Users) -> None:
    """Reads the command line and asks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--bodies", default="/users/bodies.json")
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--over", type=float, default=0.0, help="seconds in which each request is sent")
    options = parser.parse_args()
    users = kind(options.url, json.loads(Path(options.bodies).read_bytes()), options.clients, options.over)
    # The name is resolved once: what is measured here is the path behind the Service, not the cluster's DNS.
    users.host = socket.getaddrinfo(users.host, users.port, type=socket.SOCK_STREAM)[0][4][0]  # type: ignore[assignment]

    asyncio.run(run(users, options.rate, options.clients, options.limit))


async def run(users: Users, rate: float, clients: int, limit: int) -> None:
    """Asks ``rate`` times per second, clients in turns, until it is told to stop or ``limit`` (0: none) is reached."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)

    async def say() -> None:
        while True:
            print(users.line(), flush=True)
            await asyncio.sleep(0.5)

    saying = asyncio.create_task(say())
    open_requests: set[asyncio.Task[None]] = set()
    began, number = time.monotonic(), 0
    while not stop.is_set() and (not limit or number < limit):
        due = began + number / rate
        delay = due - time.monotonic()
        if delay > 0:
            try:
                await asyncio.wait_for(stop.wait(), delay)
                break
            except TimeoutError:
                pass
        task = asyncio.create_task(users.ask(number, str(number % clients)))
        open_requests.add(task)
        task.add_done_callback(open_requests.discard)
        number += 1
    if open_requests:
        await asyncio.wait(open_requests)
    saying.cancel()
    print(users.line(), flush=True)


if __name__ == "__main__":
    main()
