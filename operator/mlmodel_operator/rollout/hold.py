"""Verdicts that are held: what fails candidate and stable at the same time does not condemn the candidate.

A node without CPU, a slow feature store or a dying node condemns a healthy candidate, and its single pod is hit harder
than the pods of stable. So a verdict that falls while stable is far from its normal is not recorded: the candidate
loses its requests and keeps its pods, and the canary starts again, with fresh evidence, once stable has been well for a
while.
"""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.evidence import Counts
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Candidate, StablePods, Status
from mlmodel_operator.rollout import endings
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.plan import Notice
from mlmodel_operator.rollout.pod_failures import Failure
from mlmodel_operator.rollout.routes import slow_ms, weight_of
from mlmodel_operator.rollout.transition import Decision, Stay, Transition

STEADY_SECONDS = 30.0
"""Time after a restart or a loss of a pod of stable in which stable is not well."""
BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 15.0, 300.0
"""Time for which stable must have been well after the first hold, doubled with each hold, and its maximum: a candidate
that takes the CPU from stable must not do so again at once."""
SUSPECT_RATE, BAD_RATE = 0.05, 0.075
"""Failure rates of stable that are not normal: the first if stable failed less than a third as often before, the second
always: a service that always fails that often looks like one in trouble."""
_HELD = {
    Reason.ERROR_RATE,
    Reason.ERROR_RATE_ABOVE_STABLE,
    Reason.REHEARSAL_ERRORS,
    Reason.SLOWER_THAN_STABLE,
    Reason.ABOVE_MAX_MILLISECONDS,
    Reason.CRASH_LOOP,
    Reason.OUT_OF_MEMORY,
    Reason.NEVER_READY,
    Reason.NOT_READY,
}
"""Failures that trouble of the cluster can cause; the others name a cause in the candidate. Trouble fails and slows
answers, and does not change them: other answers are those of the candidate."""


def roll_back_or_hold(context: Context, candidate: Candidate, failure: Failure) -> Decision:
    """Roll the candidate back; hold the verdict if stable is in trouble, too."""
    if failure.reason not in _HELD or context.serves_alone(candidate):
        return endings.roll_back(context, candidate, failure)
    if is_waiting(context, candidate):
        return waiting(context, candidate)
    trouble = trouble_of_stable(context, candidate)
    if not trouble:
        return endings.roll_back(context, candidate, failure)
    held = replace(
        candidate,
        phase="Preparing",
        weight=0,
        step=0,
        since=Time(context.now),
        observed_percent=None,
        evidence=None,
        rehearsal=None,
        down_since=None,
        short_since=None,
        unproven="",
        holds=candidate.holds + 1,
        held_restarts=restarts(context, candidate),
    )
    notice = Notice(
        "Warning",
        Reason.STABLE_UNWELL,
        f"{candidate.version} ({candidate.revision}) is held, not rolled back: {failure.message}, but {trouble}."
        f" {context.stable_label} gets all requests; the canary starts again when {context.stable_label} has been well"
        f" for {_backoff(held):g} s",
    )
    return Transition(replace(context.status, candidate=held), (notice,))


def is_waiting(context: Context, candidate: Candidate) -> bool:
    """Whether the candidate was held, and stable has not been well for long enough."""
    if candidate.phase != "Preparing" or not candidate.holds or candidate.stands_in_since is not None:
        # Without stable there is nothing to wait for.
        return False
    resumes = resumes_at(context, candidate)
    return resumes is None or context.now < resumes


def resumes_at(context: Context, candidate: Candidate) -> float | None:
    """Return when the candidate starts to prepare: at its start, or some time after a hold; None while a pod of stable
    is missing."""
    if not candidate.holds:
        return candidate.started_at
    well_since = watched(context, candidate).well_since
    if well_since is None:
        return None
    steady = well_since + STEADY_SECONDS if well_since > candidate.started_at else 0.0
    return max(candidate.since + _backoff(candidate), well_since + _backoff(candidate), steady)


