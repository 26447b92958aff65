"""The rollout: one pure function from what is wanted, seen and remembered to what is to be done.

Each call takes at most one transition of the candidate; the table is ``_STEPS`` below. A transition is written to
status before the next one is looked at, and every effect of a plan can be repeated, so the operator may be killed
between any two writes.

```
Preparing ──capacity ready──▶ Canary ──certified──▶ Canary … ──certified for all──▶ Promoting ──full capacity──▶ Baking
    │                           │                                                       │                          │
    └──────────── failed · superseded · reverted ──▶ leaving (RollingBack, Draining) ◀──┴──────────────────────────┤
                                                       ▲                                                           │
                                                       └──────── the old stable, when the new one has baked ◀──────┘
```
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..api.revision import wanted_revision
from ..api.schema import Time
from ..api.status import (
    MAX_HISTORY,
    MAX_REJECTED,
    Candidate,
    Evidence,
    HistoryEntry,
    Leaving,
    Outcome,
    Rejected,
    Slot,
    Stable,
    Status,
    rejection,
    revision_of,
    verdict_on,
)
from ..api.types import MLModel, Revision
from . import capacity, report
from .evidence import errors
from .evidence.gather import gather, observed_percent, step_requests
from .observed import Observed
from .plan import Notice, Plan, Want
from .routes import Routes
from .signals import hard_signal, last_word
from .steps import goal, number, step_at

DRAIN_SECONDS = 10.0
"""Between the last router's confirmation that a revision gets no more requests and its removal."""
LOOK, QUICK_LOOK, SLOW_LOOK = 1.0, 0.25, 5.0
"""Seconds between looks: at counters in a rollout, at routers that have yet to confirm, at pods that start slowly."""
SLOW_START = 60.0
CHECKPOINT_SECONDS = 10.0
"""How often evidence is written when nothing is decided: counters are cumulative, so nothing is lost in between."""
STABLE_DOWN_SECONDS = 30.0
"""How long stable must have been without a ready pod before a ready candidate takes over without certification."""


@dataclass(frozen=True)
class _Context:
    """One moment; ``evidence`` is fresh, while the one in status may be up to ten seconds old."""

    model: MLModel
    observed: Observed
    now: float
    wanted: Revision
    confirmed: bool
    """Every ready router follows the routes that the state before this decision means."""
    evidence: Evidence | None
    everything: int
    """Pods that all requests need."""


@dataclass(frozen=True)
class _Step:
    """The state after a transition, and what to tell people about it."""

    status: Status
    notices: tuple[Notice, ...] = ()


def decide(model: MLModel, observed: Observed, status: Status, image: str, now: float) -> Plan:
    """The next state and what to do for it.

    ``image`` is the server image that a new revision gets; ``now`` is in seconds since the epoch.
    """
    wanted = wanted_revision(model.spec, image)
    before = routes_of(status, observed)
    confirmed = before is not None and confirms(observed, before)
    context = _Context(
        model,
        observed,
        now,
        wanted,
        confirmed,
        _evidence(model, observed, status),
        capacity.full(model.spec.serving, observed.revision(status.stable.revision).wanted if status.stable else 0),
    )
    step = _advance(context, status)
    state = _checkpoint(context, status, step.status)
    state, deletes = _leave(context, status, state)
    state = _count(context, state)
    after = routes_of(state, observed)
    if confirmed and before is not None:
        state = replace(state, routes=before.id())
    wants = _wants(context, state)
    state = report.report(model, observed, state, wanted, now)
    return Plan(wants, after, state, deletes, step.notices, _again(context, state, after))


def routes_of(status: Status, observed: Observed) -> Routes | None:
    """The routes that this state means; None as long as an address that they need is not known."""
    stable, candidate = status.stable, status.candidate
    slots: dict[Slot, str] = {}
    stable_slot: Slot | None = None
    candidate_slot: Slot | None = None
    weight = 0
    if stable is not None:
        stable_slot = stable.slot
        slots[stable.slot] = observed.revision(stable.revision).address
    if candidate is not None and candidate.slot is not None:
        state = observed.revision(candidate.revision)
        slots[candidate.slot] = state.address
        if stable is None:
            stable_slot = candidate.slot
        else:
            candidate_slot = candidate.slot
            # No share for a set without a ready pod: stable answers until one is back.
            weight = candidate.weight if state.ready else 0
    if not all(slots.values()):
        return None
    return Routes(slots, stable_slot, candidate_slot, weight)


