"""The measurements that are named, one after the other; all of them without a name."""

import argparse
import sys

from bench import decisions, router
from bench.serving import __main__ as serving
from hack.cluster.report import ClusterError

BENCHES = {"decisions": decisions.main, "router": router.main, "serving": serving.main}

parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
parser.add_argument("name", nargs="*", help=f"of: {', '.join(BENCHES)} (all)")
chosen = parser.parse_args().name or list(BENCHES)
if unknown := set(chosen) - set(BENCHES):
    parser.error(f"there is no {', '.join(sorted(unknown))}: choose of {', '.join(BENCHES)}")
try:
    for name in chosen:
        BENCHES[name]()
        print()
except ClusterError as error:
    sys.exit(str(error))
