"""From cumulative counters of pods and routers to blocks of evidence.

The counters are cumulative and the cursors are in status, so nothing is lost while the operator is down or when a
reading fails: the next block is just larger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from ...api.status import Cursor, Evidence, Slot, Tally
from ..observed import Observed, Pod, Router
from . import errors


def _pods(pods: tuple[Pod, ...], cursors: Mapping[str, Cursor], began: float) -> tuple[Tally, dict[str, Cursor]]:
    """What these pods did since their cursors, and the cursors after it.

    A pod that is older than the rollout has counted requests that are not ours to judge; a younger one has not. A
    counter that went back is that of a new container, which starts from zero.
    """
    total, after = Tally(), {}
    for pod in pods:
        last = cursors.get(pod.name)
        now = pod.counts
        if now is None:
            if last is not None:
                after[pod.name] = last
            continue
        if last is None:
            last = now if pod.created < began else Cursor()
        elif (
            now.requests < last.requests
            or now.client_errors < last.client_errors
            or now.server_errors < last.server_errors
        ):
            last = Cursor()
        after[pod.name] = now
        total = errors.add(
            total,
            Tally(
                now.requests - last.requests,
                now.client_errors - last.client_errors,
                now.server_errors - last.server_errors,
            ),
        )
    return total, after


def _routers(
    routers: tuple[Router, ...],
    cursors: Mapping[str, tuple[int, ...]],
    candidate: Slot,
    stable: Slot,
    began: float,
) -> tuple[tuple[int, int, int], dict[str, tuple[int, ...]]]:
    """Requests sent to candidate and stable, and failures of the candidate, since the cursors."""
    total, after = (0, 0, 0), {}
    for router in routers:
        if not router.routes:
            if router.name in cursors:
                after[router.name] = cursors[router.name]
            continue
        asked, failed = router.slots.get(candidate, (0, 0))
        now = (asked, router.slots.get(stable, (0, 0))[0], failed)
        last = cursors.get(router.name)
        if last is None:
            last = now if router.created < began else (0, 0, 0)
        elif any(new < old for new, old in zip(now, last, strict=True)):
            last = (0, 0, 0)
        after[router.name] = now
        total = (total[0] + now[0] - last[0], total[1] + now[1] - last[1], total[2] + now[2] - last[2])
    return total, after


def _is_replaced(pods: tuple[Pod, ...], cursors: Mapping[str, Cursor]) -> bool:
    """Whether a pod is going or coming: evicted, say. One that has answered before and does not now has gone bad."""

    def is_fresh(pod: Pod) -> bool:
        answered = (pod.counts or cursors.get(pod.name, Cursor())).requests
        return not pod.ready and not pod.restarts and not answered

    return not pods or any(pod.leaving or is_fresh(pod) for pod in pods)


def gather(
    evidence: Evidence,
    observed: Observed,
    *,
    candidate: tuple[str, Slot],
    stable: tuple[str, Slot],
    began: float,
    max_percent: float,
) -> Evidence:
    """The evidence after one more look at all counters.

    ``candidate`` and ``stable`` are revision and slot; ``began`` is the start of the rollout in seconds.
    """
    # Kubernetes gives creation times in whole seconds: a pod of the very second in which the rollout began is ours.
    began = math.floor(began)
    own, own_cursors = _pods(observed.revision(candidate[0]).pods, evidence.pods, began)
    others, other_cursors = _pods(observed.revision(stable[0]).pods, evidence.pods, began)
    routed, router_cursors = _routers(observed.routers, evidence.routers, candidate[1], stable[1], began)

    counted = errors.add(evidence.counted, own)
    seen = tuple(before + now for before, now in zip(evidence.routed, routed, strict=True))
    # A request that found no living pod is counted by the router alone. Failures that the pods did count are in both
    # counts, and either may be read first: the larger total is the number of failures.
    excused = evidence.excused
    if _is_replaced(observed.revision(candidate[0]).pods, evidence.pods):
        excused = max(excused, seen[2] - max(evidence.candidate.failed, counted.failed))
    lone = max(0, seen[2] - excused - counted.failed)
    silent = seen[0] - counted.requests
    if 0 < lone < silent / 2 and any(pod.counts is None for pod in observed.revision(candidate[0]).pods):
        # The pods that could not be read have mostly answered: how many requests is known when they can be.
        lone = 0
    failed = max(counted.failed + lone, evidence.candidate.failed)
    # What the candidate refused and stable took: its pods counted a client error each, the routers a failure.
    refused = min(failed - counted.failed, counted.client_errors)
    combined = Tally(counted.requests + failed - counted.failed - refused, counted.client_errors - refused, failed)
    before = evidence.candidate
    block = errors.Block(
        Tally(
            combined.requests - before.requests,
            combined.client_errors - before.client_errors,
            combined.failed - before.failed,
        ),
        others,
    )
    ledger = errors.update(evidence.ledger, block, max_percent=max_percent, stable_before=evidence.stable)
    stable_total = errors.add(evidence.stable, others)
    verdict = errors.judge(ledger, combined, stable_total, max_percent=max_percent)
    return replace(
        evidence,
        candidate=combined,
        stable=stable_total,
        against=round(min(verdict.against, 1e9), 3),
        certified_percent=errors.certified_percent(combined),
        ledger=errors.rounded(ledger),
        counted=counted,
        excused=excused,
        routed=seen,
        pods=own_cursors | other_cursors,
        routers=router_cursors,
    )


def observed_percent(evidence: Evidence) -> float | None:
    """The candidate's share of the requests of this step, in percent, as the routers counted them."""
    own = evidence.routed[0] - evidence.step_routed[0]
    total = own + evidence.routed[1] - evidence.step_routed[1]
    return round(100.0 * own / total, 1) if total > 0 else None


def step_requests(evidence: Evidence) -> int:
    """Requests that the candidate was given in this step."""
    return evidence.routed[0] - evidence.step_routed[0]
