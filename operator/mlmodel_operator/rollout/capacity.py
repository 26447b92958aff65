"""How many pods a weight requires."""

from __future__ import annotations

from math import ceil

from mlmodel_operator.api.types import Serving


def full_capacity(serving: Serving, running: int) -> int:
    """Return the number of pods for all requests: the fixed number, or the present one of the autoscaler of stable."""
    if serving.autoscaling is None:
        return serving.replicas or 1
    return min(max(running, serving.autoscaling.min_replicas), serving.autoscaling.max_replicas)


def for_weight(weight: int, full: int) -> int:
    """Return the number of pods for ``weight`` percent of the requests.

    It is at least that percentage of the pods of both sides, and at most ``full``, the number for all requests.
    """
    if weight >= 100:
        return full
    return min(max(1, ceil(full * weight / (100 - weight))), full)
