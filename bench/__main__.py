"""Run the named benchmarks one after the other; without a name, run all."""

import argparse
import sys

from bench import decisions, router, router_cpu
from bench.serving import __main__ as serving
from hack.cluster.report import ClusterError

BENCHES = {"decisions": decisions.main, "router": router.main, "router_cpu": router_cpu.main, "serving": serving.main}

parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
parser.add_argument("name", nargs="*", help=f"one of {', '.join(BENCHES)} (default: all)")
chosen = parser.parse_args().name or list(BENCHES)
if unknown := set(chosen) - set(BENCHES):
    parser.error(f"unknown benchmark {', '.join(sorted(unknown))}: choose from {', '.join(BENCHES)}")
try:
    for name in chosen:
        BENCHES[name]()
        print()
except ClusterError as error:
    sys.exit(str(error))
