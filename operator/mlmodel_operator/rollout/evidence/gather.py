"""From cumulative counters of pods and routers to blocks of evidence.

The counters are cumulative and status holds the last ones read, so nothing is lost while the operator is down or when a
reading fails: the next block is just larger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from mlmodel_operator.api.evidence import Counts, Evidence, Sides
from mlmodel_operator.api.status import Slot, Status
from mlmodel_operator.api.types import MLModel
from mlmodel_operator.rollout.evidence import errors
from mlmodel_operator.rollout.observed import Observed, Pod, Router

Read = TypeVar("Read", Counts, Sides)


@dataclass(frozen=True)
class Side:
    """A revision, and the slot of the router that leads to it."""

    revision: str
    slot: Slot


def fresh_evidence(model: MLModel, observed: Observed, status: Status) -> Evidence | None:
    """Return the evidence in ``status`` with what was counted since; None outside a comparison of two revisions."""
    candidate, stable = status.candidate, status.stable
    if candidate is None or stable is None or candidate.slot is None or candidate.evidence is None:
        return None
    return gather(
        candidate.evidence,
        observed,
        candidate=Side(candidate.revision, candidate.slot),
        stable=Side(stable.revision, stable.slot),
        began=candidate.started_at,
        max_percent=model.spec.rollout.gates.errors.max_percent,
    )


def gather(
    evidence: Evidence, observed: Observed, *, candidate: Side, stable: Side, began: float, max_percent: float
) -> Evidence:
    """Return the evidence after one more reading of all counters; ``began`` is the start of the rollout in seconds."""
    # Kubernetes gives creation times in whole seconds: a pod of the very second in which the rollout began is ours.
    began = math.floor(began)
    state, before = evidence.state, Sides(evidence.candidate, evidence.stable)
    own_pods = observed.revision(candidate.revision).pods
    own, own_read = _read_pods(own_pods, state.pods, began)
    others, others_read = _read_pods(observed.revision(stable.revision).pods, state.pods, began)
    seen, routers_read = _read_routers(observed.routers, state.routers, candidate.slot, stable.slot, began)
    counted, routed = state.counted + own, state.routed + seen

    excused = state.excused
    if _is_replaced(own_pods, state.pods):
        excused = max(excused, routed.candidate.failed - max(before.candidate.failed, counted.failed))
    is_complete = all(pod.counts is not None for pod in own_pods)
    total = Sides(
        _combined(counted, routed.candidate, before.candidate.failed, excused, is_complete=is_complete),
        before.stable + others,
    )
    ledger = errors.update(state.ledger, total - before, max_percent=max_percent, stable_before=before.stable)
    verdict = errors.judge(ledger, total.candidate, total.stable, max_percent=max_percent)
    return replace(
        evidence,
        candidate=total.candidate,
        stable=total.stable,
        against=round(min(verdict.against, 1e9), 3),
        certified_percent=errors.certified_percent(total.candidate),
        state=replace(
            state,
            ledger=errors.rounded(ledger),
            counted=counted,
            excused=excused,
            routed=routed,
            pods=own_read | others_read,
            routers=routers_read,
        ),
    )


def _combined(counted: Counts, routed: Counts, failed_before: int, excused: int, *, is_complete: bool) -> Counts:
    """Return the candidate's requests from the counts of its pods and those of the routers.

    A request that found no living pod is counted by the router alone. Failures that the pods did count are in both
    counts, and either may be read first: the larger total is the number of failures.
    """
    uncounted = max(0, routed.failed - excused - counted.failed)
    unread = routed.requests - counted.requests
    if 0 < uncounted < unread / 2 and not is_complete:
        # The pods that could not be read have mostly answered: how many requests is known when they can be.
        uncounted = 0
    failed = max(counted.failed + uncounted, failed_before)
    # Of a request that the candidate rejected and stable answered, its pods counted a 4xx and the routers a failure.
    rejected = min(failed - counted.failed, counted.rejected)
    return Counts(counted.requests + failed - counted.failed - rejected, counted.rejected - rejected, failed)


def _since(last: Read | None, now: Read, *, is_older: bool) -> Read:
    """Return what a counter counted since it was ``last`` read.

    One that is older than the rollout has counted requests that are not evidence; a younger one has not. A counter that
    went back is that of a new process, which starts from zero.
    """
    if last is None:
        return now - now if is_older else now
    return now if now.is_reset_since(last) else now - last


def _read_pods(pods: tuple[Pod, ...], last: Mapping[str, Counts], began: float) -> tuple[Counts, dict[str, Counts]]:
    """Return what these pods counted since ``last``, and the counters to remember."""
    total, read = Counts(), {}
    for pod in pods:
        if pod.counts is not None:
            total += _since(last.get(pod.name), pod.counts, is_older=pod.created < began)
            read[pod.name] = pod.counts
        elif pod.name in last:
            read[pod.name] = last[pod.name]
    return total, read


def _read_routers(
    routers: tuple[Router, ...], last: Mapping[str, Sides], candidate: Slot, stable: Slot, began: float
) -> tuple[Sides, dict[str, Sides]]:
    """Return what these routers counted since ``last``, and the counters to remember."""
    total, read = Sides(), {}
    for router in routers:
        if router.routes:
            # Not the failures of stable: its pods count those that it answered, and these are what is compared.
            now = Sides(router.slots.get(candidate, Counts()), Counts(router.slots.get(stable, Counts()).requests))
            total += _since(last.get(router.name), now, is_older=router.created < began)
            read[router.name] = now
        elif router.name in last:
            read[router.name] = last[router.name]
    return total, read


def _is_replaced(pods: tuple[Pod, ...], last: Mapping[str, Counts]) -> bool:
    """Whether a pod terminates or starts: after an eviction, say. A pod that answered before and is not ready has
    failed."""

    def is_fresh(pod: Pod) -> bool:
        answered = (pod.counts or last.get(pod.name, Counts())).requests
        return not pod.ready and not pod.restarts and not answered

    return not pods or any(pod.terminating or is_fresh(pod) for pod in pods)


def begin_step(evidence: Evidence) -> Evidence:
    """Return the evidence with a new step beginning now."""
    return replace(evidence, state=replace(evidence.state, routed_before_step=evidence.state.routed))


def observed_percent(evidence: Evidence) -> float | None:
    """Return the candidate's share of the requests of this step, in percent, as the routers counted them."""
    step = evidence.state.routed - evidence.state.routed_before_step
    total = step.candidate.requests + step.stable.requests
    return round(100.0 * step.candidate.requests / total, 1) if total > 0 else None


def step_requests(evidence: Evidence) -> int:
    """Return the number of requests that the routers sent to the candidate in this step."""
    return (evidence.state.routed - evidence.state.routed_before_step).candidate.requests
