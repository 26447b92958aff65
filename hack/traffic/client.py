"""Send requests to a model at a fixed rate and print totals twice a second. Standard library only: it runs in any pod.

Open loop: the rate does not depend on the latency of responses. Every other request uses a new connection, the others
share keep-alive connections. No request is retried. Each line is a JSON object with totals since the start.
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

IDLE = 30.0
"""Seconds after which an idle connection is not reused, as in common clients; the router keeps it longer."""
PIECES = 10
"""Number of pieces in which a request is sent when ``send_seconds`` is set, as over a slow connection."""


def varied(body: Any, turn: int) -> Any:
    """Return the body of an inference request with another first number, by a billionth for each ``turn``; the same
    without a number."""
    first, *others = body.get("inputs") or [{}]
    data = first.get("data") or [None]
    if not turn or not str(first.get("datatype", "")).startswith("FP") or not isinstance(data[0], int | float):
        return body
    number = data[0] + (abs(data[0]) or 1.0) * 1e-9 * turn
    return {**body, "inputs": [{**first, "data": [number, *data[1:]]}, *others]}


class Clients:
    """All clients, and the counts of their responses."""

    def __init__(self, url: str, bodies: list[Any], clients: int, timeout: float, send_seconds: float = 0.0) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.path = parts.path
        self.client_count, self.timeout = clients, timeout
        self.send_seconds, self.pieces = send_seconds, PIECES if send_seconds else 1
        self.bodies = bodies
        self.sent = self.ok = self.failed = self.fallbacks = 0
        self.versions: dict[str, int] = {}
        self.clients: dict[str, dict[str, int]] = {}
        self.errors: list[str] = []
        self.times: list[float] = []
        self.slowest = 0.0
        self.idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, number: int, client: str) -> None:
        """Send one request and count its response."""
        self.sent += 1
        started = time.perf_counter()
        keep = number // self.client_count % 2 == 0
        try:
            code, headers = await asyncio.wait_for(self._exchange(number, keep=keep), self.timeout)
        except (OSError, EOFError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
            self._fail(f"{'keep-alive' if keep else 'new'} connection: {type(error).__name__}: {error}")
            return
        took = 1000 * (time.perf_counter() - started)
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

    def body(self, number: int) -> Any:
        """Return the body of a request. No two are equal, as those of real clients: a server keeps equal ones once."""
        turn, place = divmod(number, len(self.bodies))
        return varied(self.bodies[place], turn)

    def _fail(self, reason: str) -> None:
        self.failed += 1
        if len(self.errors) < 10:
            self.errors.append(f"{time.strftime('%H:%M:%S')} {reason}")

    async def _exchange(self, number: int, *, keep: bool) -> tuple[int, dict[str, str]]:
        reader, writer = (keep and self._take_idle()) or await asyncio.open_connection(self.host, self.port)
        body = json.dumps(self.body(number)).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: {self.host}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{'' if keep else 'connection: close' + chr(13) + chr(10)}\r\n"
        )
        try:
            message = head.encode() + body
            for piece in range(self.pieces):
                if piece:
                    await asyncio.sleep(self.send_seconds / (self.pieces - 1))
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
            self.idle.append((time.monotonic(), reader, writer))
        else:
            writer.close()
        return int(status.split(" ")[1]), headers

    def _take_idle(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return the idle connection that was used last, or None; close those that were idle for too long."""
        while self.idle:
            used, reader, writer = self.idle.pop()
            if time.monotonic() - used < IDLE and not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    def line(self) -> str:
        """Return the totals as a line of JSON."""
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


def main(kind: type[Clients] = Clients) -> None:
    """Parse the command line and send requests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--bodies", default="/clients/bodies.json")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=1, help="clients that take turns (default: %(default)s)")
    parser.add_argument(
        "--limit", type=int, default=0, help="number of requests; 0 means unlimited (default: %(default)s)"
    )
    parser.add_argument(
        "--send-seconds", type=float, default=0.0, help="time to send each request, in seconds (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, default=30.0, help="limit of a request in seconds (default: %(default)s)"
    )
    options = parser.parse_args()
    bodies = json.loads(Path(options.bodies).read_bytes())
    clients = kind(options.url, bodies, options.clients, options.timeout, options.send_seconds)
    # The name is resolved once: the traffic tests the path behind the Service, not the cluster's DNS.
    address = socket.getaddrinfo(clients.host, clients.port, type=socket.SOCK_STREAM)[0][4][0]
    clients.host = address  # type: ignore[assignment]

    asyncio.run(run(clients, options.rate, options.limit))


async def run(clients: Clients, rate: float, limit: int) -> None:
    """Send ``rate`` requests per second, clients in turn, until a signal or until ``limit`` (0: none) is reached."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)

    async def print_totals() -> None:
        while True:
            print(clients.line(), flush=True)
            await asyncio.sleep(0.5)

    printer = asyncio.create_task(print_totals())
    in_flight: set[asyncio.Task[None]] = set()
    started, number = time.monotonic(), 0
    while not stop.is_set() and (not limit or number < limit):
        due = started + number / rate
        delay = due - time.monotonic()
        if delay > 0:
            try:
                await asyncio.wait_for(stop.wait(), delay)
                break
            except TimeoutError:
                pass
        task = asyncio.create_task(clients.send(number, str(number % clients.client_count)))
        in_flight.add(task)
        task.add_done_callback(in_flight.discard)
        number += 1
    if in_flight:
        await asyncio.wait(in_flight)
    printer.cancel()
    print(clients.line(), flush=True)


if __name__ == "__main__":
    main()