def confirms(observed: Observed, routes: Routes) -> bool:
    """Whether every ready router follows these routes, and there is one."""
    return bool(observed.routers) and all(router.routes == routes.id() for router in observed.routers)


def needs_pods(status: Status) -> bool:
    """Whether the pods' counters are needed for the next decision.

    Also while the candidate is prepared: the first share must find every older counter read, to be able to tell what
    came before it.
    """
    return status.candidate is not None and status.stable is not None


def needs_address(status: Status, observed: Observed) -> bool:
    """Whether the model's address has to be asked if it answers: when it has not before, and now could. The nodes learn
    where a Service leads some time after its pods are ready."""
    available = any(found.type == "Available" and found.status == "True" for found in status.conditions)
    return not available and any(state.ready for state in observed.revisions.values())


def needs_routers(status: Status, observed: Observed) -> bool:
    """Whether the routers have to be asked what they follow, and what they counted."""
    routes = routes_of(status, observed)
    return (
        status.candidate is not None
        or any(item.until is None for item in status.leaving)
        or (routes is not None and routes.stable is not None and routes.id() != status.routes)
    )


# ------------------------------------------------------------------------------------------------ the candidate's way


def _advance(context: _Context, status: Status) -> _Step:
    candidate, stable, wanted = status.candidate, status.stable, context.wanted
    if candidate is None:
        if _is_settled(context, status):
            return _Step(status)
        if any(item.revision == wanted.id and item.outcome == "RolledBack" for item in status.leaving):
            return _Step(status)  # its pods remember why they failed: another try begins with new ones
        return _start(context, status)
    first_goes_live = stable is None and candidate.slot is not None
    unwanted = candidate.revision != wanted.id or bool(context.observed.denied)
    if unwanted and not first_goes_live:
        if not _alone(context, status, candidate):
            return _withdraw(context, status, candidate)
        if candidate.phase == "Baking" and stable is not None and stable.revision != wanted.id:
            # It serves everything alone: the third version is compared with it, not with a stable that is dead.
            return _promote(context, status, candidate)
    return _STEPS[candidate.phase](context, status, candidate)


def _is_settled(context: _Context, status: Status) -> bool:
    """Whether the wanted revision is stable, may not be made, or was rejected and nobody has asked for another try."""
    wanted = context.wanted.id
    if context.observed.denied or (status.stable is not None and status.stable.revision == wanted):
        return True
    return rejection(status, wanted, context.model.spec.rollout.retry) is not None


def _start(context: _Context, status: Status) -> _Step:
    wanted, spec = context.wanted, context.model.spec
    candidate = Candidate(
        version=wanted.label,
        revision=wanted.id,
        phase="Preparing",
        snapshot=wanted.snapshot,
        started_at=Time(context.now),
        since=Time(context.now),
        digest=wanted.snapshot.model.digest,
        steps=len(spec.rollout.steps),
        replicas=context.observed.revision(wanted.id).wanted,
    )
    # A revision that is on its way out comes back with its pods still warm.
    leaving = tuple(item for item in status.leaving if item.revision != wanted.id)
    goes_on = f"{status.stable.version} goes on serving" if status.stable else "it serves as soon as it is ready"
    return _Step(
        replace(status, candidate=candidate, leaving=leaving),
        (Notice("Normal", "Preparing", f"{wanted.label} ({wanted.id}) is being prepared; {goes_on}"),),
    )


