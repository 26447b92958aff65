"""The parts of the benchmark, one function each."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.serving import models, pinned, rounds, tables
from bench.serving.load import drive
from bench.serving.models import Trained
from bench.serving.report import Claim, Part, number
from bench.serving.rounds import Series, measure, p50, per_cpu_second, per_second
from bench.serving.servers import (
    FASTAPI,
    FASTAPI_PANDAS,
    MLSERVER,
    PEER_STARTS,
    TABLE_STARTS,
    Server,
    Start,
    ours,
    running,
)
from bench.serving.tables import Mixed
from hack.cluster.shell import run

OURS = "mlmodel-server"
CHECKED = 20
SECONDS = 2.0
MB = 1e6
SAMPLE_ROUNDS = 20
UNCONVERTED = ("--compile", "off")
UNBATCHED = ("--batch-rows", "1")


def iris(folder: Path) -> Part:
    """The smallest model: nearly all the time is the server's."""
    trained = models.iris(folder / "iris")
    requests = trained.requests(CHECKED)
    with ExitStack() as stack:
        servers = _all(stack, trained)
        for server in servers:
            server.check(requests)
        subjects = [(server, requests[0]) for server in servers]
        many, one = measure(subjects, 32, SECONDS), measure(subjects, 1, SECONDS)
    by_label, single = _labelled(many), _labelled(one)
    mine, alone = by_label[OURS], single[OURS]
    what = "V2 JSON, one row of iris"
    return Part(
        f"{what}: a scaled logistic regression",
        rounds.HEADER,
        rounds.rows([*many, *one]),
        [
            Claim(f"{what}, 32 connections, requests/s", mine.median(per_second), 25_000, "/s"),
            Claim("requests per second of CPU time", mine.median(per_cpu_second), 25_000, ""),
            Claim(f"requests/s, ratio to {MLSERVER}", mine.ratio(by_label[MLSERVER], per_second), 20, "×"),
            Claim("requests/s, ratio to FastAPI + pydantic", mine.ratio(by_label[FASTAPI], per_second), 5, "×"),
            Claim(f"{what}, 1 connection, p50", alone.median(p50), 120, "µs", at_least=False),
            Claim(f"p50 of {MLSERVER}, ratio to ours", single[MLSERVER].ratio(alone, p50), 10, "×"),
        ],
    )


def forest(folder: Path) -> Part:
    """A model that scikit-learn predicts slowly."""
    trained = models.forest(folder / "forest")
    requests = trained.requests(CHECKED)
    with ExitStack() as stack:
        servers = _all(stack, trained)
        for server in servers:
            server.check(requests)
        many = measure([(server, requests[0]) for server in servers], 32, SECONDS)
    by_label = _labelled(many)
    mine = by_label[OURS]
    what = "a forest of 100 trees, 30 features"
    return Part(
        f"V2 JSON, {what}",
        rounds.HEADER,
        rounds.rows(many),
        [
            Claim(f"{what}, 32 connections, requests/s", mine.median(per_second), 20_000, "/s"),
            Claim("requests per second of CPU time", mine.median(per_cpu_second), 20_000, ""),
            Claim(f"requests/s, ratio to {MLSERVER}", mine.ratio(by_label[MLSERVER], per_second), 100, "×"),
        ],
    )


def mixed(folder: Path) -> Part:
    """A table of numbers and texts, in a pipeline that was fitted on a DataFrame."""
    return _table(tables.texts(folder / "mixed"), "a row of 4 numbers and 3 texts")


def dated(folder: Path) -> Part:
    """The same table with a column of dates, which takes a DataFrame on every server."""
    return _table(tables.dates(folder / "dated"), "a row of 4 numbers, 3 texts and a date")


def _table(trained: Mixed, what: str) -> Part:
    requests = [trained.request(row) for row in range(CHECKED)]
    with ExitStack() as stack:
        servers = [stack.enter_context(running(OURS, ours(), trained.folder))]
        servers += [
            stack.enter_context(running(label, start, trained.artefact)) for label, start in TABLE_STARTS.items()
        ]
        for server in servers:
            server.check(requests)
        subjects = [(server, requests[0]) for server in servers]
        many, one = measure(subjects, 32, SECONDS), measure(subjects, 1, SECONDS)
    by_label = _labelled(many)
    mine = by_label[OURS]
    return Part(
        f"V2 JSON, {what}: imputed, scaled, one-hot, a logistic regression",
        rounds.HEADER,
        rounds.rows([*many, *one]),
        [
            Claim(f"{what}, 32 connections, ratio to {MLSERVER}", mine.ratio(by_label[MLSERVER], per_second), 20, "×"),
            Claim(f"ratio to {FASTAPI_PANDAS}", mine.ratio(by_label[FASTAPI_PANDAS], per_second), 8, "×"),
        ],
    )


def numbers(folder: Path) -> Part:
    """A large request: JSON for all servers, and the binary extension for ours (MLServer rejects it)."""
    trained = models.linear(folder / "linear")
    as_json, as_binary = trained.single(rows=1000)
    with ExitStack() as stack:
        servers = _all(stack, trained)
        binary = stack.enter_context(running(f"{OURS}, binary", ours(), trained.folder))
        for server in servers:
            server.check([as_json])
        binary.check([as_binary])
        one = measure([(binary, as_binary), *((server, as_json) for server in servers)], 1, SECONDS)
    return Part(
        "30,000 FP32 values in one request, a scaled logistic regression",
        rounds.HEADER,
        rounds.rows(one),
    )


