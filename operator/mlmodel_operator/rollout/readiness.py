"""The condition Ready, with figures and the next step; Reconciling and Stalled derive from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from mlmodel_operator.api.evidence import Evidence
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.status import Candidate, ConditionStatus, Rejected, Stable, Status, verdict_on
from mlmodel_operator.rollout import hold, rehearsal, succession
from mlmodel_operator.rollout.availability import answering_version, is_fully_available, why_unavailable
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.draining import is_rolling_back
from mlmodel_operator.rollout.drift import changed_model
from mlmodel_operator.rollout.endings import how_passed, how_to_retry
from mlmodel_operator.rollout.evidence.forecast import forecast
from mlmodel_operator.rollout.obstacles import Obstacle, find_obstacle
from mlmodel_operator.rollout.pod_failures import pod_failure, why_not_ready
from mlmodel_operator.rollout.standing_in import shares
from mlmodel_operator.rollout.transition import Decision, Stay


@dataclass(frozen=True)
class Readiness:
    """What the conditions Ready, Reconciling and Stalled report."""

    ready: ConditionStatus
    reason: Reason
    message: str
    reconciling: bool = False
    stalled: bool = False


def readiness(context: Context, state: Status, decision: Decision, rejected: Rejected | None) -> Readiness:
    """Return what to report about ``state``; ``rejected`` is the desired revision if it was rejected."""
    trouble = find_obstacle(context.model, state, context.observed, context.now)
    return _with_trouble(_readiness(context, state, decision, rejected), trouble)


def _with_trouble(found: Readiness, trouble: Obstacle | None) -> Readiness:
    """Return the finding with what keeps the children from what is desired, unless it is its cause already."""
    if trouble is None or found.reason == trouble.reason:
        return found
    message = found.message
    if trouble.message not in message:
        message = f"{message}. {trouble.message[0].upper()}{trouble.message[1:]}"
    if found.stalled:
        return replace(found, message=message)
    return replace(
        found,
        ready="False" if found.ready == "True" else found.ready,
        reason=trouble.reason,
        message=message,
        reconciling=not trouble.stalls,
        stalled=trouble.stalls,
    )


def _readiness(context: Context, state: Status, decision: Decision, rejected: Rejected | None) -> Readiness:
    stay = decision if isinstance(decision, Stay) else Stay()
    if state.candidate is None:
        return _settled(context, state, stay, rejected)
    if state.stable is None:
        return _first_revision(context, state.candidate)
    return _rollout(context, state.stable, state.candidate, stay)


def _first_revision(context: Context, candidate: Candidate) -> Readiness:
    pods = context.observed.revision(candidate.revision).pods
    failure = pod_failure(pods, context.now)
    if failure is not None:
        return Readiness(
            "False",
            failure.reason,
            f"{candidate.version} cannot serve: {failure.message}. No earlier version can take over: correct"
            " spec.model or spec.serving",
            stalled=True,
        )
    if candidate.phase == "Preparing":
        deadline = context.rollout.preparing_deadline_seconds
        is_late = context.now >= candidate.started_at + deadline
        state = f"is not ready after {deadline} s" if is_late else "is being prepared"
        return Readiness(
            "False",
            Reason.NEVER_READY if is_late else Reason.PREPARING,
            f"{candidate.version} {state}: {why_not_ready(pods, context.obstacle)}",
            reconciling=not is_late,
            stalled=is_late,
        )
    message = f"{candidate.version} is ready; {context.why_unconfirmed}"
    return Readiness("False", Reason.ROUTING, message, reconciling=True)


def _rollout(context: Context, stable: Stable, candidate: Candidate, stay: Stay) -> Readiness:
    """Return what to report during a rollout: Ready is Unknown until the rollout ends."""
    version, counts = candidate.version, (candidate.evidence or Evidence()).candidate
    if hold.is_waiting(context, candidate):
        stay = hold.waiting(context, candidate)
    figures = f"{counts.failed} of {counts.requests} requests to {version} failed"
    requests = shares(stable.version, candidate)
    match candidate.phase:
        case "Preparing":
            why = stay.why or why_not_ready(context.observed.revision(candidate.revision).pods, context.obstacle)
            reason = Reason.PREPARING
            state = "waits" if candidate.holds else "is being prepared"
            message = f"{version} {state}: {why}. {requests}"
        case "Validating":
            reason = Reason.VALIDATING
            message = f"{_rehearsed(candidate, stable)}{_clause(stay.why)}. {requests}"
        case "Canary":
            reason = Reason.CANARY
            none = _why_no_rehearsal(context)
            message = f"{requests}. {figures}. {none}{_forecast(context, candidate)}{_clause(stay.why)}"
        case "Promoting":
            reason = Reason.PROMOTING
            message = (
                f"{version} {how_passed(candidate)}. {figures}. Next: 100 % with all pods ready"
                f" ({candidate.ready_replicas} of {candidate.replicas}){_clause(stay.why)}"
            )
        case "Baking":
            reason = Reason.BAKING
            message = f"{version} gets all requests. {figures}{_clause(stay.why)}"
        case other:
            assert_never(other)
    successor = succession.waiting(context, candidate)
    message += f". {successor}" if successor else ""
    return Readiness("Unknown", stay.reason or reason, message, reconciling=True)


def _rehearsed(candidate: Candidate, stable: Stable) -> str:
    """Return what the rehearsal has shown when it was last written, as a sentence without the full stop."""
    found = candidate.rehearsal
    if found is None or not found.requests:
        return f"The pods of {stable.version} repeat requests that they have answered on {candidate.version}"
    return f"{found.message}; {found.left} left"


def _why_no_rehearsal(context: Context) -> str:
    """Return why the candidate is not rehearsed, as a sentence with a full stop; empty if it is, or is not to be."""
    none = rehearsal.why_none(context.model, context.status, context.observed) or rehearsal.why_unread(context)
    return f"No rehearsal: {none}. " if none and context.rollout.rehearsal.requests else ""


def _clause(why: str) -> str:
    return f"; {why}" if why else ""


def _forecast(context: Context, candidate: Candidate) -> str:
    return forecast(context.rollout, candidate, candidate.evidence or Evidence(), context.now)


def _settled(context: Context, state: Status, stay: Stay, rejected: Rejected | None) -> Readiness:
    """Return what to report outside a rollout: first what the user must change, then what passes with time."""
    version = answering_version(state)
    serving = f"{version} serves all requests" if version else "No version has a ready pod"
    denied, stable = context.observed.denied, state.stable
    if denied:
        return Readiness("False", Reason.TRUST_NOT_ALLOWED, f"{denied}. {serving}", stalled=True)
    if rejected is not None:
        return Readiness(
            "False",
            Reason.ROLLED_BACK,
            f"{rejected.version} {verdict_on(rejected)}: {rejected.message}. {serving}. Correct spec.model or"
            f" spec.serving. {how_to_retry(context, rejected)}",
            stalled=True,
        )
    if is_rolling_back(state):
        message = "the routers stop sending requests to the candidate"
        return Readiness("Unknown", Reason.ROLLING_BACK, message, reconciling=True)
    if stable is None or stable.revision != context.desired.id:
        message = f"the rollout of {context.desired.label} has not started yet{_clause(stay.why)}"
        return Readiness("Unknown", Reason.PREPARING, message, reconciling=True)
    if changed := changed_model(context.observed, stable):
        message = f"{changed}. {serving}"
        return Readiness("False", Reason.MODEL_CHANGED, message, stalled=True)
    if not is_fully_available(context, stable):
        return Readiness("False", Reason.NOT_AVAILABLE, why_unavailable(context, state), reconciling=True)
    return Readiness("True", Reason.SERVING, f"{stable.version} ({stable.revision}) serves all requests")