def _preparing(context: _Context, status: Status, candidate: Candidate) -> _Step:
    spec, state = context.model.spec, context.observed.revision(candidate.revision)
    slot = _free_slot(status)
    if status.stable is None:
        if state.ready and state.address and slot is not None:
            # The first version: there is nothing to compare it with and nothing to fall back to.
            return _Step(replace(status, candidate=replace(candidate, phase="Promoting", slot=slot, weight=100)))
        return _Step(status)
    failure = _hard_failure(context, status, candidate)
    if failure is not None:
        return failure
    first = spec.rollout.steps[0].weight
    enough = state.ready >= capacity.for_weight(first, context.everything)
    if not enough and context.now >= candidate.started_at + spec.rollout.preparing_deadline_seconds:
        word = last_word(state.pods, context.observed.source_problem)
        return _roll_back(
            context,
            status,
            candidate,
            "NeverReady",
            f"not ready within {spec.rollout.preparing_deadline_seconds} s: {word}",
        )
    if spec.rollout.paused or slot is None or not state.address or not context.confirmed or not enough:
        return _Step(status)
    entered = replace(
        candidate, phase="Canary", slot=slot, weight=first, since=Time(context.now), step=1, evidence=Evidence()
    )
    with_slot = replace(status, candidate=entered)
    # Every counter is read once before the first request comes, so that older counts are not taken for evidence.
    entered = replace(entered, evidence=_evidence(context.model, context.observed, with_slot))
    return _Step(replace(status, candidate=entered), (_step_notice(context, entered, status),))


def _canary(context: _Context, status: Status, candidate: Candidate) -> _Step:
    failure = _failure(context, status, candidate)
    if failure is not None:
        return failure
    rollout = context.model.spec.rollout
    if rollout.paused or not context.confirmed:
        return _Step(status)
    if _stable_is_down(context, candidate):
        notice = Notice(
            "Warning",
            "StableDown",
            f"{candidate.version} takes all requests: {_stable_label(status)} has had no ready pod for"
            f" {STABLE_DOWN_SECONDS:g} s",
        )
        return _bake(context, status, candidate, notice)
    evidence = context.evidence or Evidence()
    step = step_at(rollout.steps, candidate.weight)
    waited = context.now - candidate.since
    target, limit = goal(rollout, candidate.weight, evidence)
    if waited < step.min_seconds:
        return _Step(status)
    proven = errors.certified(evidence.candidate, limit) and step_requests(evidence) >= step.min_requests
    if not proven:
        if waited < rollout.max_seconds or rollout.on_no_evidence == "Hold":
            return _Step(status)
        if rollout.on_no_evidence == "RollBack":
            return _roll_back(
                context,
                status,
                candidate,
                "NoEvidence",
                f"no verdict within {rollout.max_seconds} s at {candidate.weight} % of the requests, after"
                f" {evidence.candidate.requests} of them",
            )
    if target == 100:
        promoting = replace(candidate, phase="Promoting", since=Time(context.now), evidence=evidence)
        notice = Notice(
            "Normal",
            "Promoting",
            f"{candidate.version} has passed all steps ({report.figures(evidence)}); it gets all requests when"
            f" {context.everything} of its pods are ready",
        )
        return _Step(replace(status, candidate=promoting), (notice,))
    if context.observed.revision(candidate.revision).ready < capacity.for_weight(target, context.everything):
        return _Step(status)
    stepped = replace(
        candidate,
        weight=target,
        since=Time(context.now),
        step=number(rollout.steps, target),
        steps=len(rollout.steps),
        evidence=replace(evidence, step_routed=evidence.routed[:2]),
        observed_percent=None,
    )
    return _Step(replace(status, candidate=stepped), (_step_notice(context, stepped, status),))


def _promoting(context: _Context, status: Status, candidate: Candidate) -> _Step:
    if status.stable is None:
        if not context.confirmed:
            return _Step(status)
        stable = _as_stable(candidate)
        notice = Notice("Normal", "Serving", f"{candidate.version} ({candidate.revision}) serves all requests")
        return _Step(replace(status, stable=stable, candidate=None), (notice,))
    failure = _failure(context, status, candidate)
    if failure is not None:
        return failure
    ready = context.observed.revision(candidate.revision).ready
    enough = ready >= context.everything or _stable_is_down(context, candidate)
    if context.model.spec.rollout.paused or not context.confirmed or not enough:
        return _Step(status)
    notice = Notice(
        "Normal",
        "Baking",
        f"{candidate.version} gets all requests; {_stable_label(status)} stays warm for"
        f" {context.model.spec.rollout.bake_seconds} s",
    )
    return _bake(context, status, candidate, notice)


def _baking(context: _Context, status: Status, candidate: Candidate) -> _Step:
    failure = _failure(context, status, candidate)
    if failure is not None:
        return failure
    baked = context.now >= candidate.since + context.model.spec.rollout.bake_seconds
    if not baked or not context.confirmed or context.observed.revision(candidate.revision).ready < context.everything:
        return _Step(status)
    return _promote(context, status, candidate)


