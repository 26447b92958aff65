"""Promoting: the candidate has passed all steps and scales to the full number of pods."""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.status import Candidate
from mlmodel_operator.rollout import endings, failures, hold
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.phases import baking
from mlmodel_operator.rollout.plan import Notice
from mlmodel_operator.rollout.transition import PAUSED, Decision, Stay, Transition


def advance(context: Context, candidate: Candidate) -> Decision:
    """Roll back, wait, or give the candidate all requests."""
    if context.status.stable is None:
        return _first_revision(context, candidate)
    failure = failures.with_requests(context, candidate)
    if failure is not None:
        return hold.roll_back_or_hold(context, candidate, failure)
    if context.rollout.paused:
        return Stay(PAUSED)
    if not context.is_confirmed:
        return Stay(context.why_unconfirmed)
    if context.ready(candidate) < context.full_capacity and not context.is_stable_down(candidate):
        return Stay()
    notice = Notice(
        "Normal",
        Reason.BAKING,
        f"{candidate.version} gets all requests; {context.stable_label} keeps its pods for"
        f" {context.rollout.bake_seconds} s",
    )
    return baking.enter(context, candidate, notice)


def _first_revision(context: Context, candidate: Candidate) -> Decision:
    """Make the first revision stable once the routers have confirmed the routes to it."""
    if not context.is_confirmed:
        return Stay(context.why_unconfirmed)
    notice = Notice("Normal", Reason.SERVING, f"{candidate.version} ({candidate.revision}) serves all requests")
    return Transition(replace(context.status, stable=endings.as_stable(candidate), candidate=None), (notice,))
