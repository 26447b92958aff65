"""This tree's server beside an older one's: ``python -m bench.serving.compare REVISION``.

Three servers take turns under the same load: the older one twice, so that their ratio shows the noise (A/A), and this
tree's. All run with the libraries of this environment. Ratios are medians over pairs of the same round.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.serving import load, models, rounds
from bench.serving.__main__ import machine
from bench.serving.report import Claim, Part, markdown
from bench.serving.rounds import Figure, Series, measure, p50, per_cpu_second, per_second
from bench.serving.servers import Command, Start, ours, running
from hack import ROOT
from hack.cluster.report import say

PAIRS = 10
SECONDS = 2.0
FLOOR = 0.97
"""Least ratio of after to before that a change may cost."""

BEFORE, AGAIN, AFTER = "before", "before, again", "after"


def main(argv: Sequence[str]) -> None:
    """Print the comparison as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving.compare", description=__doc__)
    parser.add_argument("revision", metavar="REVISION", help="Git revision whose server is the baseline")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="number of rounds (default: %(default)s)")
    options = parser.parse_args(argv)
    load.require()
    with tempfile.TemporaryDirectory() as folder:
        older = export(options.revision, Path(folder) / "before")
        parts = compare({BEFORE: older, AGAIN: older, AFTER: ROOT / "server"}, Path(folder), options.pairs)
    print(markdown(parts, machine(options.pairs)))


def export(revision: str, folder: Path) -> Path:
    """Write the server of ``revision`` below ``folder`` and return the directory to import it from."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", revision, "server"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return folder / "server"


def compare(trees: dict[str, Path], folder: Path, pairs: int) -> list[Part]:
    """Measure the servers of all ``trees`` (label to import directory) at 32 connections and at 1."""
    trained = models.iris(folder / "iris")
    request = trained.requests(1)[0]
    parts = []
    with ExitStack() as stack:
        servers = [stack.enter_context(running(label, _from(tree), trained.folder)) for label, tree in trees.items()]
        for server in servers:
            server.check([request])
        for connections in (32, 1):
            say(f"Measuring: {pairs} pairs, {connections} connections")
            series = measure([(server, request) for server in servers], connections, SECONDS, pairs)
            parts.append(_part(series))
    return parts


def _from(tree: Path) -> Start:
    """Our server, imported from another directory."""
    start = ours()

    def command(model: Path, port: int) -> Command:
        return Command(start(model, port).argv, {"PYTHONPATH": str(tree)})

    return command


def _part(series: Sequence[Series]) -> Part:
    before, again, after = series
    connections = f"{before.connections} connection{'s' if before.connections > 1 else ''}"
    figures: dict[str, Figure] = {
        "requests/s": per_second,
        "requests per CPU second": per_cpu_second,
        "1 / median latency": lambda sample: 1 / p50(sample),
    }
    claims = []
    for what, figure in figures.items():
        claims.append(Claim(f"{what}, {connections}: after / before", after.ratio(before, figure), FLOOR, "×"))
        claims.append(Claim(f"{what}, {connections}: A/A", again.ratio(before, figure), FLOOR, "×"))
    return Part(f"V2 JSON, one row of iris, {connections}", rounds.HEADER, rounds.rows(series), claims)


if __name__ == "__main__":
    main(sys.argv[1:])
