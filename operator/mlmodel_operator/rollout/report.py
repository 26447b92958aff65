"""The human-readable part of status: phase, address, selector, and the conditions of kstatus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Condition, ConditionStatus, Phase, Rejected, Status, rejection
from mlmodel_operator.names import SERVER, selector
from mlmodel_operator.rollout.availability import answering_version, url, why_unavailable
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.draining import is_rolling_back
from mlmodel_operator.rollout.drift import changed_model, outdated_image
from mlmodel_operator.rollout.obstacles import find_obstacle
from mlmodel_operator.rollout.plan import Notice
from mlmodel_operator.rollout.readiness import readiness
from mlmodel_operator.rollout.transition import Decision


@dataclass(frozen=True)
class _Finding:
    """A condition without times and generation."""

    type: str
    status: ConditionStatus
    reason: str
    message: str


def report(context: Context, state: Status, decision: Decision) -> Status:
    """Return ``state`` with phase, address, selector and conditions as they are at this moment."""
    generation = context.model.generation
    return replace(
        state,
        observed_generation=generation,
        url=url(context.model),
        phase=_phase(state),
        selector=_selector(context, state),
        conditions=tuple(_condition(context, state, finding) for finding in _findings(context, state, decision)),
    )


def report_trouble(context: Context, state: Status, notices: tuple[Notice, ...]) -> tuple[Notice, ...]:
    """Return an Event about what has kept the model from the spec since this decision, unless ``notices`` say it.

    One for each trouble and not for each decision: the conditions in status show what has been reported.
    """
    before = [item for item in context.status.conditions if item.type in ("Ready", "Stalled", "Available")]
    known = {item.reason for item in before} | {notice.reason for notice in notices}
    trouble = find_obstacle(context.model, state, context.observed, context.now)
    if trouble is not None:
        is_known = trouble.reason in known or any(trouble.message[:200] in item.message for item in before)
        return () if is_known else (Notice("Warning", trouble.reason, trouble.message),)
    for item in state.conditions:
        is_trouble = (item.type == "Stalled" and item.status == "True") or item.reason == Reason.MODEL_CHANGED
        if is_trouble and item.reason not in known:
            return (Notice("Warning", next(reason for reason in Reason if reason == item.reason), item.message),)
    return ()


def _phase(state: Status) -> Phase:
    """Return the phase of the rollout."""
    if is_rolling_back(state):
        return "RollingBack"
    if state.candidate is not None:
        return state.candidate.phase
    return "Draining" if state.draining else "Stable"


def _selector(context: Context, state: Status) -> str:
    """Return the label selector of the pods of stable, in the form that the scale subresource requires."""
    if state.stable is None:
        return ""
    labels = selector(context.model.owner.name, SERVER, state.stable.revision)
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))


def _findings(context: Context, state: Status, decision: Decision) -> Iterator[_Finding]:
    rejected = _rejected(context, state)
    ready = readiness(context, state, decision, rejected)
    yield _Finding("Ready", ready.ready, ready.reason, ready.message)
    yield _available(context, state)
    # kstatus reads a model that is stalled and reconciling as one in progress.
    yield _Finding("Reconciling", _truth(ready.reconciling and not ready.stalled), ready.reason, ready.message)
    yield _Finding("Stalled", _truth(ready.stalled), ready.reason, ready.message)
    if rejected is not None:
        yield _Finding("RolledBack", "True", rejected.reason, rejected.message)
    else:
        message = "the desired version was not rolled back"
        yield _Finding("RolledBack", "False", Reason.NOT_ROLLED_BACK, message)
    if context.rollout.paused:
        message = "spec.rollout.paused is true, so the weight does not rise: set it to false to continue"
        yield _Finding("Paused", "True", Reason.PAUSED, message)
    else:
        yield _Finding("Paused", "False", Reason.NOT_PAUSED, "spec.rollout.paused is false")
    if outdated := outdated_image(state, context.desired.snapshot.image):
        yield _Finding("OutdatedImage", "True", Reason.OUTDATED_IMAGE, outdated)
    else:
        yield _Finding("OutdatedImage", "False", Reason.CURRENT_IMAGE, "no version runs an outdated server image")


def _available(context: Context, state: Status) -> _Finding:
    version = answering_version(state)
    if version and context.observed.routers and context.observed.reachable:
        message, changed = f"{version} answers at {url(context.model)}", changed_model(context.observed, state.stable)
        if changed:
            return _Finding("Available", "True", Reason.MODEL_CHANGED, f"{message}; {changed}")
        return _Finding("Available", "True", Reason.SERVING, message)
    return _Finding("Available", "False", Reason.NOT_SERVING, why_unavailable(context, state))


def _rejected(context: Context, state: Status) -> Rejected | None:
    """Return the rejection of the desired revision, if that is why the revision does not serve."""
    is_stable = state.stable is not None and state.stable.revision == context.desired.id
    if state.candidate is not None or is_stable:
        return None
    return rejection(state, context.desired.id, context.rollout.retry)


def _condition(context: Context, state: Status, finding: _Finding) -> Condition:
    last = next((item for item in state.conditions if item.type == finding.type), None)
    since = last.last_transition_time if last is not None and last.status == finding.status else Time(context.now)
    return Condition(
        finding.type, finding.status, finding.reason, finding.message[:1024], since, context.model.generation
    )


def _truth(value: bool) -> ConditionStatus:
    return "True" if value else "False"
