"""When the candidate gets all requests because stable cannot answer any: a repair, and no step of the rollout.

The candidate keeps its phase, its weight and its evidence, so it becomes stable only by the proof that any candidate
needs, or without it if stable stays down and the spec asks for another revision (succession.py). When stable answers
again, the routes return to the weight of the step. This happens also while the rollout is paused, and before the
candidate's first step. A rejected revision is not a candidate, so it never stands in.
"""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import SLOTS, Candidate, Slot, Status
from mlmodel_operator.rollout.context import STABLE_DOWN_SECONDS, Context
from mlmodel_operator.rollout.obstacles import SILENT_SECONDS
from mlmodel_operator.rollout.plan import Notice


def stand_in(context: Context, state: Status) -> tuple[Status, tuple[Notice, ...]]:
    """Return ``state`` with the candidate in place of stable, or with stable in its place again, and what to report."""
    stable, candidate = state.stable, state.candidate
    if stable is None or candidate is None:
        return state, ()
    if candidate.stands_in_since is not None:
        if not _answers(context, stable.revision):
            return state, ()
        limit = context.attempt_limit_ms(candidate.stable_ms)
        returned = replace(candidate, stands_in_since=None, attempt_limit_ms=limit)
        message = f"{stable.version} answers again: {shares(stable.version, returned)}"
        return replace(state, candidate=returned), (Notice("Normal", Reason.STABLE_BACK, message),)
    slot = candidate.slot or free_slot(state)
    if (
        slot is None
        or not context.is_stable_down(candidate)
        or not context.observed.revision(candidate.revision).address
    ):
        return state, ()
    standing = replace(
        candidate,
        slot=slot,
        stands_in_since=Time(context.now),
        # Nothing is left to retry on.
        attempt_limit_ms=context.attempt_limit_ms(0),
    )
    notice = Notice(
        "Warning",
        Reason.STABLE_DOWN,
        f"{candidate.version} gets all requests: {stable.version} has had no ready pod for {STABLE_DOWN_SECONDS:g} s",
    )
    return replace(state, candidate=standing), (notice,)


def shares(stable: str, candidate: Candidate) -> str:
    """Return which version gets which share of the requests, as a clause for messages."""
    if candidate.stands_in_since is not None:
        return f"{candidate.version} gets all requests, because {stable} has no ready pod"
    if candidate.weight == 0:
        return f"{stable} gets all requests"
    return f"{candidate.version} gets {candidate.weight} % of the requests, {stable} the rest"


def _answers(context: Context, stable: str) -> bool:
    """Whether stable has a ready pod and its Service answers; an operator that cannot reach it stops waiting."""
    if not context.observed.revision(stable).ready:
        return False
    since = context.observed.silent_services.get(stable)
    return since is None or context.now >= since + SILENT_SECONDS


def free_slot(status: Status) -> Slot | None:
    """Return a router slot that no revision uses; None if one must drain first."""
    taken = {item.slot for item in status.draining}
    if status.stable is not None:
        taken.add(status.stable.slot)
    return next((slot for slot in SLOTS if slot not in taken), None)
