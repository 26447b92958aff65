"""When to requeue a model although the store does not change.

All that a decision reads from the cluster arrives as an event. The rest is polled or comes at a known time: counters of
the routers while a candidate gets requests, addresses that do not answer yet, and time limits.
"""

from __future__ import annotations

from collections.abc import Iterator

from mlmodel_operator.api.status import Candidate, Status
from mlmodel_operator.rollout import hold
from mlmodel_operator.rollout.context import STABLE_DOWN_SECONDS, Context
from mlmodel_operator.rollout.obstacles import SILENT_SECONDS, has_secrets, next_look
from mlmodel_operator.rollout.phases.starting import is_settled
from mlmodel_operator.rollout.pinning import awaits_files
from mlmodel_operator.rollout.routes import Routes, weight_of

POLL_SECONDS = 1.0
"""While a candidate gets requests: counters change without an event."""
QUICK_POLL_SECONDS = 0.25
"""Until all routers have confirmed the routes, and the addresses answer."""
SLOW_POLL_SECONDS = 5.0
"""Until an address answers that has been silent for ``SILENT_SECONDS``, a router that has been behind for as long
follows its routes, or a ConfigMap exists."""
STALLED_POLL_SECONDS = 60.0
"""For the ConfigMap of a first revision, after ``preparingDeadlineSeconds``."""
SECRETS_POLL_SECONDS = 60.0
"""For routers that read a certificate or API keys, which change without an event that the operator may see."""
_MIN_SECONDS = 0.05
"""Wait for a time that has almost come: times are floats."""


def requeue_after(context: Context, state: Status, routes: Routes | None, *, is_transition: bool) -> float | None:
    """Return the seconds after which to requeue the model; None if only a change requeues it.

    ``is_transition`` is whether the decision changed the phase: our own write of status does not requeue the model.
    """
    waits = [*_polls(context, state, routes)]
    waits += [max(at - context.now, _MIN_SECONDS) for at in _times(context, state) if at > context.now]
    if is_transition or (state.candidate is None and not is_settled(context, state)):
        waits.append(QUICK_POLL_SECONDS)
    return min(waits, default=None)


def _polls(context: Context, state: Status, routes: Routes | None) -> Iterator[float]:
    """Yield the times between looks at what changes without an event."""
    candidate, observed = state.candidate, context.observed
    has_requests = candidate is not None and (weight_of(candidate) > 0 or candidate.phase != "Preparing")
    if has_requests and state.stable is not None:
        yield POLL_SECONDS
    if has_secrets(context.model, state):
        yield SECRETS_POLL_SECONDS
    if candidate is not None and awaits_files(candidate, observed):
        yield _config_map_poll(context, candidate)
    is_unconfirmed = routes is not None and routes.stable is not None and routes.id() != state.routes
    is_draining = any(item.until is None for item in state.draining)
    is_unread = candidate is not None and context.ready(candidate) > 0 and not all(r.routes for r in observed.routers)
    if observed.routers and (is_unconfirmed or is_draining or is_unread):
        yield _until_answered(context, [router.silent_since or router.behind_since for router in observed.routers])
    if not observed.reachable:
        yield _until_answered(context, [observed.unreachable_since])
    if observed.silent_services:
        yield _until_answered(context, list(observed.silent_services.values()))


def _until_answered(context: Context, silent: list[float | None]) -> float:
    is_silent = any(since is not None and context.now >= since + SILENT_SECONDS for since in silent)
    return SLOW_POLL_SECONDS if is_silent else QUICK_POLL_SECONDS


def _config_map_poll(context: Context, candidate: Candidate) -> float:
    """Return when to read the ConfigMap. No event reports that one exists which did not."""
    if not context.observed.missing_config_map and not context.observed.config_map_error:
        return QUICK_POLL_SECONDS
    is_late = context.now >= candidate.started_at + context.rollout.preparing_deadline_seconds
    return STALLED_POLL_SECONDS if is_late else SLOW_POLL_SECONDS


def _times(context: Context, state: Status) -> Iterator[float]:
    """Yield the times at which a decision may change."""
    candidate, deadline = state.candidate, context.rollout.preparing_deadline_seconds
    is_stalled = any(item.type == "Stalled" and item.status == "True" for item in state.conditions)
    if candidate is not None and candidate.phase == "Preparing" and not (state.stable is None and is_stalled):
        # A first revision is not rejected; only its conditions become stalled.
        resumes = hold.resumes_at(context, candidate)
        yield from () if resumes is None else (resumes, resumes + deadline)
    if candidate is not None and candidate.stable_down_since is not None:
        yield candidate.stable_down_since + STABLE_DOWN_SECONDS
    look = next_look(context.model, state, context.observed, context.now)
    if look is not None:
        yield look
    for item in state.draining:
        if item.until is not None:
            # Once it has come, the objects are deleted until their deletion is observed.
            yield max(item.until, context.now + POLL_SECONDS)
