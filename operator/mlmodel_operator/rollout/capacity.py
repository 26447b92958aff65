"""How many pods a share of the requests needs."""

from __future__ import annotations

from math import ceil

from ..api.types import Serving


def full(serving: Serving, running: int) -> int:
    """Pods that all requests need: the fixed number, or what the autoscaler of stable has come to."""
    if serving.autoscaling is None:
        return serving.replicas or 1
    return min(max(running, serving.autoscaling.min_replicas), serving.autoscaling.max_replicas)


def for_weight(weight: int, everything: int) -> int:
    """Pods for ``weight`` percent, such that the candidate's share of all pods is at least its share of requests.

    At most ``everything``: that many serve all requests by themselves.
    """
    if weight >= 100:
        return everything
    return min(max(1, ceil(everything * weight / (100 - weight))), everything)
