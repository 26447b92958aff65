"""Baking: the candidate gets all requests, and stable keeps its pods for a rollback."""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.evidence import Evidence
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Candidate
from mlmodel_operator.rollout import endings, failures, hold
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.plan import Notice
from mlmodel_operator.rollout.transition import Decision, Stay, Transition


def enter(context: Context, candidate: Candidate, notice: Notice) -> Transition:
    """Give the candidate all requests."""
    entered = replace(
        candidate,
        phase="Baking",
        weight=100,
        since=Time(context.now),
        evidence=context.evidence or Evidence(),
        observed_percent=None,
    )
    return Transition(replace(context.status, candidate=entered), (notice,))


def advance(context: Context, candidate: Candidate) -> Decision:
    """Roll back, wait, or promote after bakeSeconds."""
    failure = failures.with_requests(context, candidate)
    if failure is not None:
        return hold.roll_back_or_hold(context, candidate, failure)
    if context.now < candidate.since + context.rollout.bake_seconds:
        return Stay(f"{context.stable_label} keeps its pods for {context.rollout.bake_seconds} s")
    if not context.is_confirmed:
        return Stay(context.why_unconfirmed)
    if context.ready(candidate) < context.full_capacity:
        return Stay(f"ready pods required: {context.full_capacity}")
    return endings.promote(context, candidate)