def own_code(folder: Path) -> Part:
    """The server's code without network and model, in a process on the servers' CPU."""
    argv = pinned.on(pinned.cpus()[0], [sys.executable, "-m", "bench.serving.own"])
    found: dict[str, float] = json.loads(run(argv, what="Timing the server's code", env=pinned.ONE_THREAD))
    return Part(
        "The server's code, in process, minimum of the repetitions",
        ("", "µs"),
        [[what, number(microseconds)] for what, microseconds in found.items()],
        [Claim("30,000 FP32 values, binary: decode", found["decode, 30,000 FP32, binary"], 5, "µs", at_least=False)],
    )


def batching(folder: Path) -> Part:
    """The gain of batching under concurrent requests, and its cost at one connection."""
    trained = models.forest(folder / "unconverted")
    requests = trained.requests(CHECKED)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running(label, ours(*UNCONVERTED, *flags), trained.folder))
            for label, flags in {"with batching": (), "without batching": UNBATCHED}.items()
        ]
        for server in servers:
            server.check(requests)
        subjects = [(server, requests[0]) for server in servers]
        (on, off), (on_one, off_one) = measure(subjects, 32, SECONDS), measure(subjects, 1, SECONDS)
    added = 100 * (on_one.ratio(off_one, p50) - 1)
    return Part(
        "Batching: the same forest, not compiled",
        rounds.HEADER,
        rounds.rows([on, off, on_one, off_one]),
        [
            Claim("batching, 1 connection: added to the p50", added, 5, "%", at_least=False),
            Claim("batching, 32 connections: requests/s, ratio to no batching", on.ratio(off, per_second), 6, "×"),
        ],
    )


def starts(folder: Path) -> Part:
    """Time from the start of a process to the first 200 of its readiness path, and its memory then."""
    trained = models.iris(folder / "starts")
    requests = trained.requests(CHECKED)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(rounds.ROUNDS):
        for label, (start, model) in _starts(trained).items():
            with running(label, start, model) as server:
                cpu = server.cpu_seconds()
                server.check(requests)
                found.setdefault(label, []).append((server.start_seconds, cpu, server.pss_bytes() / MB))
    medians = {label: [statistics.median(of) for of in zip(*pairs, strict=True)] for label, pairs in found.items()}
    seconds, _, megabytes = medians[OURS]
    return Part(
        "Start and memory, the model of iris",
        ("", "start to ready, s", "CPU until then, s", "memory (PSS), MB"),
        [[label, *map(number, figures)] for label, figures in medians.items()],
        [
            Claim("start to ready", seconds, 1, "s", at_least=False),
            Claim("memory when ready", megabytes, 100, "MB", at_least=False),
        ],
    )


def formats(folder: Path) -> Part:
    """CPU time from the start of our server until it is ready, and its memory then, for each format of a table."""
    files = models.formats(folder / "formats")
    found: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(rounds.ROUNDS):
        for label, file in files.items():
            with running(label, ours(), file) as server:
                cpu = server.cpu_seconds()
                found.setdefault(label, []).append((cpu, server.start_seconds, server.pss_bytes() / MB))
    return Part(
        "Start and memory by format, a classifier of iris",
        ("", "CPU until ready, s", "start to ready, s", "memory (PSS), MB"),
        [
            [label, *(number(statistics.median(of)) for of in zip(*figures, strict=True))]
            for label, figures in found.items()
        ],
    )


def second_worker(folder: Path) -> Part:
    """Memory of a second worker, for a large model that is loaded before the fork."""
    model, request = models.large(folder / "large")
    used = []
    for workers in (1, 2):
        with running(f"{workers} workers", ours(*UNCONVERTED, "--workers", str(workers)), model) as server:
            drive(server, request, 32, 2.0)
            used.append(server.pss_bytes() / MB)
    return Part(
        f"A second worker, a forest of {model.stat().st_size / MB:.0f} MB",
        ("workers", "memory (PSS), MB"),
        [["1", number(used[0])], ["2", number(used[1])]],
        [Claim("a second worker's memory, model of 110 MB", used[1] - used[0], 15, "MB", at_least=False)],
    )


def kept(folder: Path) -> Part:
    """What the sample of requests for rehearsals costs: the smallest model, and the same server twice without it."""
    trained = models.iris(folder / "kept")
    requests = trained.requests(CHECKED)
    sampling = ("--rehearsal", str(folder / "none"), "--rehearsal-port", "0")
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running(label, ours(*flags), trained.folder))
            for label, flags in {"with a sample": sampling, "without": (), "without, repeated": ()}.items()
        ]
        for server in servers:
            server.check(requests)
        on, off, again = measure([(server, requests[0]) for server in servers], 32, SECONDS, SAMPLE_ROUNDS)
    return Part(
        "The sample of requests for rehearsals",
        rounds.HEADER,
        rounds.rows([off, again, on]),
        [
            Claim(
                "requests per second of CPU time, with the sample to without", on.ratio(off, per_cpu_second), 0.97, "×"
            ),
            Claim("the same server twice, A/A", again.ratio(off, per_cpu_second), 0.97, "×"),
        ],
    )


ALL = (iris, forest, mixed, dated, numbers, own_code, batching, starts, formats, second_worker, kept)


def _starts(trained: Trained) -> dict[str, tuple[Start, Path]]:
    """Return our server and the peers, each with the path of its model."""
    peers = {label: (start, trained.artefact) for label, start in PEER_STARTS.items()}
    return {OURS: (ours(), trained.folder), **peers}


def _all(stack: ExitStack, trained: Trained) -> list[Server]:
    return [stack.enter_context(running(label, *start)) for label, start in _starts(trained).items()]


def _labelled(series: Sequence[Series]) -> Mapping[str, Series]:
    return {each.label: each for each in series}
