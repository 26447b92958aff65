"""How many pods a share of the requests needs."""

from __future__ import annotations

from math import ceil

from mlmodel_operator.api.types import Serving


def full_capacity(serving: Serving, running: int) -> int:
    """Return the number of pods that all requests need: the fixed one, or what stable's autoscaler has come to."""
    if serving.autoscaling is None:
        return serving.replicas or 1
    return min(max(running, serving.autoscaling.min_replicas), serving.autoscaling.max_replicas)


def for_weight(weight: int, full: int) -> int:
    """Return the number of pods for ``weight`` percent, so that the candidate's share of all pods is at least its
    share of the requests.

    At most ``full``, which is enough for all requests.
    """
    if weight >= 100:
        return full
    return min(max(1, ceil(full * weight / (100 - weight))), full)