def _promote(context: _Context, status: Status, candidate: Candidate) -> _Step:
    """The candidate becomes stable in place; the old stable drains."""
    old = status.stable
    evidence = context.evidence or Evidence()
    message = f"{candidate.version} ({candidate.revision}) is promoted: {report.figures(evidence)}"
    leaving = status.leaving
    if old is not None:
        leaving = (*leaving, Leaving(old.revision, "Promoted", old.slot))
    promoted = replace(
        status,
        stable=_as_stable(candidate),
        candidate=None,
        leaving=leaving,
        rejected=tuple(item for item in status.rejected if item.revision != candidate.revision),
        history=_history(status, candidate, "Promoted", message, context.now),
    )
    return _Step(promoted, (Notice("Normal", "Promoted", message),))


_STEPS: dict[str, Callable[[_Context, Status, Candidate], _Step]] = {
    "Preparing": _preparing,
    "Canary": _canary,
    "Promoting": _promoting,
    "Baking": _baking,
}


def _bake(context: _Context, status: Status, candidate: Candidate, notice: Notice) -> _Step:
    evidence = context.evidence or Evidence()
    baking = replace(
        candidate,
        phase="Baking",
        weight=100,
        since=Time(context.now),
        evidence=replace(evidence, step_routed=evidence.routed[:2]),
        observed_percent=None,
    )
    return _Step(replace(status, candidate=baking), (notice,))


# --------------------------------------------------------------------------------------------------------- ways back


def _alone(context: _Context, status: Status, candidate: Candidate) -> bool:
    """Whether the candidate answers requests and stable has no pod that could take them back."""
    return (
        candidate.weight > 0
        and status.stable is not None
        and context.observed.revision(status.stable.revision).ready == 0
        and context.observed.revision(candidate.revision).ready > 0
    )


def _failure(context: _Context, status: Status, candidate: Candidate) -> _Step | None:
    """Anything that sends a candidate with traffic back; no step at all while there is nothing to go back to."""
    failure = _found_failure(context, status, candidate)
    return _Step(status) if failure is not None and _alone(context, status, candidate) else failure


def _found_failure(context: _Context, status: Status, candidate: Candidate) -> _Step | None:
    failure = _hard_failure(context, status, candidate)
    if failure is not None:
        return failure
    evidence, rollout = context.evidence, context.model.spec.rollout
    if evidence is not None:
        verdict = errors.judge(
            evidence.ledger,
            evidence.candidate,
            evidence.stable,
            max_percent=rollout.gates.errors.max_percent,
            refused=evidence.counted.client_errors - evidence.candidate.client_errors,
        )
        if verdict.decisive:
            return _roll_back(context, status, candidate, verdict.reason, verdict.message)
    if candidate.down_since and context.now >= candidate.down_since + rollout.preparing_deadline_seconds:
        word = last_word(context.observed.revision(candidate.revision).pods, context.observed.source_problem)
        return _roll_back(
            context, status, candidate, "NotReady", f"no ready pod for {rollout.preparing_deadline_seconds} s: {word}"
        )
    return None


def _hard_failure(context: _Context, status: Status, candidate: Candidate) -> _Step | None:
    signal = hard_signal(context.observed.revision(candidate.revision).pods, context.now)
    return _roll_back(context, status, candidate, signal.reason, signal.message) if signal else None


def _roll_back(context: _Context, status: Status, candidate: Candidate, reason: str, message: str) -> _Step:
    rejected = Rejected(
        candidate.revision,
        candidate.version,
        reason,
        message,
        Time(context.now),
        candidate.weight,
        context.model.spec.rollout.retry,
    )
    others = tuple(item for item in status.rejected if item.revision != candidate.revision)
    gone = _gone(context, status, candidate, "RolledBack", message)
    notice = Notice(
        "Warning",
        "RolledBack",
        f"{candidate.version} ({candidate.revision}) {verdict_on(rejected)}"
        + (f" at {candidate.weight} % of the requests" if candidate.weight else "")
        + f": {message}. {_stable_label(status)} serves all requests. To try it again, change spec.rollout.retry",
    )
    return _Step(replace(gone, rejected=(rejected, *others)[:MAX_REJECTED]), (notice,))


