"""When to decide again though nothing is seen to change."""

from __future__ import annotations

from mlmodel_operator.api.status import Status
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.phases.starting import is_settled
from mlmodel_operator.rollout.routes import Routes

POLL_SECONDS = 1.0
"""While a rollout is on: counters change without an event."""
QUICK_POLL_SECONDS = 0.25
"""While routers have to confirm, or the address has to answer."""
SLOW_POLL_SECONDS = 5.0
"""While pods start that have not been ready for ``SLOW_START_SECONDS``."""
SLOW_START_SECONDS = 60.0


def requeue_after(context: Context, state: Status, routes: Routes | None) -> float | None:
    """Return the seconds until the next decision is due; None if only a change can lead to one."""
    waits = []
    if state.candidate is None and not is_settled(context, state):
        # The next rollout begins at the next decision, and our own write of status triggers none.
        waits.append(QUICK_POLL_SECONDS)
    if state.candidate is not None:
        is_slow = context.now > state.candidate.started_at + SLOW_START_SECONDS
        waits.append(SLOW_POLL_SECONDS if state.candidate.phase == "Preparing" and is_slow else POLL_SECONDS)
    if routes is not None and routes.stable is not None and routes.id() != state.routes:
        waits.append(QUICK_POLL_SECONDS)
    if not context.observed.reachable:
        waits.append(QUICK_POLL_SECONDS)
    for item in state.draining:
        waits.append(QUICK_POLL_SECONDS if item.until is None else max(item.until - context.now, POLL_SECONDS))
    return min(waits, default=None)
