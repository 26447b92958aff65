"""When a candidate that stands in for stable becomes stable without proof, so that the next revision can be rolled out.

A rollout compares two revisions, so a third one waits for the candidate's end. A candidate without requests never gets
its proof, and while stable is down it is not withdrawn: a stable that is down for good would block every correction.
"""

from __future__ import annotations

from mlmodel_operator.api.status import Candidate, rejection
from mlmodel_operator.rollout import failures
from mlmodel_operator.rollout.context import Context


def is_due(context: Context, candidate: Candidate) -> bool:
    """Whether stable has been down for ``preparingDeadlineSeconds`` while the next revision waits."""
    since = candidate.stable_down_since
    return (
        since is not None
        and context.now >= since + context.rollout.preparing_deadline_seconds
        and _has_successor(context, candidate)
        and _is_eligible(context, candidate)
        and not context.rollout.paused
        and context.is_confirmed
    )


def why(context: Context) -> str:
    """Return why the candidate becomes stable, as a clause for messages."""
    deadline = context.rollout.preparing_deadline_seconds
    return (
        f"without proof: {context.stable_label} has had no ready pod for {deadline} s and the spec asks for"
        f" {context.desired.label}"
    )


def waiting(context: Context, candidate: Candidate) -> str:
    """Return what the next revision waits for, as a sentence for messages without the full stop; empty if none
    waits."""
    if not _has_successor(context, candidate):
        return ""
    successor, stable = context.desired.label, context.stable_label
    if not _is_eligible(context, candidate):
        return f"{successor} waits for a ready pod of {stable}"
    deadline = context.rollout.preparing_deadline_seconds
    paused = " and the rollout is not paused" if context.rollout.paused else ""
    return (
        f"{successor} waits until {stable} has a ready pod, or {candidate.version} is proven, or {stable} has had no"
        f" ready pod for {deadline} s{paused}"
    )


def _has_successor(context: Context, candidate: Candidate) -> bool:
    """Whether the spec asks for a third revision that may be rolled out, while the candidate stands in."""
    stable, desired = context.status.stable, context.desired.id
    return (
        stable is not None
        and candidate.stands_in_since is not None
        and context.serves_alone(candidate)
        and desired not in (stable.revision, candidate.revision)
        and not context.observed.denied
        and rejection(context.status, desired, context.rollout.retry) is None
    )


def _is_eligible(context: Context, candidate: Candidate) -> bool:
    """Whether nothing speaks against the candidate: it was never rejected, and no verdict waits for stable."""
    was_rejected = any(item.revision == candidate.revision for item in context.status.rejected)
    return not was_rejected and failures.with_requests(context, candidate) is None
