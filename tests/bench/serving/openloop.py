"""Open-loop load: requests go out when they are due, whether or not earlier ones were answered; prints JSON.

Closed-loop clients slow down with an overloaded server and so never overload it; users don't. The generator never waits
for the server, so a latency counts from when a request was sent; how much later than due that was is told as well.
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
"""More than any sensible server keeps waiting; a request that finds all of them busy is not sent, and counted."""

PATIENCE = 30.0
"""Seconds after the last request; what is unanswered then counts as broken."""


@dataclass
class Tally:
    """What became of the requests. Times in milliseconds."""

    codes: dict[str, int] = field(default_factory=Counter)
    in_time: int = 0
    """Answers 200 within the deadline."""
    broken: int = 0
    """Connections that ended without an answer, and requests without one."""
    unsent: int = 0
    lag_p99: float = 0.0
    """How late the generator was."""
    accepted_p50: float = 0.0
    accepted_p99: float = 0.0
    rejected_p99: float = 0.0


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    sent: float = 0.0
    received: bytes = b""


def post(path: str, headers: dict[str, str], body: bytes) -> bytes:
    """A whole HTTP/1.1 request."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "\r\n"]).encode() + body


def run(port: int, request: bytes, rate: float, seconds: float, deadline: float) -> Tally:
    """Send ``rate`` requests per second to loopback; ``deadline``, in seconds, is what ``in_time`` is about."""
    tally, poll = Tally(), select.epoll()
    idle: list[_Connection] = []
    busy: dict[int, _Connection] = {}
    lags: list[float] = []
    latencies: dict[bool, list[float]] = {True: [], False: []}
    total, sent, start = int(rate * seconds), 0, perf_counter()

    while sent < total or busy:
        now = perf_counter() - start
        while sent < total and (due := sent / rate) <= now:
            sent += 1
            if not idle and len(busy) >= CONNECTIONS:
                tally.unsent += 1
                continue
            connection = idle.pop() if idle else _Connection(socket.create_connection(("127.0.0.1", port)))
            connection.sent, connection.received = perf_counter() - start, b""
            lags.append(connection.sent - due)
            try:
                connection.socket.sendall(request)
            except OSError:  # closed by the server while it was idle
                tally.broken += 1
                connection.socket.close()
                continue
            busy[connection.socket.fileno()] = connection
            poll.register(connection.socket, select.EPOLLIN)
        if now > seconds + PATIENCE:
            tally.broken += len(busy)
            break
        wait = max(0.0, sent / rate - (perf_counter() - start)) if sent < total else 0.1
        for file, _ in poll.poll(wait):
            connection = busy[file]
            try:
                more = connection.socket.recv(1 << 16)
            except OSError:
                more = b""
            connection.received += more
            answer = complete(connection.received)
            if more and answer is None:
                continue
            del busy[file]
            poll.unregister(file)
            if answer is None:
                tally.broken += 1
                connection.socket.close()
                continue
            code, closes = answer
            took = perf_counter() - start - connection.sent
            tally.codes[str(code)] += 1
            tally.in_time += code == 200 and took <= deadline
            latencies[code == 200].append(took)
            if closes:
                connection.socket.close()
            else:
                idle.append(connection)
    for connection in [*idle, *busy.values()]:
        connection.socket.close()
    poll.close()
    tally.lag_p99 = _percentile(lags, 99)
    tally.accepted_p50, tally.accepted_p99 = _percentile(latencies[True], 50), _percentile(latencies[True], 99)
    tally.rejected_p99 = _percentile(latencies[False], 99)
    return tally


def complete(received: bytes) -> tuple[int, bool] | None:
    """The status of a whole answer and whether the connection ends with it; None if the answer isn't whole."""
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
    """Runs what the command line asks for; the request is read from standard input."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--deadline", type=float, required=True)
    arguments = parser.parse_args()
    print(json.dumps(vars(run(request=sys.stdin.buffer.read(), **vars(arguments)))))


if __name__ == "__main__":
    main()
