"""Preparing: the candidate's pods start and get no requests."""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.status import Candidate, Slot
from mlmodel_operator.rollout import failures, hold, rehearsal
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.phases import canary, validating
from mlmodel_operator.rollout.pinning import pinned
from mlmodel_operator.rollout.pod_failures import why_not_ready
from mlmodel_operator.rollout.standing_in import free_slot
from mlmodel_operator.rollout.transition import Decision, Stay, Transition


def advance(context: Context, candidate: Candidate) -> Decision:
    """Start the rehearsal, or the first step, as soon as enough pods are ready and the routers have confirmed."""
    if (updated := pinned(candidate, context.observed)) != candidate:
        return Transition(replace(context.status, candidate=updated))
    if context.status.stable is None:
        return _first_revision(context, candidate, candidate.slot or free_slot(context.status))
    failure = failures.before_requests(context, candidate)
    if failure is not None:
        return hold.roll_back_or_hold(context, candidate, failure)
    if hold.is_waiting(context, candidate):
        return hold.waiting(context, candidate)
    obstacle = canary.why_not(context, candidate)
    if obstacle is not None:
        return obstacle
    none = rehearsal.why_none(context.model, context.status, context.observed)
    if none or context.lacks_stable(candidate):
        return canary.enter(context, candidate, none or f"{context.stable_label} has no ready pod")
    return validating.enter(context, candidate)


def _first_revision(context: Context, candidate: Candidate, slot: Slot | None) -> Decision:
    """Give the first revision all requests once it is ready: it has no stable to be compared with or to return to."""
    state = context.observed.revision(candidate.revision)
    if not state.ready or not state.address or slot is None:
        return Stay(why_not_ready(state.pods, context.obstacle))
    routed = replace(candidate, phase="Promoting", slot=slot, weight=100)
    return Transition(replace(context.status, candidate=routed))