def waiting(context: Context, candidate: Candidate) -> Stay:
    """Return what a held candidate waits for."""
    why = f"its verdict is held, because {context.stable_label} was in trouble at the same time"
    pods = watched(context, candidate)
    if pods.well_since is None:
        return Stay(
            f"{why} and lacks ready pods that it had: find out why with `kubectl describe pods`", Reason.STABLE_UNWELL
        )
    return Stay(
        f"{why}; the canary starts again when {context.stable_label} has been well for {_backoff(candidate):g} s",
        Reason.STABLE_UNWELL,
    )


def _backoff(candidate: Candidate) -> float:
    return min(BACKOFF_SECONDS * 2.0 ** min(candidate.holds - 1, 10), LONGEST_BACKOFF_SECONDS)


# -------------------------------------------------------------------------------------------------- is stable normal?


def trouble_of_stable(context: Context, candidate: Candidate) -> str:
    """Return why stable is far from its normal, as a clause for messages; empty if it is not."""
    return _pods_in_trouble(context, candidate) or _failing(context, candidate) or _slow(context, candidate)


def _pods_in_trouble(context: Context, candidate: Candidate) -> str:
    label, pods = context.stable_label, watched(context, candidate)
    if pods.well_since is None:
        return f"{label} has fewer ready pods than before, too"
    if candidate.started_at < pods.well_since and context.now < pods.well_since + STEADY_SECONDS:
        return f"a pod of {label} restarted or was not ready within the last {STEADY_SECONDS:g} s, too"
    return ""


def _failing(context: Context, candidate: Candidate) -> str:
    evidence = context.evidence
    if evidence is None:
        return ""
    recent = evidence.state.recent.now + evidence.state.recent.before
    # At a weight of 100, stable gets only what the candidate failed: then no earlier rate is comparable.
    before = evidence.stable - recent if weight_of(candidate) < 100 else Counts()
    for counts in (recent, evidence.stable):
        is_suspect = counts is recent and counts.failure_rate > max(SUSPECT_RATE, 3.0 * before.failure_rate)
        if is_suspect or counts.failure_rate > BAD_RATE:
            return f"{context.stable_label} failed {counts.failed} of its last {counts.requests} requests, too"
    return ""


def _slow(context: Context, candidate: Candidate) -> str:
    at_start, now = candidate.stable_ms, slowest_stable(context)
    if candidate.evidence is None or not at_start or now <= slow_ms(at_start):
        return ""
    return f"{context.stable_label} takes {now} ms for a request, and took {at_start} ms when the canary began"


def slowest_stable(context: Context) -> int:
    """Return stable's average response time in milliseconds at the router where it is longest; 0 without requests."""
    return max((router.stable_ms for router in context.observed.routers), default=0)


def watched(context: Context, candidate: Candidate) -> StablePods:
    """Return the state of stable's pods after one more look at them."""
    before = candidate.stable_pods or StablePods(well_since=candidate.started_at)
    if context.status.stable is None:
        return before
    state = context.observed.revision(context.status.stable.revision)
    now = sum(pod.restarts for pod in state.pods)
    well_since = before.well_since
    if state.ready < min(before.ready, context.full_capacity):
        well_since = None
    elif well_since is None or (candidate.stable_pods is not None and now > before.restarts):
        well_since = Time(context.now)
    return StablePods(max(before.ready, state.ready), now, well_since)


def restarts(context: Context, candidate: Candidate) -> int:
    """Return how often containers of the candidate have restarted."""
    return sum(pod.restarts for pod in context.observed.revision(candidate.revision).pods)


def watch(context: Context, state: Status) -> Status:
    """Return ``state`` with what a later verdict requires about the pods of both sides."""
    candidate = state.candidate
    if candidate is None or state.stable is None:
        return state
    held = restarts(context, candidate) if is_waiting(context, candidate) else candidate.held_restarts
    return replace(state, candidate=replace(candidate, stable_pods=watched(context, candidate), held_restarts=held))
