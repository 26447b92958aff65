"""Closed-loop load: wrk on a separate CPU, with one request in flight on each connection."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from bench.serving import pinned
from bench.serving.models import Request
from bench.serving.servers import INFER, Server
from hack.cluster import doctor
from hack.cluster.report import ClusterError
from hack.cluster.shell import run

SCRIPT = Path(__file__).parent / "post.lua"


@dataclass(frozen=True)
class Sample:
    """One measurement. Latencies, and CPU time of all processes per request, in microseconds."""

    per_second: float
    p50: float
    p99: float
    cpu: float
    errors: int


def require() -> None:
    """Check that wrk is installed; install it with apt where possible.

    Raises:
        ClusterError: it is missing.
    """
    if doctor.find("wrk", "wrk") is None:
        raise ClusterError("wrk, which sends the requests, is missing: install the package wrk of your distribution.")


def drive(server: Server, request: Request, connections: int, seconds: float) -> Sample:
    """Send the same request repeatedly for ``seconds``."""
    headers = [word for name, value in request.headers for word in ("-H", f"{name}: {value}")]
    url = f"http://127.0.0.1:{server.port}{INFER}"
    size = ["-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", *headers]
    with NamedTemporaryFile() as body:
        body.write(request.body)
        body.flush()
        before = server.cpu_seconds()
        printed = run(pinned.on(pinned.cpus()[1], ["wrk", "-s", SCRIPT, *size, url, "--", body.name]), what="wrk")
        spent = server.cpu_seconds() - before
    return sample(printed, spent)


def sample(printed: str, cpu_seconds: float) -> Sample:
    """Return the sample from the last line that the script printed and the CPU time spent."""
    found = json.loads(printed.splitlines()[-1])
    done = max(1, found["requests"])
    return Sample(
        per_second=found["requests"] / (found["microseconds"] / 1e6),
        p50=found["p50"],
        p99=found["p99"],
        cpu=1e6 * cpu_seconds / done,
        errors=found["errors"],
    )
