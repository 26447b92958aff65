"""Status for people: phase, conditions after kstatus, and messages with figures and the next step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..api.schema import Time
from ..api.status import Candidate, Condition, ConditionStatus, Evidence, Phase, Rejected, Status, rejection, verdict_on
from ..api.types import MLModel, Revision
from .evidence import errors
from .observed import Observed
from .signals import hard_signal, last_word
from .steps import goal


@dataclass(frozen=True)
class _Finding:
    """How things are, before it is spread over conditions."""

    ready: ConditionStatus
    reason: str
    message: str
    reconciling: bool = False
    stalled: bool = False


def report(model: MLModel, observed: Observed, status: Status, wanted: Revision, now: float) -> Status:
    """``status`` with phase, URL and conditions that tell the truth about this moment."""
    rejected = _rejected(model, status, wanted)
    finding = _find(model, observed, status, wanted, rejected, now)
    answering = _answering(status)
    available = bool(answering and observed.routers and observed.reachable)
    paused = model.spec.rollout.paused
    conditions = [
        ("Ready", finding.ready, finding.reason, finding.message),
        (
            "Available",
            _truth(available),
            "Serving" if available else "NotServing",
            f"{answering} answers at {_url(model)}" if available else _why_unavailable(observed, status),
        ),
        ("Reconciling", _truth(finding.reconciling), finding.reason, finding.message),
        ("Stalled", _truth(finding.stalled), finding.reason, finding.message),
        (
            "RolledBack",
            _truth(rejected is not None),
            rejected.reason if rejected else "None",
            rejected.message if rejected else "the wanted version has not been rolled back",
        ),
        (
            "Paused",
            _truth(paused),
            "Paused" if paused else "Running",
            "spec.rollout.paused stops increases of the weight; set it to false to go on"
            if paused
            else "weights may rise",
        ),
    ]
    held = {condition.type: condition for condition in status.conditions}
    return replace(
        status,
        observed_generation=model.generation,
        url=_url(model),
        phase=phase(status),
        conditions=tuple(
            _condition(held.get(kind), kind, truth, reason, message, model.generation, now)
            for kind, truth, reason, message in conditions
        ),
    )


def figures(evidence: Evidence) -> str:
    """What the candidate did, in one clause."""
    tally = evidence.candidate
    return f"{tally.failed} of {tally.requests} requests failed"


def _answering(status: Status) -> str:
    """The version that has ready pods for requests; stable if both have, empty if none has."""
    stable, candidate = status.stable, status.candidate
    if stable is not None and stable.ready_replicas:
        return stable.version
    if candidate is not None and candidate.weight and candidate.ready_replicas:
        return candidate.version
    return ""


def phase(status: Status) -> Phase:
    """Where the rollout is, in one word."""
    if any(item.until is None and item.outcome != "Promoted" for item in status.leaving):
        return "RollingBack"
    if status.candidate is not None:
        return status.candidate.phase
    return "Draining" if status.leaving else "Stable"


def _find(
    model: MLModel, observed: Observed, status: Status, wanted: Revision, rejected: Rejected | None, now: float
) -> _Finding:
    stable, candidate = status.stable, status.candidate
    if candidate is not None and stable is None:
        pods = observed.revision(candidate.revision).pods
        word = last_word(pods, observed.source_problem)
        failure = hard_signal(pods, now)
        if failure is not None:
            return _Finding(
                "False",
                failure.reason,
                f"{candidate.version} cannot serve: {failure.message}. It is the first version, so there is none to go"
                " back to; correct spec.model",
                stalled=True,
            )
        late = now >= candidate.started_at + model.spec.rollout.preparing_deadline_seconds
        if candidate.phase == "Preparing":
            return _Finding(
                "False",
                "NeverReady" if late else "Preparing",
                f"{candidate.version} is being prepared: {word}",
                reconciling=True,
                stalled=late,
            )
        return _Finding("False", "Routing", f"{candidate.version} is ready; the router is about to lead to it", True)
    if candidate is not None:
        return _candidate(model, observed, status, candidate, now)
    serving = f"{_answering(status)} serves all requests" if _answering(status) else "no version has a ready pod"
    if observed.denied:
        return _Finding("False", "TrustNotAllowed", f"{observed.denied}. {serving}", stalled=True)
    if rejected is not None:
        return _Finding(
            "False",
            "RolledBack",
            f"{rejected.version} {verdict_on(rejected)}: {rejected.message}. {serving}. Set"
            " spec.model to a corrected version, or change spec.rollout.retry to try this one again",
            stalled=True,
        )
    if phase(status) == "RollingBack":
        return _Finding("Unknown", "RollingBack", "the routers take the last requests off the candidate", True)
    if stable is None or stable.revision != wanted.id:
        return _Finding("Unknown", "Preparing", f"{wanted.label} is about to be prepared", True)
    if observed.source_problem:
        return _Finding("False", "Refused", observed.source_problem, reconciling=True, stalled=True)
    if stable.ready_replicas < _enough(model, stable.replicas) or not observed.routers or not observed.reachable:
        return _Finding("False", "NotAvailable", _why_unavailable(observed, status), reconciling=True)
    return _Finding("True", "Serving", f"{stable.version} ({stable.revision}) serves all requests")


def _candidate(model: MLModel, observed: Observed, status: Status, candidate: Candidate, now: float) -> _Finding:
    rollout = model.spec.rollout
    stable = status.stable.version if status.stable else "nothing"
    if candidate.phase == "Preparing":
        state = observed.revision(candidate.revision)
        word = (
            last_word(state.pods, observed.source_problem)
            if state.ready < candidate.replicas
            else "its pods are ready; it waits for spec.rollout.paused to become false"
            if rollout.paused
            else "its pods are ready; it waits for the routers"
        )
        return _Finding(
            "Unknown", "Preparing", f"{candidate.version} is being prepared, {stable} serves all requests: {word}", True
        )
    evidence = candidate.evidence or Evidence()
    seen = figures(evidence)
    if candidate.phase == "Canary":
        target, limit = goal(rollout, candidate.weight, evidence)
        missing = errors.missing_requests(evidence.candidate, limit)
        next_step = (
            "paused"
            if rollout.paused
            else f"{target} % after about {missing} more without a failure"
            if missing
            else f"{target} % next"
        )
        held = now >= candidate.since + rollout.max_seconds and rollout.on_no_evidence == "Hold" and missing > 0
        return _Finding(
            "Unknown",
            "InsufficientEvidence" if held else "Canary",
            f"{candidate.version} gets {candidate.weight} % of the requests, {stable} the rest: {seen}; {next_step}",
            True,
        )
    if candidate.phase == "Promoting":
        return _Finding(
            "Unknown",
            "Promoting",
            f"{candidate.version} has passed all steps ({seen}); {candidate.ready_replicas} of {candidate.replicas}"
            " of its pods are ready for all requests",
            True,
        )
    return _Finding(
        "Unknown",
        "Baking",
        f"{candidate.version} gets all requests ({seen}); {stable} stays warm for {rollout.bake_seconds} s",
        True,
    )


def _enough(model: MLModel, wanted: int) -> int:
    """Ready pods for Ready=True; an autoscaler's latest wish is no promise, its lower bound is."""
    autoscaling = model.spec.serving.autoscaling
    return autoscaling.min_replicas if autoscaling else wanted


