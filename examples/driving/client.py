"""Request decisions within a budget, as a car would, and brake when no answer comes in time.

    python examples/driving/client.py --budget-ms 5        # 500 requests, 100 per second, to localhost:8080

The budget has two parts. The header x-mlmodel-timeout-ms makes the server shed a request that it cannot answer in time,
so that it works on those that it can. The client's own timer covers all else: the network, a server that is stopped.
"""

from __future__ import annotations

import argparse
import http.client
import json
import time
from collections import Counter
from pathlib import Path

SAFE = "brake"
SITUATION = Path(__file__).with_name("situation.json").read_text()


def decide(connection: http.client.HTTPConnection, budget: float) -> tuple[str, str]:
    """Return a decision, and why it is the one; ``budget`` is in seconds."""
    headers = {"Content-Type": "application/json", "x-mlmodel-timeout-ms": str(round(1000 * budget))}
    started = time.perf_counter()
    try:
        connection.request("POST", "/predict", SITUATION, headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):  # also the timer
        connection.close()  # a late answer must not be read as the next one
        return SAFE, "no answer in time"
    if response.status != 200:
        return SAFE, f"shed with {response.status}"
    if time.perf_counter() - started > budget:
        return SAFE, "answered too late"
    return json.loads(body)["predictions"][0], "answered in time"


def main() -> None:
    parser = argparse.ArgumentParser(description="Request decisions within a budget.")
    parser.add_argument("--port", type=int, default=8080, help="port of the server on localhost (default: 8080)")
    parser.add_argument("--budget-ms", type=float, default=5, help="budget in milliseconds (default: 5)")
    options = parser.parse_args()
    budget = options.budget_ms / 1000
    connection = http.client.HTTPConnection("localhost", options.port, timeout=budget)
    why: Counter[str] = Counter()
    times = []
    for _ in range(500):
        started = time.perf_counter()
        why[decide(connection, budget)[1]] += 1
        times.append(time.perf_counter() - started)
        time.sleep(0.01)
    times.sort()
    print(", ".join(f"{count} {reason}" for reason, count in why.most_common()), end="; ")
    print(f"p50 {1000 * times[250]:.2f} ms, p99 {1000 * times[495]:.2f} ms")


if __name__ == "__main__":
    main()
