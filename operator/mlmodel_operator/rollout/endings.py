"""How a rollout ends: the candidate is promoted, rolled back, or withdrawn because the spec has changed."""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.evidence import Evidence
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import (
    MAX_HISTORY,
    MAX_REJECTED,
    Candidate,
    Draining,
    HistoryEntry,
    Outcome,
    Rejected,
    Stable,
    Status,
    verdict_on,
    with_retry,
)
from mlmodel_operator.names import ACCEPT_ANNOTATION
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.evidence import chain, errors, quality
from mlmodel_operator.rollout.figures import last_sentences
from mlmodel_operator.rollout.plan import Notice
from mlmodel_operator.rollout.pod_failures import Failure
from mlmodel_operator.rollout.routes import weight_of
from mlmodel_operator.rollout.transition import Decision, Stay, Transition


def how_passed(candidate: Candidate) -> str:
    """Return how the candidate has passed its steps, as a clause for messages."""
    if candidate.unproven:
        return f"has taken a step {without_proof(candidate)}"
    return "has passed all steps"


def without_proof(candidate: Candidate) -> str:
    """Return why a candidate that is unproven took a step, as a clause for messages."""
    why = "no request came" if candidate.unproven == Reason.NO_TRAFFIC else "onNoEvidence is Promote"
    return f"without proof, because {why}"


def promote(context: Context, candidate: Candidate, unproven: str = "") -> Transition:
    """Make the candidate stable in its slot; the former stable drains. ``unproven`` says why it needs no proof, as a
    clause for messages."""
    status, evidence = context.status, context.evidence or Evidence()
    figures = errors.figures(evidence.candidate)
    unproven = unproven or (without_proof(candidate) if candidate.unproven else "")
    how = f" {unproven}" if unproven else ""
    message = f"{candidate.version} ({candidate.revision}) is promoted{how}{';' if ':' in how else ':'} {figures}"
    if evidence.state.pairs.pairs.all:
        message += f". {chain.summary_of(evidence, stable=context.stable_label, candidate=candidate.version)}"
    if (labels := evidence.state.quality.labels).candidate.number:
        message += f". {quality.sentence(labels, candidate.version)}"
    if context.is_change_accepted(candidate):
        message += f". The annotation {ACCEPT_ANNOTATION} accepted its other answers"
    draining = status.draining
    if status.stable is not None:
        draining = (*draining, Draining(status.stable.revision, "Promoted", status.stable.slot))
    promoted = replace(
        status,
        stable=as_stable(candidate),
        candidate=None,
        draining=draining,
        rejected=tuple(item for item in status.rejected if item.revision != candidate.revision),
        history=_history(context, candidate, "Promoted", message),
    )
    return Transition(promoted, (Notice("Normal", Reason.PROMOTED, message),))


def roll_back(context: Context, candidate: Candidate, failure: Failure) -> Decision:
    """Give all requests to stable, and record the failure; stay as long as only the candidate has ready pods."""
    if context.serves_alone(candidate):
        return Stay(f"the rollback ({failure.reason}) waits for a ready pod of {context.stable_label}")
    rejected = Rejected(
        candidate.revision,
        candidate.version,
        failure.reason,
        failure.message,
        Time(context.now),
        weight_of(candidate),
        context.rollout.retry,
        _retries(context, candidate),
    )
    others = tuple(item for item in context.status.rejected if item.revision != candidate.revision)
    without = _without(context, candidate, "RolledBack", failure.message)
    notice = Notice(
        "Warning",
        Reason.ROLLED_BACK,
        f"{candidate.version} ({candidate.revision}) {verdict_on(rejected)}: {failure.message}. {context.stable_label}"
        f" gets all requests. {how_to_retry(context, rejected)}",
    )
    return Transition(replace(without, rejected=(rejected, *others)[:MAX_REJECTED]), (notice,))


def how_to_retry(context: Context, rejected: Rejected) -> str:
    """Return what lets a rejected revision be rolled out again, as a sentence for messages without the full stop."""
    if rejected.reason not in chain.ACCEPTABLE.values():
        return f"To retry {rejected.version}, change spec.rollout.retry"
    name, namespace = context.model.owner.name, context.model.owner.namespace
    return (
        f"If the change is intended, type `kubectl annotate mlm {name} {ACCEPT_ANNOTATION}={rejected.revision}"
        f" -n {namespace} --overwrite` and change spec.rollout.retry"
    )


def withdraw(context: Context, candidate: Candidate) -> Transition:
    """Give all requests to stable: the spec asks for another revision, or the operator may not serve this one."""
    stable, desired = context.status.stable, context.desired
    outcome: Outcome = "Superseded"
    if stable is not None and stable.revision == desired.id:
        outcome = "Reverted"
        message = f"the spec asks for {context.stable_label} again"
    elif candidate.revision == desired.id:
        message = context.observed.denied
    else:
        message = f"the spec now asks for {desired.label} ({desired.id})"
    notice = Notice(
        "Normal",
        Reason.REVERTED if outcome == "Reverted" else Reason.SUPERSEDED,
        f"{candidate.version} ({candidate.revision}) is withdrawn at weight {weight_of(candidate)}: {message}",
    )
    return Transition(_without(context, candidate, outcome, message), (notice,))


def as_stable(candidate: Candidate) -> Stable:
    """Return the candidate as stable."""
    assert candidate.slot is not None, "only a revision with a slot becomes stable"
    return Stable(
        candidate.version,
        candidate.revision,
        candidate.slot,
        candidate.snapshot,
        candidate.digest,
        candidate.replicas,
        candidate.ready_replicas,
    )


def note_retry(context: Context, state: Status) -> Status:
    """Return ``state`` with the present spec.rollout.retry among those of the rollout."""
    candidate, retry = state.candidate, context.rollout.retry
    if candidate is None or retry in candidate.retries:
        return state
    return replace(state, candidate=replace(candidate, retries=with_retry(candidate.retries, retry)))


def _without(context: Context, candidate: Candidate, outcome: Outcome, message: str) -> Status:
    """Return the status with the candidate draining. A candidate that never got a request is removed at once."""
    until = None if candidate.slot is not None else Time(context.now)
    return replace(
        context.status,
        candidate=None,
        draining=(*context.status.draining, Draining(candidate.revision, outcome, candidate.slot, until)),
        history=_history(context, candidate, outcome, message),
    )


def _retries(context: Context, candidate: Candidate) -> tuple[str, ...]:
    """Return every value of spec.rollout.retry with which this revision has been rejected, now included."""
    before = next((item for item in context.status.rejected if item.revision == candidate.revision), None)
    earlier = (before.retry, *before.retries) if before is not None else ()
    return with_retry(earlier, context.rollout.retry, *candidate.retries)


def _history(context: Context, candidate: Candidate, outcome: Outcome, message: str) -> tuple[HistoryEntry, ...]:
    entry = HistoryEntry(
        candidate.revision,
        candidate.version,
        outcome,
        candidate.started_at,
        Time(context.now),
        message,
        candidate.approvals,
        last_sentences(context, candidate),
    )
    return (entry, *context.status.history)[:MAX_HISTORY]
