"""The command line of the census; see the package."""

from __future__ import annotations

import argparse
import os
import sys

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # as in a worker of the server; before numpy is imported


def main() -> int:
    """Run, or write the page to standard output."""
    parser = argparse.ArgumentParser(prog="python -m hack.census", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run combinations, and write their verdicts into results.tsv")
    run.add_argument("--all", action="store_true", help="all combinations (default: a set that covers all pairs)")
    run.add_argument("--only", default="", help="part of the names of the models to run")
    run.add_argument("--rest", action="store_true", help="only those without a verdict, or with a fault")
    run.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    commands.add_parser("page", help="write docs/reference/models.md to standard output")
    arguments = parser.parse_args()
    if arguments.command == "page":
        from hack.census.page import page

        sys.stdout.write(page())
        return 0
    from hack.census.run import run_all

    return run_all(arguments.all, arguments.only, arguments.rest, arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
