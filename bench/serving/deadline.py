"""A model with a deadline: 500 requests per second to one worker, and the same to an idle event loop beside it."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bench.serving import openloop, pinned
from bench.serving.report import Claim, Part, number
from bench.serving.rounds import ROUNDS
from bench.serving.servers import PEERS, Command, Server, ours, running
from hack import ROOT
from hack.cluster.report import ClusterError
from hack.cluster.shell import run

EXAMPLE = ROOT / "examples" / "driving"
RATE, SECONDS = 500, 5
BUDGET_MS, BOUND_MS = 5, 3
PATH = "/predict"


def driving(folder: Path) -> Part:
    """The model of the example: times that a client measures, and how many of its requests met the deadline."""
    run([sys.executable, EXAMPLE / "train.py"], what="Training the model", cwd=folder)
    model = folder / "out" / "driving" / "v2"
    headers = {"Content-Type": "application/json", "x-mlmodel-timeout-ms": str(BUDGET_MS)}
    request = openloop.post(PATH, headers, (EXAMPLE / "situation.json").read_bytes())
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running("mlmodel-server", ours(), model)),
            stack.enter_context(running("idle event loop", bare_loop, model)),
        ]
        _check(servers[0])
        found = [[_under(server, request) for server in servers] for _ in range(ROUNDS)]
        own = own_p99(get(servers[0].port, "/metrics"))
    tallies = {server.label: [both[place] for both in found] for place, server in enumerate(servers)}
    rows = [[label, *map(number, figures(of))] for label, of in tallies.items()]
    rows[0].append(f"≤ {number(1000 * own)}")
    rows[1].append("")
    _, p99, in_time, _ = figures(tallies[servers[0].label])
    return Part(
        f"A deadline of {BUDGET_MS} ms, {RATE} requests per second",
        ("", "p50, ms", "p99, ms", "answered in time, %", "delay of the generator, p99 ms", "server's own p99, ms"),
        rows,
        [
            Claim(f"{RATE} requests per second, one worker: p99", p99, BOUND_MS, "ms", at_least=False),
            Claim(f"answered within {BUDGET_MS} ms", in_time, 99.9, "%"),
        ],
    )


def bare_loop(model: Path, port: int) -> Command:
    """`peers/bare_loop.py`, which has no model."""
    return Command([sys.executable, PEERS / "bare_loop.py", str(port)])


def figures(tallies: Sequence[openloop.Tally]) -> list[float]:
    """Return the medians over the rounds: p50 and p99 in ms, percentage in time, delay of the generator in ms."""
    of: list[Callable[[openloop.Tally], float]] = [
        lambda tally: tally.accepted_p50,
        lambda tally: tally.accepted_p99,
        lambda tally: 100 * tally.in_time / (RATE * SECONDS),
        lambda tally: tally.lag_p99,
    ]
    return [statistics.median(map(figure, tallies)) for figure in of]


def own_p99(metrics: str) -> float:
    """Return the bound in seconds below which the server's own histogram has 99 % of the requests."""
    family = next(f for f in text_string_to_metric_families(metrics) if f.name == "mlmodel_request_duration_seconds")
    counts = {float(s.labels["le"]): s.value for s in family.samples if s.name.endswith("_bucket")}
    return min(bound for bound, count in counts.items() if count >= 0.99 * counts[math.inf])


def get(port: int, path: str, body: bytes | None = None) -> str:
    """Return the body of a response, of a POST if there is a ``body``."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", body, timeout=30) as response:
        return str(response.read().decode())


def _check(server: Server) -> None:
    answer = get(server.port, PATH, (EXAMPLE / "situation.json").read_bytes())
    if json.loads(answer) != {"predictions": ["brake"]}:
        raise ClusterError(f"{server.label} returned {answer[:100]}, but the model predicts brake.")


def _under(server: Server, request: bytes) -> openloop.Tally:
    """Return the tally of one round."""
    arguments = {"port": server.port, "rate": RATE, "seconds": SECONDS, "deadline": BUDGET_MS / 1000}
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    command = pinned.on(pinned.cpus()[1], [sys.executable, "-m", "bench.serving.openloop", *words])
    done = subprocess.run(command, input=request, capture_output=True, check=False)
    if done.returncode:
        raise ClusterError(f"The load generator exited with {done.returncode}.")
    tally = openloop.Tally(**json.loads(done.stdout))
    if tally.broken or tally.unsent or set(tally.codes) - {"200", "503"}:
        raise ClusterError(f"{server.label} answered {tally.codes}, {tally.broken} requests got no response.")
    return tally
