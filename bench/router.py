"""The cost of the router: the same traffic through the router and directly to the Service of a revision, in turn."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from hack import installed_operator
from hack.cluster import start
from hack.quickstart import NAME, Model, train
from hack.traffic import Totals, Traffic

RATE, REQUESTS, PAIRS = 200.0, 2000, 5


def main() -> None:
    """Print the medians of both paths and their ratio."""
    with tempfile.TemporaryDirectory() as folder, start("bench") as cluster:
        bodies = train(Path(folder))
        installed_operator.install(cluster)
        cluster.kubectl("create", "namespace", "bench")
        model = Model(cluster, "bench", Path(folder))
        model.apply("v2")
        revision = model.wait_ready(120, "v2")["stable"]["revision"]
        urls = {
            "router": model.url,
            "direct": f"http://{NAME}-{revision}.bench.svc:8080/v2/models/{NAME}/infer",
        }
        seen: dict[str, list[Totals]] = {path: [] for path in urls}
        for _ in range(PAIRS):
            for path, url in urls.items():
                with Traffic(
                    cluster.kubectl,
                    cluster.kubectl_command,
                    "bench",
                    url,
                    bodies,
                    image=installed_operator.image("server"),
                    rate=RATE,
                    limit=REQUESTS,
                    name=f"clients-{path}",
                ) as clients:
                    clients.wait(lambda now: now.ok + now.failed >= REQUESTS, 120, f"all {REQUESTS} requests answered")
                    seen[path].append(clients.stop())
                cluster.kubectl("wait", "-n", "bench", "--for=delete", f"pod/clients-{path}", "--timeout=60s")
    print(f"{REQUESTS} requests at {RATE:g} requests/s, half of them on new connections; medians of {PAIRS} pairs")
    for name, label in {"p50_ms": "p50", "p99_ms": "p99"}.items():
        router, direct = (statistics.median(getattr(totals, name) for totals in seen[path]) for path in urls)
        print(f"{label}: router {router:.2f} ms, direct {direct:.2f} ms, ratio {router / direct:.2f}")
    print(f"failed requests: {sum(totals.failed for runs in seen.values() for totals in runs)}")


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m bench.router", description=__doc__).parse_args()
    main()
