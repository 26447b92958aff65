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
QUOTAS = [10_000, 8_500, 7_200, 6_100, 5_200, 4_400, 3_700, 3_100]
"""Microseconds of CPU time in each second for a pod: the first that makes requests slow enough is used, because a
request costs twice as much on one machine as on another."""
SLOWER = 20.0
REQUESTS = 600
"""Requests while the quota holds: 30 seconds of them."""


def latency(traffic: StartTraffic, name: str) -> float:
    """Return the median time of 40 requests in milliseconds."""
    with traffic(rate=10, limit=40, name=name) as probe:
        probe.wait(lambda _: probe.is_over, 60, "the end of the probe")
        return probe.now.p50_ms


def starve(cluster: Cluster, model: Model, pods: list[str], traffic: StartTraffic, normal: float) -> tuple[int, float]:
    """Give the pods less CPU time until the median is ``SLOWER`` times ``normal`` (milliseconds); return the quota and
    how many times slower it is."""
    tried = {}
    for quota in QUOTAS:
        for pod in pods:
            faults.limit_cpu(cluster, model.namespace, pod, quota)
        tried[quota] = latency(traffic, f"quota-{quota}") / normal
        if tried[quota] >= SLOWER:
            return quota, tried[quota]
    raise AssertionError(f"no quota of CPU time makes requests {SLOWER:.0f} times slower: {tried}")


def test_versions_of_a_busy_node_are_promoted(
    cluster: Cluster, model: Model, traffic: StartTraffic, busy_rollouts: int
) -> None:
    model.apply("v1")
    model.wait_ready(180, "v1")
    normal = latency(traffic, "normal")
    starved, held = [], 0
    with traffic(rate=20) as clients:
        for number in range(busy_rollouts):
            version = "v1" if number % 2 else "v2"
            model.apply(version, rollout={"steps": [{"weight": 25}, {"weight": 50}], "bakeSeconds": 5})
            model.wait_weight(25)
            limited = list(model.pods())
            starved.append(starve(cluster, model, limited, traffic, normal))
            clients.wait_for_requests(REQUESTS)
            held += int((model.status().get("candidate") or {}).get("holds", 0))
            for pod in limited:
                faults.limit_cpu(cluster, model.namespace, pod, -1)
            status = model.wait_ready(600, version)
            assert not status.get("rejected"), status["rejected"]
        seen: Totals = clients.stop()
    print(
        f"{busy_rollouts} rollouts: median {', '.join(f'{times:.0f}' for _, times in starved)} times slower with"
        f" {', '.join(f'{quota / 1000} ms/s' for quota, _ in starved)} of CPU time, {held} holds;"
        f" {seen.sent} requests, {seen.failed} failed, {seen.fallbacks} retried on stable"
    )
    assert seen.failed == 0, seen.errors
