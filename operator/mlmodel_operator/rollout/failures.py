"""Why a candidate is rolled back: two ordered chains of checks, of which the first failure decides.

Each check takes the context and the candidate, and returns a failure or None. The order goes from the cause to its
effects, because users read only the first failure: a crashed pod also fails requests and is not ready, and "out of
memory" helps more than "5 of 5 requests failed".
"""

from __future__ import annotations

from collections.abc import Callable

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.status import Candidate
from mlmodel_operator.rollout import capacity, hold
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.evidence import chain, errors, late
from mlmodel_operator.rollout.pod_failures import Failure, pod_failure, why_not_ready

Check = Callable[[Context, Candidate], Failure | None]


def before_requests(context: Context, candidate: Candidate) -> Failure | None:
    """Return why a candidate without requests is rolled back, or None."""
    return _first(_BEFORE_REQUESTS, context, candidate)


def with_requests(context: Context, candidate: Candidate) -> Failure | None:
    """Return why a candidate with requests, or with copies of requests, is rolled back, or None."""
    return _first(_WITH_REQUESTS, context, candidate)


def _first(checks: tuple[Check, ...], context: Context, candidate: Candidate) -> Failure | None:
    return next((failure for check in checks if (failure := check(context, candidate)) is not None), None)


def pods_failed(context: Context, candidate: Candidate) -> Failure | None:
    """A pod reports that this revision cannot run; no statistics are required."""
    pods = context.observed.revision(candidate.revision).pods
    failure = pod_failure(pods, context.now, has_served=candidate.slot is not None)
    has_crashed = failure is not None and failure.reason in (Reason.CRASH_LOOP, Reason.OUT_OF_MEMORY)
    if has_crashed and candidate.holds and hold.restarts(context, candidate) <= candidate.held_restarts:
        # Its pods crashed before its last hold: only a crash since then counts.
        return None
    return failure


def failed_gate(context: Context, candidate: Candidate) -> Failure | None:
    """A gate on pairs rejects the candidate: requests that stable answered were repeated on it. Or the gate on labels
    does."""
    if context.evidence is None:
        return None
    state, accepted = context.evidence.state, chain.ACCEPTABLE.keys() if context.is_change_accepted(candidate) else ()
    seconds = context.now - state.pairs_since if state.pairs_since else 0.0
    later = late.windows(state.marks, state.pairs, context.now)
    gates, labels = context.rollout.gates, state.quality
    verdict = chain.judge(state.pairs, gates, accepted, seconds=seconds, later=later, labels=labels)
    return None if verdict is None else Failure(verdict.reason, verdict.message)


def failed_too_often(context: Context, _candidate: Candidate) -> Failure | None:
    """The sequential tests reject the candidate."""
    if context.evidence is None:
        return None
    verdict = errors.judge(context.evidence, max_percent=context.rollout.gates.errors.max_percent)
    return Failure(verdict.reason, verdict.message) if verdict.is_decisive else None


def never_got_ready(context: Context, candidate: Candidate) -> Failure | None:
    """Too few pods for the first step became ready before the deadline."""
    state, deadline = context.observed.revision(candidate.revision), context.rollout.preparing_deadline_seconds
    required = capacity.for_weight(context.rollout.steps[0].weight, context.full_capacity)
    started_at = hold.resumes_at(context, candidate)
    if state.ready >= required or started_at is None or context.now < started_at + deadline:
        return None
    why = why_not_ready(state.pods, context.obstacle)
    return Failure(Reason.NEVER_READY, f"not ready within {deadline} s: {why}")


def lost_all_pods(context: Context, candidate: Candidate) -> Failure | None:
    """No pod has been ready for as long as a new revision may take to start; a replaced pod is ready sooner."""
    deadline = context.rollout.preparing_deadline_seconds
    if candidate.down_since is None or context.now < candidate.down_since + deadline:
        return None
    why = why_not_ready(context.observed.revision(candidate.revision).pods, context.obstacle)
    return Failure(Reason.NOT_READY, f"no ready pod for {deadline} s: {why}")


def got_too_few_pods(context: Context, candidate: Candidate) -> Failure | None:
    """Pods that the rollout needs to continue have not become ready before the deadline."""
    deadline = context.rollout.preparing_deadline_seconds
    if candidate.short_since is None or context.now < candidate.short_since + deadline:
        return None
    state = context.observed.revision(candidate.revision)
    why = why_not_ready(state.pods, context.obstacle)
    return Failure(
        Reason.NEVER_READY, f"{state.ready} of {candidate.replicas} pods are ready after {deadline} s: {why}"
    )


# A pod reports the cause of its failure, a deadline only that time has passed.
_BEFORE_REQUESTS: tuple[Check, ...] = (pods_failed, never_got_ready)

# The tests come before the deadline: they decide within seconds, and report what clients saw.
_WITH_REQUESTS: tuple[Check, ...] = (
    pods_failed,
    failed_gate,
    failed_too_often,
    lost_all_pods,
    got_too_few_pods,
)
