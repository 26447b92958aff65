"""Compare the server of this checkout with that of a Git revision.

Run as ``python -m bench.serving.compare REVISION``. Three servers run in turn under the same load: that of the revision
twice, so that the ratio of these two shows the noise (A/A), and that of the checkout. All use the libraries of this
environment. Ratios are medians over the rounds.
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
from hack.cluster.report import ClusterError, progress

PAIRS = 10
SECONDS = 2.0
FLOOR = 0.97
"""Minimum ratio of after to before."""

BEFORE, REPEATED, AFTER = "before", "before, repeated", "after"


def main(argv: Sequence[str]) -> None:
    """Print the comparison as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving.compare", description=__doc__.splitlines()[0])
    parser.add_argument("revision", metavar="REVISION", help="Git revision whose server is the baseline")
    parser.add_argument(
        "--pairs", type=int, default=PAIRS, help="number of rounds at each number of connections (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    if options.pairs < 1:
        parser.error(f"--pairs is {options.pairs}: give 1 or more")
    load.require()
    with tempfile.TemporaryDirectory() as folder:
        older = export(options.revision, Path(folder) / "before")
        parts = compare({BEFORE: older, REPEATED: older, AFTER: ROOT / "server"}, Path(folder), options.pairs)
    print(markdown(parts, machine(options.pairs)))


def export(revision: str, folder: Path) -> Path:
    """Write the server of ``revision`` to ``folder`` and return the directory to import it from."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", revision, "server"], cwd=ROOT, capture_output=True)
    if archive.returncode:
        raise ClusterError(f"'{revision}' is not a revision with a server: give a Git branch, tag or commit of it")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return folder / "server"


def compare(trees: dict[str, Path], folder: Path, pairs: int) -> list[Part]:
    """Measure the servers of all ``trees`` (label to import directory) at 32 connections and at 1."""
    trained = models.iris(folder / "iris")
    request = trained.requests(1)[0]
    parts = []
    with ExitStack() as stack:  # the bare file, because an older server need not read the packages of a newer one
        servers = [stack.enter_context(running(label, _from(tree), trained.artefact)) for label, tree in trees.items()]
        for server in servers:
            server.check([request])
        for connections in (32, 1):
            progress(f"Measuring: {pairs} pairs, {connections} connections")
            series = measure([(server, request) for server in servers], connections, SECONDS, pairs)
            parts.append(_part(series))
    return parts


def _from(tree: Path) -> Start:
    """Return the start of our server, imported from another directory."""
    start = ours()

    def command(model: Path, port: int) -> Command:
        return Command(start(model, port).argv, {"PYTHONPATH": str(tree)})

    return command


def _part(series: Sequence[Series]) -> Part:
    before, repeated, after = series
    connections = f"{before.connections} connection{'s' if before.connections > 1 else ''}"
    figures: dict[str, Figure] = {
        "requests/s": per_second,
        "requests per CPU second": per_cpu_second,
        "1 / median latency": lambda sample: 1 / p50(sample),
    }
    claims = []
    for what, figure in figures.items():
        claims.append(Claim(f"{what}, {connections}: after / before", after.ratio(before, figure), FLOOR, "×"))
        claims.append(Claim(f"{what}, {connections}: A/A", repeated.ratio(before, figure), FLOOR, "×"))
    return Part(f"V2 JSON, one row of iris, {connections}", rounds.HEADER, rounds.rows(series), claims)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ClusterError as error:
        sys.exit(str(error))
