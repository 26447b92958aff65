"""Canary: the candidate gets the share of its step, until the next one is proven safe or it fails."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from mlmodel_operator.api.evidence import Evidence
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Candidate
from mlmodel_operator.rollout import capacity, endings, failures
from mlmodel_operator.rollout.context import STABLE_DOWN_SECONDS, Context
from mlmodel_operator.rollout.evidence import errors
from mlmodel_operator.rollout.evidence.gather import begin_step, step_requests
from mlmodel_operator.rollout.phases import baking
from mlmodel_operator.rollout.plan import Notice
from mlmodel_operator.rollout.pod_failures import Failure
from mlmodel_operator.rollout.steps import Target, next_target, number, step_at
from mlmodel_operator.rollout.transition import Decision, Stay, Transition


def advance(context: Context, candidate: Candidate) -> Decision:
    """Roll back, wait, or take the next step."""
    failure = failures.with_requests(context, candidate)
    if failure is not None:
        return endings.roll_back(context, candidate, failure)
    if context.rollout.paused:
        return Stay("it waits for spec.rollout.paused to become false")
    if not context.is_confirmed:
        return Stay("it waits for the routers")
    if context.stable_is_down(candidate):
        return _take_over(context, candidate)
    evidence = context.evidence or Evidence()
    step = step_at(context.rollout.steps, candidate.weight)
    target = next_target(context.rollout, candidate.weight, evidence)
    if context.now - candidate.since < step.min_seconds:
        return Stay(f"this step takes at least {step.min_seconds} s")
    if errors.certified(evidence.candidate, target.limit) and step_requests(evidence) >= step.min_requests:
        return _next_step(context, candidate, target, evidence)
    return _without_proof(context, candidate, target, evidence)


def _without_proof(context: Context, candidate: Candidate, target: Target, evidence: Evidence) -> Decision:
    """The evidence does not suffice: wait for more, or do what the spec says about a step that takes too long."""
    rollout = context.rollout
    if context.now - candidate.since < rollout.max_seconds:
        return Stay("it needs more evidence")
    match rollout.on_no_evidence:
        case "Hold":
            return Stay(f"no verdict within {rollout.max_seconds} s", Reason.INSUFFICIENT_EVIDENCE)
        case "RollBack":
            failure = Failure(
                Reason.NO_EVIDENCE,
                f"no verdict within {rollout.max_seconds} s at {candidate.weight} % of the requests, after"
                f" {evidence.candidate.requests} of them",
            )
            return endings.roll_back(context, candidate, failure)
        case "Promote":
            return _next_step(context, candidate, target, evidence)
        case other:
            assert_never(other)


def _next_step(context: Context, candidate: Candidate, target: Target, evidence: Evidence) -> Decision:
    """Raise the weight if enough pods are ready for it; after the last step, grow to full capacity first."""
    if target.weight == 100:
        promoting = replace(candidate, phase="Promoting", since=Time(context.now), evidence=evidence)
        notice = Notice(
            "Normal",
            Reason.PROMOTING,
            f"{candidate.version} has passed all steps ({errors.figures(evidence.candidate)}); it gets all requests"
            f" when {context.full_capacity} of its pods are ready",
        )
        return Transition(replace(context.status, candidate=promoting), (notice,))
    needed = capacity.for_weight(target.weight, context.full_capacity)
    if context.ready(candidate) < needed:
        return Stay(f"the next step needs {needed} ready pods")
    stepped = replace(
        candidate,
        weight=target.weight,
        since=Time(context.now),
        step=number(context.rollout.steps, target.weight),
        steps=len(context.rollout.steps),
        evidence=begin_step(evidence),
        observed_percent=None,
    )
    return Transition(replace(context.status, candidate=stepped), (step_notice(context, stepped),))


def _take_over(context: Context, candidate: Candidate) -> Transition:
    """A candidate that answers is better than a stable that does not."""
    notice = Notice(
        "Warning",
        Reason.STABLE_DOWN,
        f"{candidate.version} takes all requests: {context.stable_label} has had no ready pod for"
        f" {STABLE_DOWN_SECONDS:g} s",
    )
    return baking.enter(context, candidate, notice)


def step_notice(context: Context, candidate: Candidate) -> Notice:
    """Report the weight that the candidate has got, and what the next step requires."""
    target = next_target(context.rollout, candidate.weight, candidate.evidence or Evidence())
    return Notice(
        "Normal",
        Reason.CANARY_STEP,
        f"{candidate.version} gets {candidate.weight} % of the requests, {context.stable_label} the rest;"
        f" {target.weight} % once proven to fail less than {100 * target.limit:.2g} %",
    )
