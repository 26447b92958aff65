"""Five times as many requests as the server can answer, for a minute, each with a deadline."""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from time import perf_counter

from bench.serving import models, openloop, pinned
from bench.serving.load import drive
from bench.serving.parts import MB, OURS, UNCONVERTED
from bench.serving.report import Claim, Part, number
from bench.serving.servers import INFER, READY, Server, ours, running
from hack.cluster.report import ClusterError, say

TIMES, SECONDS = 5, 60
ROWS = 32
"""Of one request: so many that five times the capacity is a rate that the generator keeps up with."""

DEADLINE_MS = 250
BESIDE = (READY, "/metrics")
"""What is asked beside the load."""

ASKED = 5
"""Times a second, each."""

SETTLED = 10
"""Samples until caches, pools and queues have their size; from here on memory must not grow."""


def overload(folder: Path) -> Part:
    """What is accepted is answered in time, the rest is told so at once, and memory stays."""
    trained = models.forest(folder / "overload")
    request = trained.requests(1, ROWS)[0]
    with running(OURS, ours(*UNCONVERTED), trained.folder) as server:
        server.check([request])
        drive(server, request, 32, 1.0)
        capacity = drive(server, request, 32, 5.0).per_second
        say(f"capacity {number(capacity)}/s, now {number(TIMES * capacity)}/s for {SECONDS} s")
        headers = dict([*request.headers, ("x-mlmodel-timeout-ms", str(DEADLINE_MS))])
        found, memory, waits = _under(server, openloop.post(INFER, headers, request.body), TIMES * capacity)
    accepted = found.codes.get("200", 0)
    rejected = found.codes.get("429", 0) + found.codes.get("503", 0)
    others = sum(found.codes.values()) - accepted - rejected + found.broken
    percentiles = {path: statistics.quantiles(times, n=100) for path, times in waits.items()}
    figures = {
        "capacity, 32 connections, requests/s": capacity,
        "sent, requests/s": TIMES * capacity,
        "accepted, requests/s": accepted / SECONDS,
        "accepted, p50 ms": found.accepted_p50,
        "accepted, p99 ms": found.accepted_p99,
        "rejected with 429 or 503, requests/s": rejected / SECONDS,
        "rejected, p99 ms": found.rejected_p99,
        **{
            f"{path}, p{percent} ms": found_at[percent - 1]
            for path, found_at in percentiles.items()
            for percent in (50, 99)
        },
        "memory at most, MB": max(memory) / MB,
        "generator late, p99 ms": found.lag_p99,
        "not sent for want of connections": found.unsent,
    }
    return Part(
        f"Overload: {TIMES} × capacity for {SECONDS} s, {ROWS} rows a request, deadline {DEADLINE_MS} ms",
        ("", "figure"),
        [[what, number(value)] for what, value in figures.items()],
        [
            Claim("overload: accepted within the deadline", 100 * found.in_time / max(1, accepted), 99, "%"),
            Claim("overload: answered neither 200, 429 nor 503, or not at all", others, 0, "", at_least=False),
            *(
                Claim(f"overload: {path}, p99", found_at[98], 10, "ms", at_least=False)
                for path, found_at in percentiles.items()
            ),
            Claim("overload: growth of memory", growth(memory), 5, "%", at_least=False),
        ],
    )


def growth(memory: Sequence[float]) -> float:
    """Percent by which the last samples are above the first ones after it has settled; medians, for it may swing."""
    if len(memory) < 3 * SETTLED:
        raise ClusterError(
            f"There are only {len(memory)} samples of memory: the machine is too busy to tell its growth."
        )
    return 100 * (statistics.median(memory[-SETTLED:]) / statistics.median(memory[SETTLED : 2 * SETTLED]) - 1)


def _under(server: Server, request: bytes, rate: float) -> tuple[openloop.Tally, list[float], dict[str, list[float]]]:
    """The tally, every second the server's memory in bytes, and how many milliseconds what is asked beside it took."""
    arguments = {"port": server.port, "rate": rate, "seconds": SECONDS, "deadline": DEADLINE_MS / 1000}
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    memory: list[float] = []
    waits: dict[str, list[float]] = {path: [] for path in BESIDE}
    with TemporaryFile() as body, pinned.here(pinned.cpus()[1]):
        body.write(request)
        body.seek(0)
        generator = subprocess.Popen(
            [sys.executable, "-m", "bench.serving.openloop", *words],
            stdin=body,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            while generator.poll() is None:
                memory.append(float(server.pss_bytes()))
                for path in BESIDE * ASKED:
                    waits[path].append(_asked(server.port, path))
                    with suppress(subprocess.TimeoutExpired):
                        generator.wait(1 / len(BESIDE * ASKED))
            printed = generator.communicate()[0]
        finally:
            generator.kill()
            generator.wait()
    if generator.returncode:
        raise ClusterError(f"The load generator ended with {generator.returncode}.")
    return openloop.Tally(**json.loads(printed)), memory, waits


def _asked(port: int, path: str) -> float:
    started = perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    connection.close()
    if response.status != 200:
        raise ClusterError(f"{path} answers {response.status} under load.")
    return 1000 * (perf_counter() - started)
