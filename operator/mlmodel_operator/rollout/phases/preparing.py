"""Preparing: the candidate's pods start and get no requests."""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Candidate, Slot
from mlmodel_operator.rollout import capacity, failures, hold
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.evidence.gather import first_evidence
from mlmodel_operator.rollout.phases import canary
from mlmodel_operator.rollout.pinning import pinned
from mlmodel_operator.rollout.pod_failures import why_not_ready
from mlmodel_operator.rollout.standing_in import free_slot
from mlmodel_operator.rollout.transition import PAUSED, Decision, Stay, Transition


def advance(context: Context, candidate: Candidate) -> Decision:
    """Start the first step as soon as enough pods are ready for it and the routers have confirmed the routes."""
    if (updated := pinned(candidate, context.observed)) != candidate:
        return Transition(replace(context.status, candidate=updated))
    slot = candidate.slot or free_slot(context.status)
    if context.status.stable is None:
        return _first_revision(context, candidate, slot)
    failure = failures.before_requests(context, candidate)
    if failure is not None:
        return hold.roll_back_or_hold(context, candidate, failure)
    if hold.is_waiting(context, candidate):
        return hold.waiting(context, candidate)
    state = context.observed.revision(candidate.revision)
    first = context.rollout.steps[0].weight
    if state.ready < capacity.for_weight(first, context.full_capacity):
        return Stay(why_not_ready(state.pods, context.obstacle))
    if context.rollout.paused:
        return Stay(f"the pods are ready; {PAUSED}")
    if slot is None:
        return Stay("the pods are ready; another revision must drain first")
    if not state.address:
        return Stay("the pods are ready; the Service of the revision has no address yet")
    if not context.is_confirmed or not all(router.routes for router in context.observed.routers):
        return Stay(f"the pods are ready; {context.why_unconfirmed}")
    if candidate.revision in context.observed.silent_services:
        return Stay("the pods are ready; the Service of the revision does not answer yet")
    # What stable took is not its normal while it has no ready pod.
    stable_ms = 0 if context.lacks_stable(candidate) else hold.slowest_stable(context)
    entered = replace(
        candidate,
        phase="Canary",
        slot=slot,
        weight=first,
        since=Time(context.now),
        step=1,
        attempt_limit_ms=context.attempt_limit_ms(stable_ms),
        stable_ms=stable_ms,
        # The routers are read before the first request, so that earlier requests do not count as evidence.
        evidence=first_evidence(context.observed, candidate, context.now),
    )
    return Transition(replace(context.status, candidate=entered), (canary.step_notice(context, entered),))


def _first_revision(context: Context, candidate: Candidate, slot: Slot | None) -> Decision:
    """Give the first revision all requests once it is ready: it has no stable to be compared with or to return to."""
    state = context.observed.revision(candidate.revision)
    if not state.ready or not state.address or slot is None:
        return Stay(why_not_ready(state.pods, context.obstacle))
    routed = replace(candidate, phase="Promoting", slot=slot, weight=100)
    return Transition(replace(context.status, candidate=routed))