def _why_unavailable(observed: Observed, status: Status) -> str:
    stable = status.stable
    if stable is None:
        return "no version has served yet"
    if stable.ready_replicas < max(stable.replicas, 1):
        word = last_word(
            tuple(pod for pod in observed.revision(stable.revision).pods if not pod.ready), observed.source_problem
        )
        return f"{stable.ready_replicas} of {stable.replicas} pods of {stable.version} are ready: {word}"
    if not observed.routers:
        return "no router pod is ready"
    return "the address of its Service does not answer yet: every node has to learn where it leads"


def _rejected(model: MLModel, status: Status, wanted: Revision) -> Rejected | None:
    if status.candidate is not None or (status.stable is not None and status.stable.revision == wanted.id):
        return None
    return rejection(status, wanted.id, model.spec.rollout.retry)


def _url(model: MLModel) -> str:
    return f"http://{model.owner.name}.{model.owner.namespace}.svc/v2/models/{model.owner.name}/infer"


def _truth(value: bool) -> ConditionStatus:
    return "True" if value else "False"


def _condition(
    held: Condition | None, kind: str, truth: ConditionStatus, reason: str, message: str, generation: int, now: float
) -> Condition:
    since = held.last_transition_time if held is not None and held.status == truth else Time(now)
    return Condition(kind, truth, reason, message[:1024], since, generation)