def _withdraw(context: _Context, status: Status, candidate: Candidate) -> _Step:
    """The spec moved on: back to stable, or to a third version; or the candidate may not run any more."""
    reverted = status.stable is not None and status.stable.revision == context.wanted.id
    outcome: Outcome = "Reverted" if reverted else "Superseded"
    message = (
        f"the spec went back to {_stable_label(status)}"
        if reverted
        else context.observed.denied
        if candidate.revision == context.wanted.id
        else f"the spec went on to {context.wanted.label} ({context.wanted.id})"
    )
    notice = Notice(
        "Normal", outcome, f"{candidate.version} ({candidate.revision}) leaves at {candidate.weight} %: {message}"
    )
    return _Step(_gone(context, status, candidate, outcome, message), (notice,))


def _gone(context: _Context, status: Status, candidate: Candidate, outcome: Outcome, message: str) -> Status:
    """The candidate without any share. What never had traffic need not be drained."""
    until = None if candidate.slot is not None else Time(context.now)
    return replace(
        status,
        candidate=None,
        leaving=(*status.leaving, Leaving(candidate.revision, outcome, candidate.slot, until)),
        history=_history(status, candidate, outcome, message, context.now),
    )


# ----------------------------------------------------------------------------------------------------- bookkeeping


def _evidence(model: MLModel, observed: Observed, status: Status) -> Evidence | None:
    candidate, stable = status.candidate, status.stable
    if candidate is None or stable is None or candidate.slot is None or candidate.evidence is None:
        return None
    return gather(
        candidate.evidence,
        observed,
        candidate=(candidate.revision, candidate.slot),
        stable=(stable.revision, stable.slot),
        began=candidate.started_at,
        max_percent=model.spec.rollout.gates.errors.max_percent,
    )


def _checkpoint(context: _Context, before: Status, after: Status) -> Status:
    """Fresh evidence into status, when it is due and says something new."""
    if after is not before:
        return _stamp(context, after)
    candidate, fresh = after.candidate, context.evidence
    if candidate is None or candidate.evidence is None or fresh is None:
        return after
    held = candidate.evidence
    if replace(fresh, at=held.at) == held or (held.at is not None and context.now < held.at + CHECKPOINT_SECONDS):
        return after
    return _stamp(context, replace(after, candidate=replace(candidate, evidence=fresh)))


def _stamp(context: _Context, status: Status) -> Status:
    candidate = status.candidate
    if candidate is None or candidate.evidence is None:
        return status
    evidence = replace(candidate.evidence, at=Time(context.now))
    return replace(status, candidate=replace(candidate, evidence=evidence, observed_percent=observed_percent(evidence)))


def _leave(context: _Context, before: Status, after: Status) -> tuple[Status, tuple[str, ...]]:
    """Drains what has left, removes what is drained, and finds what nobody remembers."""
    kept: list[Leaving] = []
    deletes = []
    for item in after.leaving:
        if item.until is None and context.confirmed and item in before.leaving:
            # The clock starts at the confirmation of routes in which it had already left.
            item = replace(item, until=Time(context.now + DRAIN_SECONDS))
        if item.until is not None and context.now >= item.until:
            if item.revision not in context.observed.revisions:
                continue
            deletes.append(item.revision)
        kept.append(item)
    # An operator that was killed between two writes may leave a revision that status does not know. It may have had
    # traffic, so it is drained like any other.
    known = {item.revision for item in kept}
    known |= {held.revision for held in (after.stable, after.candidate) if held is not None}
    kept += [Leaving(name, "Superseded") for name in sorted(context.observed.revisions) if name not in known]
    return replace(after, leaving=tuple(kept)), tuple(deletes)


def _count(context: _Context, status: Status) -> Status:
    """Pods wanted and ready into status."""
    stable, candidate, observed = status.stable, status.candidate, context.observed
    if stable is not None:
        state = observed.revision(stable.revision)
        stable = replace(stable, replicas=context.everything, ready_replicas=state.ready)
    if candidate is not None:
        state = observed.revision(candidate.revision)
        down = candidate.evidence is not None and state.ready == 0
        stable_down = stable is not None and stable.ready_replicas == 0
        candidate = replace(
            candidate,
            # Never fewer than before: evidence may waver between two looks, pods should not.
            replicas=min(max(_pods_for(context, candidate, stable is None), candidate.replicas), context.everything),
            ready_replicas=state.ready,
            down_since=(candidate.down_since or Time(context.now)) if down else None,
            stable_down_since=(candidate.stable_down_since or Time(context.now)) if stable_down else None,
        )
    replicas = f"{stable.ready_replicas}/{stable.replicas}" if stable else ""
    return replace(status, stable=stable, candidate=candidate, replicas=replicas)


