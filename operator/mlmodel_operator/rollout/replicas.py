"""How many pods each revision gets, and how many it has."""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.evidence import Evidence
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import BEFORE_REQUESTS, Candidate, Status, revision_of
from mlmodel_operator.rollout import approval, capacity, proof
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.pinning import awaits_files
from mlmodel_operator.rollout.plan import DesiredRevision
from mlmodel_operator.rollout.steps import next_target


def count_replicas(context: Context, state: Status) -> Status:
    """Return ``state`` with the number of desired and ready pods of both sides."""
    stable, candidate, observed = state.stable, state.candidate, context.observed
    if stable is not None:
        ready = observed.revision(stable.revision).ready
        stable = replace(stable, replicas=context.full_capacity, ready_replicas=ready)
    if candidate is not None:
        ready = context.ready(candidate)
        is_down = candidate.evidence is not None and ready == 0
        stable_is_down = stable is not None and stable.ready_replicas == 0
        required = context.full_capacity if stable is None else _required(context, candidate)
        # Never fewer than before: evidence may go up and down, pods should not.
        replicas = min(max(required, candidate.replicas), context.full_capacity)
        is_short = candidate.phase != "Preparing" and stable is not None and _missing(context, candidate, replicas) > 0
        candidate = replace(
            candidate,
            replicas=replicas,
            ready_replicas=ready,
            down_since=(candidate.down_since or Time(context.now)) if is_down else None,
            stable_down_since=(candidate.stable_down_since or Time(context.now)) if stable_is_down else None,
            short_since=(candidate.short_since or Time(context.now)) if is_short else None,
        )
    column = f"{stable.ready_replicas}/{stable.replicas}" if stable else ""
    return replace(state, stable=stable, candidate=candidate, replicas=column)


def desired_revisions(context: Context, state: Status) -> tuple[DesiredRevision, ...]:
    """Return the revisions whose children must exist, with their number of pods.

    A candidate without the digest that its pods require has no children yet: pods without it would serve anything.
    """
    desired = []
    if state.stable is not None:
        # While a candidate gets requests, stable keeps enough pods for all of them.
        is_alone = state.candidate is None or state.candidate.slot is None
        autoscaling = context.model.spec.serving.autoscaling
        replicas = autoscaling.min_replicas if autoscaling and is_alone else context.full_capacity
        desired.append(DesiredRevision(revision_of(state.stable), replicas))
    if state.candidate is not None and not awaits_files(state.candidate, context.observed):
        desired.append(DesiredRevision(revision_of(state.candidate), state.candidate.replicas))
    return tuple(desired)


def _missing(context: Context, candidate: Candidate, replicas: int) -> int:
    """Return how many of the candidate's pods have not become ready; one that was ready, as on a lost node, has."""
    pods = context.observed.revision(candidate.revision).pods
    return replicas - sum((pod.ready or pod.started) and not pod.terminating for pod in pods)


def _required(context: Context, candidate: Candidate) -> int:
    """Return the number of pods for the candidate's weight; for the next weight once the step has its proof."""
    rollout, full = context.rollout, context.full_capacity
    if candidate.stands_in_since is not None:
        return full
    if candidate.phase in BEFORE_REQUESTS:
        return capacity.for_weight(rollout.steps[0].weight, full)
    if candidate.phase != "Canary":
        return full
    evidence = context.evidence or Evidence()
    target = next_target(rollout, candidate.weight)
    is_overdue = rollout.on_no_evidence == "Promote" and context.now >= candidate.since + rollout.max_seconds
    is_passed = is_overdue or proof.is_proven(evidence, candidate.weight, target) or proof.is_idle(context, candidate)
    waits = rollout.paused or approval.missing(context, candidate)
    return capacity.for_weight(target.weight if is_passed and not waits else candidate.weight, full)
