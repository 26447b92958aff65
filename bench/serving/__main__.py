"""Run the parts of the serving benchmark and print the report as Markdown."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from bench.serving import load, parts
from bench.serving.deadline import driving
from bench.serving.overload import overload
from bench.serving.rehearsed import rehearsed
from bench.serving.report import Part, markdown
from bench.serving.rounds import ROUNDS
from bench.serving.servers import LOG_FOLLOWS
from hack.cluster.report import ClusterError, progress


def main(argv: Sequence[str] = ()) -> None:
    """Print the report; it gives the reason for each part that could not be measured."""
    by_name = {part.__name__: part for part in (*parts.ALL, rehearsed, driving, overload)}
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"one of {', '.join(by_name)} (default: all)")
    chosen = parser.parse_args(argv).part or list(by_name)
    if unknown := set(chosen) - set(by_name):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(by_name)}")
    load.require()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            progress(f"Measuring: {name}")
            try:
                found.append(by_name[name](Path(folder)))
            except ClusterError as error:
                progress(str(error))
                found.append(
                    Part(name, missing=f"Not measured: {str(error).splitlines()[0].removesuffix(LOG_FOLLOWS)}")
                )
    print(markdown(found, machine()))


def machine(count: int = ROUNDS) -> str:
    """Return one paragraph about the machine and the method."""
    cpu = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ": ?"
    )
    libraries = ", ".join(f"{name} {version(name)}" for name in ("scikit-learn", "numpy"))
    return (
        f"{os.cpu_count()} × {cpu.partition(':')[2].strip()}, Linux {platform.release()}, "
        f"Python {platform.python_version()}, {libraries}. Each server has one worker on one CPU, with one thread per "
        f"numeric library; wrk runs on another CPU with one thread. "
        f"Medians of {count} interleaved rounds; a ratio is the median of the ratios of all rounds."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
