"""Preparing: the candidate's pods start, and get no request."""

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
from mlmodel_operator.rollout.transition import Decision, Stay, Transition


def advance(context: Context, candidate: Candidate) -> Decision:
    """Enter the canary at the first step, as soon as enough pods are ready for it and the routers follow."""
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
        return Stay("its pods are ready; it waits for spec.rollout.paused to become false")
    if slot is None:
        return Stay("its pods are ready; it waits until another revision has drained")
    if not state.address:
        return Stay("its pods are ready; its Service has no address yet")
    if not context.is_confirmed:
        return Stay("its pods are ready; it waits for the routers")
    entered = replace(
        candidate, phase="Canary", slot=slot, weight=first, since=Time(context.now), step=1, evidence=Evidence()
    )
    # Every counter is read once before the first request comes, so that older counts are not taken for evidence.
    evidence = fresh_evidence(context.model, context.observed, replace(context.status, candidate=entered))
    entered = replace(entered, evidence=evidence)
    return Transition(replace(context.status, candidate=entered), (canary.step_notice(context, entered),))


def _first_revision(context: Context, candidate: Candidate, slot: Slot | None) -> Decision:
    """The first revision is not measured: it has no stable to compare it with or to go back to."""
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
