"""The rollout: one pure function from what is desired, observed and remembered to what is to be done.

Each call takes at most one transition of the candidate. A transition is written to status before the next one is
considered, and every effect of a plan can be repeated, so the operator may be killed between any two writes.

```
Preparing ──capacity ready──▶ Canary ──certified──▶ Canary … ──certified for all──▶ Promoting ──full capacity──▶ Baking
    │                           │                                                       │                          │
    └────── failed · superseded · reverted ──▶ draining (RollingBack, Draining) ◀───────┴──────────────────────────┤
                                                   ▲                                                               │
                                                   └────────── the stable before, when the new one has baked ◀─────┘
```
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from mlmodel_operator.api.status import Candidate, Status
from mlmodel_operator.api.types import MLModel
from mlmodel_operator.rollout import endings
from mlmodel_operator.rollout.checkpoint import checkpoint, stamped
from mlmodel_operator.rollout.context import Context, context_of
from mlmodel_operator.rollout.draining import drain
from mlmodel_operator.rollout.observed import Observed
from mlmodel_operator.rollout.phases import baking, canary, preparing, promoting, starting
from mlmodel_operator.rollout.plan import Notice, Plan
from mlmodel_operator.rollout.replicas import count_replicas, desired_revisions
from mlmodel_operator.rollout.report import report
from mlmodel_operator.rollout.requeue import requeue_after
from mlmodel_operator.rollout.routes import routes_for
from mlmodel_operator.rollout.transition import Decision, Stay, Transition


def decide(model: MLModel, observed: Observed, status: Status, image: str, now: float) -> Plan:
    """Return the next state and what to do for it.

    ``image`` is the server image that a new revision gets; ``now`` is in seconds since the epoch.
    """
    context = context_of(model, observed, status, image, now)
    decision = _decision(context)
    notices: tuple[Notice, ...] = ()
    match decision:
        case Stay():
            state = checkpoint(context)
        case Transition():
            state, notices = stamped(decision.status, now), decision.notices
        case other:
            assert_never(other)
    state, deletes = drain(context, state)
    state = count_replicas(context, state)
    if context.is_confirmed and context.routes is not None:
        state = replace(state, routes=context.routes.id())
    state = report(context, state, decision)
    routes = routes_for(state, observed)
    return Plan(
        desired=desired_revisions(context, state),
        routes=routes,
        status=state,
        deletes=deletes,
        notices=notices,
        requeue_after=requeue_after(context, state, routes),
    )


def _decision(context: Context) -> Decision:
    candidate = context.status.candidate
    if candidate is None:
        return starting.advance(context)
    if _is_unwanted(context, candidate):
        if not context.serves_alone(candidate):
            return endings.withdraw(context, candidate)
        if candidate.phase == "Baking" and not _is_reverted(context):
            # It alone answers all requests: the third revision is compared with it, not with a stable that is down.
            return endings.promote(context, candidate)
        # Nothing else answers: it goes on until it has all requests, or until stable is back.
    return _advance(context, candidate)


def _advance(context: Context, candidate: Candidate) -> Decision:
    """The table of phases."""
    match candidate.phase:
        case "Preparing":
            return preparing.advance(context, candidate)
        case "Canary":
            return canary.advance(context, candidate)
        case "Promoting":
            return promoting.advance(context, candidate)
        case "Baking":
            return baking.advance(context, candidate)
        case other:
            assert_never(other)


def _is_unwanted(context: Context, candidate: Candidate) -> bool:
    """Whether the spec desires another revision, or this one may not be served; a first revision whose routes are on
    their way becomes stable before anything replaces it."""
    becomes_stable = context.status.stable is None and candidate.slot is not None
    return not becomes_stable and (candidate.revision != context.desired.id or bool(context.observed.denied))


def _is_reverted(context: Context) -> bool:
    """Whether the spec desires the stable revision."""
    return context.status.stable is not None and context.status.stable.revision == context.desired.id
