"""When to requeue a model although the store does not change."""

from __future__ import annotations

from mlmodel_operator.api.status import Candidate, Status
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.phases.starting import is_settled
from mlmodel_operator.rollout.pinning import awaits_files
from mlmodel_operator.rollout.routes import Routes

POLL_SECONDS = 1.0
"""During a rollout: counters change without an event."""
QUICK_POLL_SECONDS = 0.25
"""Until all routers have confirmed the routes, and the address answers."""
SLOW_POLL_SECONDS = 5.0
"""While pods start, after ``SLOW_START_SECONDS``."""
SLOW_START_SECONDS = 60.0
STALLED_POLL_SECONDS = 60.0
"""For the ConfigMap of a first revision, after ``preparingDeadlineSeconds``."""


def requeue_after(context: Context, state: Status, routes: Routes | None) -> float | None:
    """Return the seconds after which to requeue the model; None if only a change requeues it."""
    waits = []
    if state.candidate is None and not is_settled(context, state):
        # The next rollout starts with the next decision, and our own write of status does not requeue the model.
        waits.append(QUICK_POLL_SECONDS)
    if state.candidate is not None:
        waits.append(_rollout_poll(context, state.candidate))
    if routes is not None and routes.stable is not None and routes.id() != state.routes:
        waits.append(QUICK_POLL_SECONDS)
    if not context.observed.reachable:
        waits.append(QUICK_POLL_SECONDS)
    for item in state.draining:
        waits.append(QUICK_POLL_SECONDS if item.until is None else max(item.until - context.now, POLL_SECONDS))
    return min(waits, default=None)


def _rollout_poll(context: Context, candidate: Candidate) -> float:
    observed = context.observed
    if awaits_files(candidate, observed):
        # The next decision reads the ConfigMap. No event reports that one exists which did not.
        if not observed.config_map_missing and not observed.config_map_error:
            return QUICK_POLL_SECONDS
        is_late = context.now >= candidate.started_at + context.rollout.preparing_deadline_seconds
        return STALLED_POLL_SECONDS if is_late else SLOW_POLL_SECONDS
    is_slow = context.now > candidate.started_at + SLOW_START_SECONDS
    return SLOW_POLL_SECONDS if candidate.phase == "Preparing" and is_slow else POLL_SECONDS
