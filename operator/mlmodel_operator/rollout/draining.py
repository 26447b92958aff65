"""Revisions that get no new request: when they are removed."""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Draining, Status
from mlmodel_operator.rollout.context import Context

DRAIN_SECONDS = 10.0
"""Time between the last router's confirmation that a revision gets no new request and its removal."""


def drain(context: Context, state: Status) -> tuple[Status, tuple[str, ...]]:
    """Return ``state`` with the revisions that still drain, and the revisions to delete.

    An entry stays until its revision no longer exists, so that a deletion is repeated after a crash.
    """
    draining: list[Draining] = []
    deletes = []
    for item in state.draining:
        if item.until is None and context.is_confirmed and item in context.status.draining:
            # The confirmed routes already lack this revision: its time starts now.
            item = replace(item, until=Time(context.now + DRAIN_SECONDS))
        if item.until is not None and context.now >= item.until:
            if item.revision not in context.observed.revisions:
                continue
            deletes.append(item.revision)
        draining.append(item)
    return replace(state, draining=(*draining, *_unknown(context, state, draining))), tuple(deletes)


def is_rolling_back(state: Status) -> bool:
    """Whether a router may still send requests to a candidate that was rolled back or withdrawn."""
    return any(item.until is None and item.outcome != "Promoted" for item in state.draining)


def _unknown(context: Context, state: Status, draining: list[Draining]) -> list[Draining]:
    """Return the revisions that exist and are not in status: an operator that is killed between two writes leaves them.

    Such a revision may have requests in flight, so it drains like any other.
    """
    known = {item.revision for item in draining}
    known |= {side.revision for side in (state.stable, state.candidate) if side is not None}
    return [Draining(name, "Superseded") for name in sorted(context.observed.revisions) if name not in known]
