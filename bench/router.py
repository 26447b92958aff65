"""What the router costs: the same users through the router and straight to a revision's Service, in turns."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from hack import installed_operator
from hack.cluster import start
from hack.quickstart import NAME, Model, train
from hack.traffic import Second, Traffic

RATE, REQUESTS, PAIRS = 200.0, 2000, 5


def main() -> None:
    """Prints the medians of both ways and their ratio."""
    with tempfile.TemporaryDirectory() as folder, start("bench") as cluster:
        bodies = train(Path(folder))
        installed_operator.install(cluster)
        cluster.kubectl("create", "namespace", "bench")
        model = Model(cluster.kubectl, "bench", Path(folder))
        model.apply("v2")
        revision = model.wait_ready(120, "v2")["stable"]["revision"]
        ways = {
            "router": model.url,
            "direct": f"http://{NAME}-{revision}.bench.svc:8080/v2/models/{NAME}/infer",
        }
        seen: dict[str, list[Second]] = {way: [] for way in ways}
        for _ in range(PAIRS):
            for way, url in ways.items():
                with Traffic(
                    cluster.kubectl,
                    cluster.kubectl_command,
                    "bench",
                    url,
                    bodies,
                    image=installed_operator.image("server"),
                    rate=RATE,
                    limit=REQUESTS,
                    name=f"users-{way}",
                ) as users:
                    users.wait(lambda now: now.ok + now.failed >= REQUESTS, 120, "all answers")
                    seen[way].append(users.stop())
                cluster.kubectl("wait", "-n", "bench", "--for=delete", f"pod/users-{way}", "--timeout=60s")
    print(f"{REQUESTS} requests at {RATE:g} per second, half on fresh connections, {PAIRS} pairs, medians")
    for name in ("p50_ms", "p99_ms"):
        through, straight = (statistics.median(getattr(second, name) for second in seen[way]) for way in ways)
        print(f"{name}: router {through:.2f}, direct {straight:.2f}, ratio {through / straight:.2f}")
    print(f"failed: {sum(second.failed for both in seen.values() for second in both)}")


if __name__ == "__main__":
    main()
