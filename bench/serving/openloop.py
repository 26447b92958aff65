"""Open-loop load: send requests when they are due, whether or not earlier ones were answered; print JSON.

Closed-loop clients slow down with an overloaded server and so never overload it; real clients do not slow down. The
generator never waits for the server. Latency counts from the time when a request was sent; ``lag_p99`` reports how much
later than due that was.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

CONNECTIONS = 1000
"""More than any sensible server lets wait. If all are busy, a request is not sent, but counted as ``unsent``."""

PATIENCE = 30.0
"""Seconds after the last request; requests without a response by then count as broken."""


@dataclass
class Tally:
    """Outcomes of the requests. Times in milliseconds."""

    codes: dict[str, int] = field(default_factory=Counter)
    in_time: int = 0
    """Responses 200 within the deadline."""
    broken: int = 0
    """Requests without a response, or whose connection was closed before it."""
    unsent: int = 0
    lag_p99: float = 0.0
    """Delay of the generator."""
    accepted_p50: float = 0.0
    accepted_p95: float = 0.0
    accepted_p99: float = 0.0
    rejected_p99: float = 0.0


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    sent: float = 0.0
    received: bytes = b""


def post(path: str, headers: dict[str, str], body: bytes) -> bytes:
    """Return a whole HTTP/1.1 request."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "\r\n"]).encode() + body


def run(port: int, request: bytes, rate: float, seconds: float, deadline: float) -> Tally:
    """Send ``rate`` requests per second to loopback; ``deadline``, in seconds, is the one of ``in_time``."""
    clients = _Clients(port, request, deadline)
    total, sent, start, lags = int(rate * seconds), 0, perf_counter(), []
    while (now := perf_counter() - start) < seconds + PATIENCE and (sent < total or clients.busy):
        while sent < total and (due := sent / rate) <= now:
            lags.append(perf_counter() - start - due)
            clients.send()
            sent += 1
        clients.receive(max(0.0, start + sent / rate - perf_counter()) if sent < total else 0.1)
    clients.close()
    tally = clients.tally
    tally.lag_p99 = _percentile(lags, 99)
    tally.accepted_p50, tally.accepted_p95, tally.accepted_p99 = (
        _percentile(clients.accepted, percent) for percent in (50, 95, 99)
    )
    tally.rejected_p99 = _percentile(clients.rejected, 99)
    return tally


class _Clients:
    """Connections, each with at most one request in flight; as many as the rate requires."""

    def __init__(self, port: int, request: bytes, deadline: float) -> None:
        self.tally = Tally()
        self.busy: dict[int, _Connection] = {}
        self.accepted: list[float] = []  # latencies in seconds
        self.rejected: list[float] = []
        self._idle: list[_Connection] = []
        self._poll = select.epoll()
        self._port, self._request, self._deadline = port, request, deadline

    def send(self) -> None:
        """Send one request on an idle connection, or on a new one."""
        if not self._idle and len(self.busy) >= CONNECTIONS:
            self.tally.unsent += 1
            return
        used = self._idle.pop() if self._idle else _Connection(socket.create_connection(("127.0.0.1", self._port)))
        used.sent, used.received = perf_counter(), b""
        try:
            used.socket.sendall(self._request)
        except OSError:  # the server has closed it
            self._broken(used)
            return
        self.busy[used.socket.fileno()] = used
        self._poll.register(used.socket, select.EPOLLIN)

    def receive(self, seconds: float) -> None:
        """Read the responses that have arrived, or arrive within ``seconds``."""
        for file, _ in self._poll.poll(seconds):
            connection = self.busy[file]
            try:
                more = connection.socket.recv(1 << 16)
            except OSError:
                more = b""
            connection.received += more
            answer = complete(connection.received)
            if more and answer is None:
                continue
            del self.busy[file]
            self._poll.unregister(file)
            if answer is None:
                self._broken(connection)
            else:
                self._answered(connection, *answer)

    def close(self) -> None:
        """Count requests without a response as broken, and close all connections."""
        for connection in self._idle:
            connection.socket.close()
        for connection in self.busy.values():
            self._broken(connection)
        self._poll.close()

    def _answered(self, connection: _Connection, code: int, closes: bool) -> None:
        seconds = perf_counter() - connection.sent
        self.tally.codes[str(code)] += 1
        self.tally.in_time += code == 200 and seconds <= self._deadline
        (self.accepted if code == 200 else self.rejected).append(seconds)
        if closes:
            connection.socket.close()
        else:
            self._idle.append(connection)

    def _broken(self, connection: _Connection) -> None:
        self.tally.broken += 1
        connection.socket.close()


def complete(received: bytes) -> tuple[int, bool] | None:
    """Return the status of a complete response and whether the connection closes; None if it is not complete."""
    head, found, body = received.partition(b"\r\n\r\n")
    if not found:
        return None
    status, *lines = head.lower().split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines)
    if len(body) < int(headers.get(b"content-length", 0)):
        return None
    return int(status.split(b" ", 2)[1]), headers.get(b"connection") == b"close"


def _percentile(seconds: list[float], percent: float) -> float:
    return 1000 * float(np.percentile(seconds, percent)) if seconds else 0.0


def main() -> None:
    """Run with the options of the command line; read the request from standard input."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--deadline", type=float, required=True)
    arguments = parser.parse_args()
    print(json.dumps(vars(run(request=sys.stdin.buffer.read(), **vars(arguments)))))


if __name__ == "__main__":
    main()
