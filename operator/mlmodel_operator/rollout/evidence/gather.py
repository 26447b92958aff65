"""From cumulative counters of pods and routers to blocks of evidence.

The counters are cumulative and status has the last values read, so nothing is lost while the operator is down or when a
reading fails: the next block is larger.
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
    """A revision, and the router slot that points to it."""

    revision: str
    slot: Slot


def fresh_evidence(model: MLModel, observed: Observed, status: Status) -> Evidence | None:
    """Return the evidence in ``status`` plus what was counted since; None unless candidate and stable get requests."""
    candidate, stable = status.candidate, status.stable
    if candidate is None or stable is None or candidate.slot is None or candidate.evidence is None:
        return None
    return gather(
        candidate.evidence,
        observed,
        candidate=Side(candidate.revision, candidate.slot),
        stable=Side(stable.revision, stable.slot),
        started_at=candidate.started_at,
        max_percent=model.spec.rollout.gates.errors.max_percent,
    )


def gather(
    evidence: Evidence, observed: Observed, *, candidate: Side, stable: Side, started_at: float, max_percent: float
) -> Evidence:
    """Return the evidence after one more reading of all counters; ``started_at`` is the start of the rollout."""
    # Kubernetes gives creation times in whole seconds: a pod of the second in which the rollout started belongs to it.
    started_at = math.floor(started_at)
    state, before = evidence.state, Sides(evidence.candidate, evidence.stable)
    candidate_pods = observed.revision(candidate.revision).pods
    stable_pods = observed.revision(stable.revision).pods
    of_candidate, candidate_read = _read_pods(candidate_pods, state.pods, started_at)
    of_stable, stable_read = _read_pods(stable_pods, state.pods, started_at)
    of_routers, routers_read = _read_routers(observed.routers, state.routers, candidate.slot, stable.slot, started_at)
    counted, routed = state.counted + of_candidate, state.routed + of_routers

    excused = state.excused
    if _is_replaced(candidate_pods, state.pods):
        excused = max(excused, routed.candidate.failed - max(before.candidate.failed, counted.failed))
    is_complete = all(pod.counts is not None for pod in candidate_pods)
    total = Sides(
        _combined(counted, routed.candidate, before.candidate.failed, excused, is_complete=is_complete),
        before.stable + of_stable,
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
            ledger=errors.round_ledger(ledger),
            counted=counted,
            excused=excused,
            routed=routed,
            pods=candidate_read | stable_read,
            routers=routers_read,
        ),
    )


def _combined(counted: Counts, routed: Counts, failed_before: int, excused: int, *, is_complete: bool) -> Counts:
    """Return the candidate's requests from the counts of its pods and those of the routers.

    Only the routers count a request that no running pod answered. Failures that the pods counted are in both counts,
    and either may be read first: the larger total is the number of failures.
    """
    uncounted = max(0, routed.failed - excused - counted.failed)
    unread = routed.requests - counted.requests
    if 0 < uncounted < unread / 2 and not is_complete:
        # Most of the requests to the pods that could not be read succeeded: wait until these pods can be read.
        uncounted = 0
    failed = max(counted.failed + uncounted, failed_before)
    # A request that the candidate rejected and stable accepted is a 4xx to its pods and a failure to the routers.
    rejected = min(failed - counted.failed, counted.rejected)
    return Counts(counted.requests + failed - counted.failed - rejected, counted.rejected - rejected, failed)


def _since(last: Read | None, now: Read, *, is_older: bool) -> Read:
    """Return what a counter counted since it was ``last`` read.

    A counter that is older than the rollout includes requests that are not evidence; a newer one does not. A counter
    that decreased belongs to a new process, which starts from zero.
    """
    if last is None:
        return now - now if is_older else now
    return now if now.is_reset_since(last) else now - last


def _read_pods(
    pods: tuple[Pod, ...], last: Mapping[str, Counts], started_at: float
) -> tuple[Counts, dict[str, Counts]]:
    """Return what these pods counted since ``last``, and their counters to store."""
    total, read = Counts(), {}
    for pod in pods:
        if pod.counts is not None:
            total += _since(last.get(pod.name), pod.counts, is_older=pod.created < started_at)
            read[pod.name] = pod.counts
        elif pod.name in last:
            read[pod.name] = last[pod.name]
    return total, read


def _read_routers(
    routers: tuple[Router, ...], last: Mapping[str, Sides], candidate: Slot, stable: Slot, started_at: float
) -> tuple[Sides, dict[str, Sides]]:
    """Return what these routers counted since ``last``, and their counters to store."""
    total, read = Sides(), {}
    for router in routers:
        if router.routes:
            # Without the failures of stable: the tests compare those that its pods counted.
            now = Sides(router.slots.get(candidate, Counts()), Counts(router.slots.get(stable, Counts()).requests))
            total += _since(last.get(router.name), now, is_older=router.created < started_at)
            read[router.name] = now
        elif router.name in last:
            read[router.name] = last[router.name]
    return total, read


def _is_replaced(pods: tuple[Pod, ...], last: Mapping[str, Counts]) -> bool:
    """Whether a pod terminates or starts, as after an eviction; one that answered and is not ready has failed."""

    def is_new(pod: Pod) -> bool:
        answered = (pod.counts or last.get(pod.name, Counts())).requests
        return not pod.ready and not pod.restarts and not answered

    return not pods or any(pod.terminating or is_new(pod) for pod in pods)


def start_step(evidence: Evidence) -> Evidence:
    """Return the evidence at the start of a new step."""
    return replace(evidence, state=replace(evidence.state, routed_before_step=evidence.state.routed))


def observed_percent(evidence: Evidence) -> float | None:
    """Return the percentage of the requests of this step that the routers sent to the candidate; None without any."""
    step = evidence.state.routed - evidence.state.routed_before_step
    total = step.candidate.requests + step.stable.requests
    return round(100.0 * step.candidate.requests / total, 1) if total > 0 else None


def step_requests(evidence: Evidence) -> int:
    """Return the number of requests that the routers sent to the candidate in this step."""
    return (evidence.state.routed - evidence.state.routed_before_step).candidate.requests
