"""Overload: five times as many requests as the server can answer, for a minute, each with a deadline."""

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
from hack.cluster.report import ClusterError, progress

TIMES, SECONDS = 5, 60
ROWS = 32
"""Rows of one request: so many that the generator can send at five times the capacity."""

DEADLINE_MS = 250
PROBED = (READY, "/metrics")
"""Paths that are requested during the load."""

PROBES = 5
"""Requests per second to each of these paths."""

SETTLED = 10
"""Samples until caches, pools and queues have reached their size; after these, memory must not grow."""


def overload(folder: Path) -> Part:
    """Accepted requests are answered before their deadline, all others rejected at once; memory does not grow."""
    trained = models.forest(folder / "overload")
    request = trained.requests(1, ROWS)[0]
    with running(OURS, ours(*UNCONVERTED), trained.folder) as server:
        server.check([request])
        drive(server, request, 32, 1.0)
        capacity = drive(server, request, 32, 5.0).per_second
        progress(f"capacity {number(capacity)} requests/s, sending {number(TIMES * capacity)} for {SECONDS} s")
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
        "maximum memory, MB": max(memory) / MB,
        "delay of the generator, p99 ms": found.lag_p99,
        "not sent because all connections were busy": found.unsent,
    }
    return Part(
        f"Overload: {TIMES} × capacity for {SECONDS} s, {ROWS} rows per request, deadline {DEADLINE_MS} ms",
        ("", "figure"),
        [[what, number(value)] for what, value in figures.items()],
        [
            Claim("overload: accepted and answered in time", 100 * found.in_time / max(1, accepted), 99, "%"),
            Claim("overload: no response, or not 200, 429 or 503", others, 0, "", at_least=False),
            *(
                Claim(f"overload: {path}, p99", found_at[98], 10, "ms", at_least=False)
                for path, found_at in percentiles.items()
            ),
            Claim("overload: growth of memory", growth(memory), 5, "%", at_least=False),
        ],
    )


def growth(memory: Sequence[float]) -> float:
    """Return the growth in percent from the first samples after ``SETTLED`` to the last ones; medians, because memory
    fluctuates."""
    if len(memory) < 3 * SETTLED:
        raise ClusterError(
            f"Only {len(memory)} samples of memory instead of {3 * SETTLED}: the machine is too busy. Try again later."
        )
    return 100 * (statistics.median(memory[-SETTLED:]) / statistics.median(memory[SETTLED : 2 * SETTLED]) - 1)


def _under(server: Server, request: bytes, rate: float) -> tuple[openloop.Tally, list[float], dict[str, list[float]]]:
    """Return the tally, the server's memory in bytes for each second, and the latencies of ``PROBED`` in ms."""
    arguments = {"port": server.port, "rate": rate, "seconds": SECONDS, "deadline": DEADLINE_MS / 1000}
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    memory: list[float] = []
    waits: dict[str, list[float]] = {path: [] for path in PROBED}
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
                for path in PROBED * PROBES:
                    waits[path].append(_probe(server.port, path))
                    with suppress(subprocess.TimeoutExpired):
                        generator.wait(1 / len(PROBED * PROBES))
            printed = generator.communicate()[0]
        finally:
            generator.kill()
            generator.wait()
    if generator.returncode:
        raise ClusterError(f"The load generator exited with {generator.returncode}.")
    return openloop.Tally(**json.loads(printed)), memory, waits


def _probe(port: int, path: str) -> float:
    """Return the latency of a GET in milliseconds."""
    started = perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    connection.close()
    if response.status != 200:
        raise ClusterError(f"{path} returned {response.status} under load.")
    return 1000 * (perf_counter() - started)
