"""Preparing: the candidate's pods start and get no requests."""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.evidence import Evidence
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Candidate, Slot, Status
from mlmodel_operator.rollout import capacity, endings, failures
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.evidence.gather import fresh_evidence
from mlmodel_operator.rollout.phases import canary
from mlmodel_operator.rollout.pod_failures import why_not_ready
from mlmodel_operator.rollout.transition import NOT_CONFIRMED, PAUSED, Decision, Stay, Transition


def advance(context: Context, candidate: Candidate) -> Decision:
    """Start the first step as soon as enough pods are ready for it and the routers have confirmed the routes."""
    slot = _free_slot(context.status)
    if context.status.stable is None:
        return _first_revision(context, candidate, slot)
    failure = failures.before_requests(context, candidate)
    if failure is not None:
        return endings.roll_back(context, candidate, failure)
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
    if not context.is_confirmed:
        return Stay(f"the pods are ready; {NOT_CONFIRMED}")
    entered = replace(
        candidate, phase="Canary", slot=slot, weight=first, since=Time(context.now), step=1, evidence=Evidence()
    )
    # Every counter is read before the first request, so that earlier requests do not count as evidence.
    evidence = fresh_evidence(context.model, context.observed, replace(context.status, candidate=entered))
    entered = replace(entered, evidence=evidence)
    return Transition(replace(context.status, candidate=entered), (canary.step_notice(context, entered),))


def _first_revision(context: Context, candidate: Candidate, slot: Slot | None) -> Decision:
    """Give the first revision all requests once it is ready: it has no stable to be compared with or to return to."""
    state = context.observed.revision(candidate.revision)
    if not state.ready or not state.address or slot is None:
        return Stay(why_not_ready(state.pods, context.obstacle))
    routed = replace(candidate, phase="Promoting", slot=slot, weight=100)
    return Transition(replace(context.status, candidate=routed))


def _free_slot(status: Status) -> Slot | None:
    taken = {item.slot for item in status.draining}
    if status.stable is not None:
        taken.add(status.stable.slot)
    slots: tuple[Slot, ...] = ("a", "b")
    return next((slot for slot in slots if slot not in taken), None)