def _pods_for(context: _Context, candidate: Candidate, first: bool) -> int:
    rollout = context.model.spec.rollout
    if first:
        return context.everything
    if candidate.phase == "Preparing":
        return capacity.for_weight(rollout.steps[0].weight, context.everything)
    if candidate.phase != "Canary":
        return context.everything
    evidence = context.evidence or Evidence()
    target, limit = goal(rollout, candidate.weight, evidence)
    overdue = rollout.on_no_evidence == "Promote" and context.now >= candidate.since + rollout.max_seconds
    ahead = not rollout.paused and (overdue or errors.certified(evidence.candidate, limit))
    return capacity.for_weight(target if ahead else candidate.weight, context.everything)


def _wants(context: _Context, status: Status) -> tuple[Want, ...]:
    spec, wants = context.model.spec, []
    if status.stable is not None:
        # While a candidate takes its share, stable keeps the pods to take it back.
        alone = status.candidate is None or status.candidate.slot is None
        autoscaling = spec.serving.autoscaling
        lower = autoscaling.min_replicas if autoscaling and alone else context.everything
        wants.append(Want(revision_of(status.stable), lower))
    if status.candidate is not None:
        wants.append(Want(revision_of(status.candidate), status.candidate.replicas))
    return tuple(wants)


def _again(context: _Context, status: Status, routes: Routes | None) -> float | None:
    waits = []
    if status.candidate is None and not _is_settled(context, status):
        # The next rollout begins with the next look, and our own write of the status wakes nobody.
        waits.append(QUICK_LOOK)
    if status.candidate is not None:
        starting = status.candidate.phase == "Preparing" and context.now > status.candidate.started_at + SLOW_START
        waits.append(SLOW_LOOK if starting else LOOK)
    if routes is not None and routes.stable is not None and routes.id() != status.routes:
        waits.append(QUICK_LOOK)
    if not context.observed.reachable:
        waits.append(QUICK_LOOK)
    for item in status.leaving:
        waits.append(QUICK_LOOK if item.until is None else max(item.until - context.now, LOOK))
    return min(waits, default=None)


def _free_slot(status: Status) -> Slot | None:
    taken = {item.slot for item in status.leaving}
    if status.stable is not None:
        taken.add(status.stable.slot)
    slots: tuple[Slot, ...] = ("a", "b")
    return next((slot for slot in slots if slot not in taken), None)


def _as_stable(candidate: Candidate) -> Stable:
    assert candidate.slot is not None, "only what has had traffic becomes stable"
    return Stable(
        candidate.version,
        candidate.revision,
        candidate.slot,
        candidate.snapshot,
        candidate.digest,
        candidate.replicas,
        candidate.ready_replicas,
    )


def _history(
    status: Status, candidate: Candidate, outcome: Outcome, message: str, now: float
) -> tuple[HistoryEntry, ...]:
    entry = HistoryEntry(candidate.revision, candidate.version, outcome, candidate.started_at, Time(now), message)
    return (entry, *status.history)[:MAX_HISTORY]


def _stable_is_down(context: _Context, candidate: Candidate) -> bool:
    return (
        candidate.stable_down_since is not None
        and context.now >= candidate.stable_down_since + STABLE_DOWN_SECONDS
        and context.observed.revision(candidate.revision).ready > 0
    )


def _stable_label(status: Status) -> str:
    return status.stable.version if status.stable else "nothing"


def _step_notice(context: _Context, candidate: Candidate, status: Status) -> Notice:
    rollout = context.model.spec.rollout
    target, limit = goal(rollout, candidate.weight, candidate.evidence or Evidence())
    return Notice(
        "Normal",
        "CanaryStep",
        f"{candidate.version} gets {candidate.weight} % of the requests, {_stable_label(status)} the rest;"
        f" {target} % once proven to fail less than {100 * limit:.2g} %",
    )
