"""Rounds: every server in turn under the same load, several times, so that noise affects all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.serving.load import Sample, drive
from bench.serving.models import Request
from bench.serving.report import number
from bench.serving.servers import Server
from hack.cluster.report import progress

ROUNDS = 5
WARM_UP_SECONDS = 1.0

Figure = Callable[[Sample], float]


def per_second(sample: Sample) -> float:
    """Return the requests answered per second."""
    return sample.per_second


def p50(sample: Sample) -> float:
    """Return the median latency in microseconds."""
    return sample.p50


def per_cpu_second(sample: Sample) -> float:
    """Return the requests answered per second of CPU time, which other processes on the CPU do not affect."""
    return 1e6 / sample.cpu


@dataclass(frozen=True)
class Series:
    """One server under one load, with a sample for each round."""

    label: str
    connections: int
    samples: list[Sample] = field(default_factory=list)

    def median(self, figure: Figure) -> float:
        """Return the median of a figure over the rounds."""
        return statistics.median(map(figure, self.samples))

    def ratio(self, other: Series, figure: Figure) -> float:
        """Return the ratio of a figure to that of the other: the median of the ratios of all rounds."""
        pairs = zip(self.samples, other.samples, strict=True)
        return statistics.median(figure(mine) / figure(theirs) for mine, theirs in pairs)


def measure(
    subjects: Sequence[tuple[Server, Request]], connections: int, seconds: float, count: int = ROUNDS
) -> list[Series]:
    """Send each server its request for ``seconds``, in ``count`` rounds after a warm-up."""
    found = [Series(server.label, connections) for server, _ in subjects]
    for server, request in subjects:
        drive(server, request, connections, WARM_UP_SECONDS)
    for round in range(count):
        for series, (server, request) in zip(found, subjects, strict=True):
            series.samples.append(drive(server, request, connections, seconds))
        rates = ", ".join(f"{series.label} {number(series.samples[-1].per_second)}/s" for series in found)
        progress(f"round {round + 1} of {count}, {connections} connections: {rates}")
    return found


HEADER = (
    *("server", "connections", "requests/s", "p50 µs", "p99 µs", "CPU µs/request", "errors"),
    *("ratio of requests/s", "ratio of p50"),
)


def rows(all_series: Sequence[Series]) -> list[list[str]]:
    """Return the table of medians; its ratios compare the first server with the same load with the one of the row."""
    firsts: dict[int, Series] = {}
    found = []
    for series in all_series:
        first = firsts.setdefault(series.connections, series)
        figures = [series.median(per_second), series.median(p50)]
        figures += [series.median(lambda sample: sample.p99), series.median(lambda sample: sample.cpu)]
        errors = sum(sample.errors for sample in series.samples)
        ratios = (
            ["", ""] if first is series else [number(first.ratio(series, per_second)), number(series.ratio(first, p50))]
        )
        found.append([series.label, str(series.connections), *map(number, figures), str(errors), *ratios])
    return found
