"""Figures beside the gates: CPU time and energy of predictions, restarts, drift. They decide nothing.

CPU time of both versions is compared on copies of the same requests where there are some, because a request of a client
may share a call of the model with others, and the busier version has more of these. What a pod counted before its first
page was read is left out. docs/adr/0036-beside-the-gates.md says why.

The figures are written when the evidence is written, and at a restart: never because only they have changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mlmodel_operator.api.figures import Calls, Drift, Figures, FiguresState, PodCalls, SideFigures, Source, rounded
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Candidate, Status
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.observed import MOST_REHEARSING, Measured, Observed

MIN_PREDICTIONS = 20
"""Smallest number of predictions with an average."""
_MOST_PODS = 4 * MOST_REHEARSING
"""Pods whose last page is kept, of both sides: more only if many pods come and go."""


def with_figures(context: Context, state: Status) -> Status:
    """Return ``state`` with the figures of this moment, as far as they are due: restarts always, the others when new
    evidence is written."""
    candidate, before = state.candidate, context.status.candidate
    if candidate is None or state.stable is None:
        return state
    restarted = _restarted(candidate.figures, context.observed, state.stable.revision, candidate.revision)
    is_due = before is None or before.evidence != candidate.evidence or before.phase != candidate.phase
    fresh = _measured(restarted, context, candidate, state.stable.revision) if is_due else restarted
    if fresh == candidate.figures:
        return state
    fresh = replace(fresh, message=_sentences(fresh, candidate.version, state.stable.version))
    return replace(state, candidate=replace(candidate, figures=fresh))


def last_sentences(context: Context, candidate: Candidate) -> str:
    """Return the figures at the end of a rollout as sentences; empty without any."""
    stable = context.status.stable
    if stable is None:
        return ""
    restarted = _restarted(candidate.figures, context.observed, stable.revision, candidate.revision)
    fresh = _measured(restarted, context, candidate, stable.revision)
    return _sentences(fresh, candidate.version, stable.version)


# ------------------------------------------------------------------------------------------------------------ restarts


def _restarted(figures: Figures | None, observed: Observed, stable: str, candidate: str) -> Figures:
    """Return the figures with the restarts since the last look. What the pods showed at the first look was before."""
    own, others = (sum(pod.restarts for pod in observed.revision(name).pods) for name in (candidate, stable))
    if figures is None:
        return Figures(state=FiguresState(restarts=own, stable_restarts=others))
    state = figures.state
    return replace(
        figures,
        candidate=figures.candidate.with_restarts(own - state.restarts),
        stable=figures.stable.with_restarts(others - state.stable_restarts),
        state=replace(state, restarts=own, stable_restarts=others),
    )


# ----------------------------------------------------------------------------------------------------------- CPU, drift


def _measured(figures: Figures, context: Context, candidate: Candidate, stable: str) -> Figures:
    """Return the figures after one more reading of the pods; the same if no pod was read."""
    found = [item for item in context.observed.measured if item.revision in (candidate.revision, stable)]
    if not found:
        return figures
    own = [item for item in found if item.revision == candidate.revision]
    others = [item for item in found if item.revision == stable]
    present = {pod.name for known in context.observed.revisions.values() for pod in known.pods}
    state = figures.state
    state = replace(
        state,
        pods=_pages(state.pods, found, present),
        candidate=state.candidate + _new(state.pods, own),
        stable=state.stable + _new(state.pods, others),
    )
    source = _common_source(state)
    side = _side(figures.candidate, state.candidate, own, source)
    other = _side(figures.stable, state.stable, others, source)
    ratio = _ratio(side, other)
    return replace(figures, state=state, candidate=side, stable=other, cpu_ratio=ratio, at=Time(context.now))


def _pages(last: Mapping[str, PodCalls], found: Iterable[Measured], present: set[str]) -> dict[str, PodCalls]:
    """Return the pages to remember: a pod that is not ready for a while must not count twice."""
    read = {item.pod: PodCalls(item.boot, item.calls) for item in found}
    known = {name: page for name, page in last.items() if name in present} | read
    return known if len(known) <= _MOST_PODS else read


def _new(last: Mapping[str, PodCalls], found: Iterable[Measured]) -> Calls:
    """Return what pods counted since their last page: nothing for a pod that had none, all for a new start of it."""
    new = Calls()
    for item in found:
        before = last.get(item.pod)
        if before is not None:
            new += item.calls.since(before.calls) if before.boot == item.boot else item.calls
    return new


def _common_source(state: FiguresState) -> Source | None:
    """Return by which predictions both versions can be compared; None by none yet."""
    for source in ("Rehearsal", "Clients"):
        if min(_calls(state.candidate, source)[0], _calls(state.stable, source)[0]) >= MIN_PREDICTIONS:
            return source
    return None


def _calls(calls: Calls, source: Source) -> tuple[int, int]:
    """Return predictions, and their CPU time in microseconds."""
    return (calls.copies, calls.copies_us) if source == "Rehearsal" else (calls.requests, calls.requests_us)


def _side(before: SideFigures, calls: Calls, found: Iterable[Measured], common: Source | None) -> SideFigures:
    """Return what is shown of one version, by the ``common`` source or else by its own predictions."""
    pods = list(found)
    drift = _largest(item.drift for item in pods)
    side = before
    if drift != Drift():
        side = replace(side, feature=drift.feature, feature_drift=drift.features, prediction_drift=drift.predictions)
    own: Source = "Rehearsal" if calls.copies >= MIN_PREDICTIONS else "Clients"
    source = common or own
    number, microseconds = _calls(calls, source)
    watts = max((item.milliwatts for item in pods), default=0) / 1000
    if number < MIN_PREDICTIONS or not pods:
        return side
    seconds = microseconds / number / 1e6
    return replace(
        side,
        cpu_milliseconds=rounded(1000 * seconds),
        joules=rounded(seconds * watts),
        predictions=number,
        source=source,
    )


def _largest(found: Iterable[Drift]) -> Drift:
    """Return the largest indices of several pods."""
    largest = Drift()
    for drift in found:
        if drift.features is not None and drift.features > (-1.0 if largest.features is None else largest.features):
            largest = replace(largest, feature=drift.feature, features=drift.features)
        if drift.predictions is not None:
            largest = replace(largest, predictions=max(drift.predictions, largest.predictions or 0.0))
    return largest


def _ratio(candidate: SideFigures, stable: SideFigures) -> float | None:
    own, others = candidate.cpu_milliseconds, stable.cpu_milliseconds
    if own is None or not others or candidate.source != stable.source:
        return None
    return rounded(own / others)


# ----------------------------------------------------------------------------------------------------------- sentences


def _sentences(figures: Figures, candidate: str, stable: str) -> str:
    own, others = figures.candidate, figures.stable
    parts = [
        _cpu(figures, candidate, stable),
        f"Container restarts: {candidate} {own.restarts}, {stable} {others.restarts}",
    ]
    drifted = [part for part in (_drift(own, candidate), _drift(others, stable)) if part]
    if drifted:
        parts.append(f"Drift from training (PSI): {'; '.join(drifted)}")
    return ". ".join(parts)


def _cpu(figures: Figures, candidate: str, stable: str) -> str:
    own, others = figures.candidate, figures.stable
    if own.cpu_milliseconds is None and others.cpu_milliseconds is None:
        return f"CPU per prediction is not known: fewer than {MIN_PREDICTIONS} predictions were measured"
    shown = f"CPU per prediction: {_cost(own, candidate)}, {_cost(others, stable)}"
    if figures.cpu_ratio is None:
        return shown
    what = "repeated requests" if own.source == "Rehearsal" else "requests of clients"
    return (
        f"{shown}, {figures.cpu_ratio:g} times as much for {candidate} ({own.predictions} and {others.predictions}"
        f" {what})"
    )


def _cost(side: SideFigures, version: str) -> str:
    if side.cpu_milliseconds is None or side.joules is None:
        return f"{version} not known"
    return f"{version} {side.cpu_milliseconds:g} ms ({side.joules:g} J)"


def _drift(side: SideFigures, version: str) -> str:
    found = []
    if side.feature_drift is not None:
        found.append(f"{side.feature_drift:g} ({side.feature})")
    if side.prediction_drift is not None:
        found.append(f"predictions {side.prediction_drift:g}")
    return f"{version} {', '.join(found)}" if found else ""
