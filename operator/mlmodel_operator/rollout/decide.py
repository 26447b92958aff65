"""The rollout: one pure function from the spec, the observed state, the status and the time to a plan.

Each call makes at most one transition of the candidate. The status with a transition is written before the next call,
and every effect of a plan can be repeated, so the operator may be killed between any two writes.

```
Preparing ──ready──▶ Validating ──rehearsed──▶ Canary ──proven──▶ Canary … ──proven for all──▶ Promoting ──▶ Baking
    │                    │                        │                                              │             │
    ▲                    │                        │ failed, and stable in trouble too: held      │             │
    ├────────────────────┴────────────────────────┴──────────────────────────────────────────────┴─────────────┤
    └────── failed · superseded · reverted ──▶ draining (RollingBack, Draining) ◀────────────────┴─────────────┤
                                                   ▲                                                           │
                                                   └───────────────── former stable, after baking ◀────────────┘
```
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from mlmodel_operator.api.status import Candidate, Status
from mlmodel_operator.api.types import MLModel
from mlmodel_operator.rollout import endings, hold, quality, rehearsal, succession
from mlmodel_operator.rollout.checkpoint import checkpoint, stamp
from mlmodel_operator.rollout.context import Context, context_of, sides_for
from mlmodel_operator.rollout.draining import drain
from mlmodel_operator.rollout.figures import with_figures
from mlmodel_operator.rollout.observed import Observed
from mlmodel_operator.rollout.phases import baking, canary, preparing, promoting, starting, validating
from mlmodel_operator.rollout.plan import Notice, Plan
from mlmodel_operator.rollout.replicas import count_replicas, desired_revisions
from mlmodel_operator.rollout.report import report, report_trouble
from mlmodel_operator.rollout.requeue import requeue_after
from mlmodel_operator.rollout.routes import routes_for
from mlmodel_operator.rollout.standing_in import stand_in
from mlmodel_operator.rollout.transition import Decision, Stay, Transition


def decide(model: MLModel, observed: Observed, status: Status, image: str, now: float) -> Plan:
    """Return the next status and what to do for it.

    ``image`` is the server image for a new revision; ``now`` is in seconds since the epoch.
    """
    context = context_of(model, observed, status, image, now)
    decision = _decision(context)
    notices: tuple[Notice, ...] = ()
    match decision:
        case Stay():
            state = checkpoint(context)
        case Transition():
            state, notices = stamp(decision.status, now), decision.notices
        case other:
            assert_never(other)
    state, deletes = drain(context, state)
    state = hold.watch(context, count_replicas(context, state))
    state = with_figures(context, quality.show(context, endings.note_retry(context, state)))
    state, more = stand_in(context, state)
    notices += more
    if context.is_confirmed and context.routes is not None:
        state = replace(state, routes=context.routes.id())
    state = report(context, state, decision)
    notices += report_trouble(context, state, notices)
    routes = routes_for(state, observed, sides_for(model, state))
    if routes is not None and routes.id() != state.routes:
        # A router that cannot be read counts as following what it confirmed last: that must not be from before these.
        state = replace(state, routes="")
    return Plan(
        desired=desired_revisions(context, state),
        routes=routes,
        status=state,
        rehearsal=rehearsal.file_for(model, status, state, observed),
        deletes=deletes,
        notices=notices,
        requeue_after=requeue_after(context, state, routes, is_transition=isinstance(decision, Transition)),
    )


def _decision(context: Context) -> Decision:
    candidate = context.status.candidate
    if candidate is None:
        return starting.advance(context)
    if _is_obsolete(context, candidate):
        if not context.serves_alone(candidate):
            return endings.withdraw(context, candidate)
        if candidate.phase == "Baking" and not _is_reverted(context):
            # The candidate answers all requests: compare the next revision with it, not with a stable that is down.
            return endings.promote(context, candidate)
        if succession.is_due(context, candidate):
            return endings.promote(context, candidate, succession.why(context))
        # Only the candidate answers: its rollout continues until it gets all requests or stable is ready.
    return _advance(context, candidate)


def _advance(context: Context, candidate: Candidate) -> Decision:
    """Return the decision of the candidate's phase."""
    match candidate.phase:
        case "Preparing":
            return preparing.advance(context, candidate)
        case "Validating":
            return validating.advance(context, candidate)
        case "Canary":
            return canary.advance(context, candidate)
        case "Promoting":
            return promoting.advance(context, candidate)
        case "Baking":
            return baking.advance(context, candidate)
        case other:
            assert_never(other)


def _is_obsolete(context: Context, candidate: Candidate) -> bool:
    """Whether the spec asks for another revision, or the operator may not serve this one. A first revision that already
    has routes becomes stable before another revision replaces it."""
    becomes_stable = context.status.stable is None and candidate.slot is not None
    return not becomes_stable and (candidate.revision != context.desired.id or bool(context.observed.denied))


def _is_reverted(context: Context) -> bool:
    """Whether the spec asks for the stable revision."""
    return context.status.stable is not None and context.status.stable.revision == context.desired.id
