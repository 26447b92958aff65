"""What users notice of a rehearsal: the response times of stable while it repeats its requests, and without that."""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.serving import models, openloop, pinned
from bench.serving.deadline import get
from bench.serving.models import Request
from bench.serving.report import Claim, Part, number
from bench.serving.servers import INFER, Command, Server, Start, ours, running
from hack.cluster.report import ClusterError, progress
from hack.loopback import candidate_line, program
from hack.ports import free_port

KEPT, ROUNDS, SECONDS = 1000, 7, 5.0
STABLE, CANDIDATE = "aaaa", "bbbb"
PHASES = ("without", "rehearsing", "without, repeated")
DEADLINE = 30.0


@dataclass(frozen=True)
class Load:
    """A model and the rate of its clients. ``flags`` are more arguments of the server."""

    name: str
    trained: models.Trained
    rate: float
    flags: tuple[str, ...] = ()


def rehearsed(folder: Path) -> Part:
    """Three phases in turn: without a rehearsal, with one, and without; for a small and for a slow model."""
    loads = (
        Load("logistic regression", models.iris(folder / "rehearsed"), 200),
        Load("forest, not compiled", models.forest(folder / "rehearsed-forest"), 20, ("--compile", "off")),
    )
    rows, claims = [], []
    for load in loads:
        found, pairs = _measure(load, folder)
        p95 = {phase: statistics.median(tally.accepted_p95 for tally in found[phase]) for phase in PHASES}
        for phase in PHASES:
            p50 = statistics.median(tally.accepted_p50 for tally in found[phase])
            copies = number(pairs / (ROUNDS * SECONDS)) if phase == "rehearsing" else ""
            rows.append([f"{load.name}, {phase}", number(load.rate), number(p50), number(p95[phase]), copies])
        name = f"{load.name}: users' p95"
        claims.append(Claim(f"{name}, rehearsing to without", _ratio(found, PHASES[1]), 1.3, "×", at_least=False))
        claims.append(Claim(f"{name}, the same twice, A/A", _ratio(found, PHASES[2]), 1.3, "×", at_least=False))
    return Part("Users during a rehearsal", ("", "requests/s", "p50, ms", "p95, ms", "pairs/s"), rows, claims)


def _ratio(found: dict[str, list[openloop.Tally]], phase: str) -> float:
    """Return the median of the ratios of all rounds."""
    pairs = zip(found[phase], found[PHASES[0]], strict=True)
    return statistics.median(mine.accepted_p95 / theirs.accepted_p95 for mine, theirs in pairs)


def _measure(load: Load, folder: Path) -> tuple[dict[str, list[openloop.Tally]], int]:
    """Return the tallies of each phase, and the number of pairs that the rehearsals made."""
    file, page = folder / f"{load.trained.folder.name}-candidate", free_port()
    found: dict[str, list[openloop.Tally]] = {phase: [] for phase in PHASES}
    pairs = 0
    requests = _distinct(load.trained)
    with ExitStack() as stack:
        options = ("--rehearsal", str(file), *load.flags)
        # Not on the CPU of stable, as in a cluster: only what the copies cost stable is measured.
        other = ours(*options, "--rehearsal-port", str(free_port()), "--revision", CANDIDATE)
        candidate = stack.enter_context(running("candidate", other, load.trained.folder, pinned.cpus()[1]))
        own = (*options, "--rehearsal-port", str(page), "--revision", STABLE)
        start = _rehearsing({CANDIDATE: candidate.port}, *own)
        stable = stack.enter_context(running("stable", start, load.trained.folder))
        _fill(stable, requests, page)
        sent = openloop.post(INFER, dict(requests[0].headers), requests[0].body)
        for count in range(ROUNDS):
            for phase in PHASES:
                file.write_text(candidate_line(CANDIDATE, f"{count:x}") if phase == "rehearsing" else "")
                before = _settled(page, phase)
                found[phase].append(_under(stable, sent, load.rate))
                if phase == "rehearsing":
                    pairs += int(json.loads(get(page, "/"))["asked"]) - before
            last = ", ".join(f"{phase} {number(found[phase][-1].accepted_p95)} ms" for phase in PHASES)
            progress(f"round {count + 1} of {ROUNDS}, {load.name}, p95: {last}")
    return found, pairs


def _distinct(trained: models.Trained) -> list[Request]:
    """Return requests that differ: rows of the data, each a little changed."""
    width = len(trained.rows)
    tables = [trained.rows[number % width : number % width + 1] + 1e-6 * (number // width) for number in range(KEPT)]
    return [models.json_request(table, "FP64", []) for table in tables]


def _rehearsing(ports: dict[str, int], *flags: str) -> Start:
    """Return the start of our server that reaches the candidate on loopback."""

    def start(model: Path, port: int) -> Command:
        argv = list(ours(*flags)(model, port).argv)
        return Command([argv[0], *program(ports), *argv[3:]])

    return start


def _fill(server: Server, requests: Sequence[Request], page: int) -> None:
    """Send all requests once, and wait until they are kept."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
    for request in requests:
        connection.request("POST", INFER, request.body, dict(request.headers))
        response = connection.getresponse()
        if response.read() and response.status != 200:
            raise ClusterError(f"{server.label} returned {response.status}.")
    connection.close()
    _until(page, lambda found: found["kept"] >= KEPT, "kept")


def _settled(page: int, phase: str) -> int:
    """Wait until the rehearsal has begun, or ended. Return how many requests it has sent."""
    candidate = CANDIDATE if phase == "rehearsing" else ""
    return int(_until(page, lambda found: found["candidate"] == candidate, phase)["asked"])


def _until(page: int, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
    """Wait for figures on the page, and return them."""
    end = time.monotonic() + DEADLINE
    while not condition(found := json.loads(get(page, "/"))):
        if time.monotonic() > end:
            raise ClusterError(f"The page of the rehearsal does not show: {what}.")
        time.sleep(0.05)
    return dict(found)


def _under(server: Server, request: bytes, rate: float) -> openloop.Tally:
    """Return the tally of one phase."""
    arguments = {"port": server.port, "rate": rate, "seconds": SECONDS, "deadline": DEADLINE}
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    command = pinned.on(pinned.cpus()[1], [sys.executable, "-m", "bench.serving.openloop", *words])
    tally = openloop.Tally(**json.loads(subprocess.run(command, input=request, capture_output=True, check=True).stdout))
    if tally.broken or tally.unsent or set(tally.codes) != {"200"}:
        raise ClusterError(f"{server.label} answered {tally.codes}, {tally.broken} requests got no response.")
    return tally
