"""Canary: the candidate gets the weight of its step until it has the proof for the next one, or fails."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from mlmodel_operator.api.evidence import Evidence
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Candidate, Slot
from mlmodel_operator.rollout import approval, capacity, endings, failures, hold, proof
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.evidence import chain, errors
from mlmodel_operator.rollout.evidence.gather import after_rehearsal, first_evidence, step_requests
from mlmodel_operator.rollout.plan import Notice
from mlmodel_operator.rollout.pod_failures import Failure, why_not_ready
from mlmodel_operator.rollout.routes import weight_of
from mlmodel_operator.rollout.standing_in import free_slot, shares
from mlmodel_operator.rollout.steps import Target, needs_proof, next_target, number, step_at
from mlmodel_operator.rollout.transition import PAUSED, Decision, Stay, Transition


def why_not(context: Context, candidate: Candidate) -> Stay | None:
    """Return what a candidate waits for before the routers may send it its first request; None for nothing."""
    state = context.observed.revision(candidate.revision)
    if state.ready < capacity.for_weight(context.rollout.steps[0].weight, context.full_capacity):
        return Stay(why_not_ready(state.pods, context.obstacle))
    if context.rollout.paused:
        return Stay(f"the pods are ready; {PAUSED}")
    if _slot(context, candidate) is None:
        return Stay("the pods are ready; another revision must drain first")
    if not state.address:
        return Stay("the pods are ready; the Service of the revision has no address yet")
    if not context.is_confirmed or not all(router.routes for router in context.observed.routers):
        return Stay(f"the pods are ready; {context.why_unconfirmed}")
    if candidate.revision in context.observed.silent_services:
        return Stay("the pods are ready; the Service of the revision does not answer yet")
    return None


def enter(context: Context, candidate: Candidate, without_rehearsal: str = "") -> Transition:
    """Give the candidate the weight of the first step; ``without_rehearsal`` says why its rehearsal is not whole, as a
    clause for messages."""
    before, now = context.evidence, context.now
    # What stable took is not its normal while it has no ready pod, and during a rehearsal not certainly.
    stable_ms = 0 if context.lacks_stable(candidate) else hold.slowest_stable(context)
    if candidate.phase == "Validating":
        stable_ms = min(stable_ms, candidate.stable_ms or stable_ms)
    entered = replace(
        candidate,
        phase="Canary",
        slot=_slot(context, candidate),
        weight=context.rollout.steps[0].weight,
        since=Time(now),
        step=1,
        attempt_limit_ms=context.attempt_limit_ms(stable_ms),
        stable_ms=stable_ms,
        # The routers are read before the first request, so that earlier requests do not count as evidence.
        evidence=first_evidence(context.observed, candidate, now)
        if before is None
        else after_rehearsal(before, context.observed, candidate, now),
    )
    notice = step_notice(context, entered)
    if before is not None:
        notice = replace(notice, message=f"{notice.message}. {_rehearsed(context, candidate, before)}")
    if without_rehearsal:
        what = "The rehearsal ended early" if before is not None else "No rehearsal"
        notice = replace(notice, message=f"{notice.message}. {what}: {without_rehearsal}")
    return Transition(replace(context.status, candidate=entered), (notice,))


def _slot(context: Context, candidate: Candidate) -> Slot | None:
    return candidate.slot or free_slot(context.status)


def _rehearsed(context: Context, candidate: Candidate, evidence: Evidence) -> str:
    return chain.summary_of(evidence, stable=context.stable_label, candidate=candidate.version)


def advance(context: Context, candidate: Candidate) -> Decision:
    """Roll back, wait, or take the next step."""
    failure = failures.with_requests(context, candidate)
    if failure is not None:
        return hold.roll_back_or_hold(context, candidate, failure)
    if context.rollout.paused:
        return Stay(PAUSED)
    if not context.is_confirmed:
        return Stay(context.why_unconfirmed)
    evidence = context.evidence or Evidence()
    step = step_at(context.rollout.steps, candidate.weight)
    target = next_target(context.rollout, candidate.weight)
    approve = approval.missing(context, candidate)
    if context.now - candidate.since < step.min_seconds:
        return Stay(_and(f"this step lasts at least {step.min_seconds} s", approve))
    if not proof.is_proven(evidence, candidate.weight, target):
        return _without_proof(context, candidate, target, evidence)
    if step_requests(evidence, weight_of(candidate)) < step.min_requests:
        return _without_proof(context, candidate, target, evidence, f"this step requires {step.min_requests} requests")
    if proof.awaits_requests(context, candidate, target):
        few = f"{proof.LIVE_REQUESTS} requests to {candidate.version}, at most {proof.LIVE_SECONDS:g} s"
        return Stay(_and(f"the step waits for {few}", approve))
    if approve:
        return Stay(approve, Reason.AWAITING_APPROVAL)
    return _next_step(context, candidate, target, evidence)


def _and(why: str, more: str) -> str:
    return "; ".join(clause for clause in (why, more) if clause)


def _without_proof(
    context: Context, candidate: Candidate, target: Target, evidence: Evidence, why: str = ""
) -> Decision:
    """Wait for more requests, or apply onNoEvidence if the step has lasted maxSeconds."""
    rollout, approve, seconds = context.rollout, approval.missing(context, candidate), context.now - candidate.since
    if proof.is_idle(context, candidate):
        if seconds < proof.SHORT_SECONDS:
            return Stay(_and("no request came", approve))
        if approve:
            return Stay(approve, Reason.AWAITING_APPROVAL)
        return _next_step(context, replace(candidate, unproven=Reason.NO_TRAFFIC), target, evidence)
    if seconds < rollout.max_seconds:
        return Stay(_and(why, approve))
    no_verdict = f"no verdict within {rollout.max_seconds} s"
    match rollout.on_no_evidence:
        case "Hold" | "Proceed":
            return Stay(_and(no_verdict, approve), Reason.INSUFFICIENT_EVIDENCE)
        case "RollBack":
            failure = Failure(Reason.NO_EVIDENCE, f"{no_verdict} ({errors.figures(evidence.candidate)})")
            return endings.roll_back(context, candidate, failure)
        case "Promote":
            if approve:
                return Stay(approve, Reason.AWAITING_APPROVAL)
            return _next_step(context, replace(candidate, unproven=Reason.NO_EVIDENCE), target, evidence)
        case other:
            assert_never(other)


def _next_step(context: Context, candidate: Candidate, target: Target, evidence: Evidence) -> Decision:
    """Raise the weight if enough pods are ready for it; after the last step, scale to full capacity first."""
    if target.weight == 100:
        approvals = approval.recorded(context, candidate)
        promoting = replace(
            candidate, phase="Promoting", since=Time(context.now), approvals=approvals, evidence=evidence
        )
        notice = Notice(
            "Normal",
            Reason.PROMOTING,
            f"{candidate.version} {endings.how_passed(candidate)}: {errors.figures(evidence.candidate)}. Next: 100 %"
            f" with all pods ready ({context.ready(candidate)} of {context.full_capacity})",
        )
        return Transition(replace(context.status, candidate=promoting), (notice,))
    required = capacity.for_weight(target.weight, context.full_capacity)
    if context.ready(candidate) < required:
        return Stay(f"ready pods required: {required}")
    stepped = replace(
        candidate,
        weight=target.weight,
        since=Time(context.now),
        step=number(context.rollout.steps, target.weight),
        steps=len(context.rollout.steps),
        approvals=approval.recorded(context, candidate),
        evidence=evidence,
        observed_percent=None,
    )
    return Transition(replace(context.status, candidate=stepped), (step_notice(context, stepped),))


def step_notice(context: Context, candidate: Candidate) -> Notice:
    """Return the Event about the candidate's weight, and what the next step requires."""
    target = next_target(context.rollout, candidate.weight)
    how = f", {endings.without_proof(candidate)}" if candidate.unproven else ""
    requests, following = shares(context.stable_label, candidate), f"Next: {target.weight} %"
    if needs_proof(candidate.weight, target):
        following += (
            f" once {candidate.version} is proven to fail at most {100 * target.limit:.2g} percentage points more than"
            f" {context.stable_label}"
        )
    step = step_at(context.rollout.steps, candidate.weight)
    if step.pause:
        following += f"{' and' if 'once' in following else ' once'} somebody has approved it"
    return Notice("Normal", Reason.CANARY_STEP, f"{requests}{how}. {following}")
