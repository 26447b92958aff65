"""A node that has no CPU left for the pods of a model blames no version."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from hack import faults
from hack.cluster import Cluster
from hack.quickstart import Model
from hack.traffic import Totals, Traffic

pytestmark = pytest.mark.cluster

StartTraffic = Callable[..., AbstractContextManager[Traffic]]
QUOTA = 10_000
"""Microseconds of CPU time in each second for a pod."""
SLOWER = 20.0
REQUESTS = 600
"""Requests while the quota holds: 30 seconds of them."""


def latency(traffic: StartTraffic, name: str) -> float:
    """Return the median time of 40 requests in milliseconds."""
    with traffic(rate=10, limit=40, name=name) as probe:
        probe.wait(lambda _: probe.is_over, 60, "the end of the probe")
        return probe.now.p50_ms


def test_versions_of_a_busy_node_are_promoted(
    cluster: Cluster, model: Model, traffic: StartTraffic, busy_rollouts: int
) -> None:
    model.apply("v1")
    model.wait_ready(120, "v1")
    normal = latency(traffic, "normal")
    slower, held = [], 0
    with traffic(rate=20) as clients:
        for number in range(busy_rollouts):
            version = "v1" if number % 2 else "v2"
            model.apply(version, rollout={"steps": [{"weight": 25}, {"weight": 50}], "bakeSeconds": 5})
            model.wait_weight(25)
            limited = list(model.pods())
            for pod in limited:
                faults.limit_cpu(cluster, model.namespace, pod, QUOTA)
            slower.append(latency(traffic, f"busy-{number}") / normal)
            clients.wait_for_requests(REQUESTS)
            held += int((model.status().get("candidate") or {}).get("holds", 0))
            for pod in limited:
                faults.limit_cpu(cluster, model.namespace, pod, -1)
            status = model.wait_ready(600, version)
            assert not status.get("rejected"), status["rejected"]
        seen: Totals = clients.stop()
    print(
        f"{busy_rollouts} rollouts: median {', '.join(f'{times:.0f}' for times in slower)} times slower, {held} holds;"
        f" {seen.sent} requests, {seen.failed} failed, {seen.fallbacks} retried on stable"
    )
    assert min(slower) >= SLOWER
    assert seen.failed == 0, seen.errors
