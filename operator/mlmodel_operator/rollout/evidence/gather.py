"""From the routers' cumulative counts to blocks of evidence.

The counts are cumulative and status has the last ones read, so nothing is lost while the operator is down or when a
reading fails: the next block is larger. Only routers that follow the present candidate are read; each counts by the
weight under which it drew, so a router with older routes counts too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from mlmodel_operator.api.evidence import Counts, Cursor, Evidence, EvidenceState, Page, Pairs, Recent, Sides
from mlmodel_operator.api.status import Candidate, Status
from mlmodel_operator.api.types import MLModel
from mlmodel_operator.rollout.evidence import difference, errors, labels, late
from mlmodel_operator.rollout.observed import MOST_REHEARSING, Observed, Pod, Rehearsing, Router

GONE_SECONDS = 3.0
"""Time after a pod has gone in which its Service may still send requests to its address."""
TERMINATING_SECONDS = 60.0
"""Time in which failures of a terminating pod do not count: it drains for up to 35 s. A pod on a dead node may
terminate for hours; its Service has long dropped it."""
RECENT_SECONDS, _RECENT_REQUESTS = 15.0, 50
"""Shortest part of ``Recent``, in seconds and in requests of stable."""
_MOST_CURSORS = 200
"""A router that is not ready keeps its cursor: if it comes back, its requests must not count twice."""
_MOST_PAGES = 200
"""Pods of stable of which anything is remembered; those of more are not read."""


@dataclass(frozen=True)
class _Block:
    """What the routers counted since the last reading."""

    weights: Mapping[int, Sides]
    uncounted: Mapping[str, int]


def first_evidence(observed: Observed, candidate: Candidate, now: float) -> Evidence:
    """Return the evidence of a candidate that gets its first copies or its first weight: what was counted before is
    not part of it, except the pairs of its rehearsal."""
    _, cursors = _read(observed.routers, {}, candidate.revision)
    pods = _watch_pods(observed.revision(candidate.revision).pods, {}, now)
    state = EvidenceState(
        routers=cursors,
        pods=pods,
        recent=Recent(since=now),
        pages=_former(observed, candidate),
        quality=labels.first(observed),
    )
    return Evidence(state=state)


def after_rehearsal(rehearsed: Evidence, observed: Observed, candidate: Candidate, now: float) -> Evidence:
    """Return the evidence of a candidate that gets its first weight after a rehearsal: the pairs, and no request."""
    first, before = first_evidence(observed, candidate, now), rehearsed.state
    dropped = max(before.dropped_until, first.state.dropped_until)
    state = replace(
        first.state,
        pages=before.pages,
        pairs_since=before.pairs_since,
        past=before.past,
        excused=before.excused,
        marks=before.marks,
        dropped_until=dropped,
    )
    return replace(first, state=state)


def fresh_evidence(model: MLModel, observed: Observed, status: Status, now: float) -> Evidence | None:
    """Return the evidence in ``status`` plus what was counted since; None unless candidate and stable get requests."""
    candidate = status.candidate
    if candidate is None or status.stable is None or candidate.evidence is None:
        return None
    gates = model.spec.rollout.gates
    fresh = gather(candidate.evidence, observed, candidate, now=now, max_percent=gates.errors.max_percent)
    if gates.quality is None:
        return fresh
    quality = labels.count(fresh.state.quality, observed, gates.quality)
    return replace(fresh, state=replace(fresh.state, quality=quality))


def gather(evidence: Evidence, observed: Observed, candidate: Candidate, *, now: float, max_percent: float) -> Evidence:
    """Return the evidence after one more reading of all routers and of the pages of stable's pods."""
    state = evidence.state
    block, cursors = _read(observed.routers, state.routers, candidate.revision)
    pods = _watch_pods(observed.revision(candidate.revision).pods, state.pods, now)
    has_gone = bool(state.pods.keys() - pods.keys())
    dropped_until = now + GONE_SECONDS if has_gone else state.dropped_until
    state = replace(state, routers=cursors, pods=pods, dropped_until=dropped_until)
    is_dropped = has_gone or _is_dropped(evidence.state, pods, last=evidence.at or candidate.since)
    state = _read_pages(state, observed, candidate.revision, now=now, is_dropped=is_dropped)
    if is_dropped:
        return replace(evidence, state=state)
    return _count(replace(evidence, state=state), block, now=now, max_percent=max_percent)


def _count(evidence: Evidence, block: _Block, *, now: float, max_percent: float) -> Evidence:
    state = evidence.state
    hard, segments, stable = state.hard, state.segments, evidence.stable
    recent, before = Counts(), difference.credited(segments)
    for weight, sides in sorted(block.weights.items()):
        hard = errors.update_hard(hard, state.blocks, weight, sides, max_percent=max_percent, before=before)
        segments = difference.add(segments, weight, sides)
        stable += sides.stable
        recent += errors.stable_counts(weight, sides)
    state = replace(
        state,
        hard=hard,
        blocks=state.blocks + 1 if block.weights else state.blocks,
        segments=segments,
        recent=_recent(state.recent, recent, now),
        uncounted={
            kind: state.uncounted.get(kind, 0) + block.uncounted.get(kind, 0)
            for kind in sorted(state.uncounted.keys() | block.uncounted.keys())
        },
    )
    candidate = sum((sides.candidate for sides in block.weights.values()), evidence.candidate)
    counted = replace(evidence, candidate=candidate, stable=stable, state=state)
    verdict = errors.judge(counted, max_percent=max_percent)
    return replace(counted, against=round(min(verdict.against, 1e9), 3))


# ------------------------------------------------------------------------------------------------------------- routers


def _read(routers: Collection[Router], last: Mapping[str, Cursor], revision: str) -> tuple[_Block, dict[str, Cursor]]:
    """Return what the routers counted for this candidate since ``last``, and their counts to store."""
    weights: dict[int, Sides] = {}
    uncounted: dict[str, int] = {}
    cursors = dict(last)
    for router in routers:
        if not router.boot:
            continue
        cursor = last.get(router.name, Cursor())
        cursor = cursor if cursor.boot == router.boot else Cursor(router.boot)
        if router.candidate != revision:
            # It has not followed this candidate yet.
            cursors[router.name] = cursor if cursor.weights else Cursor(router.boot, {}, dict(router.uncounted))
            continue
        for weight, now in router.weights.items():
            before = cursor.weights.get(str(weight), Sides())
            block = now if now.is_reset_since(before) else now - before
            if block != Sides():
                weights[weight] = weights.get(weight, Sides()) + block
        for kind, number in router.uncounted.items():
            new = number - cursor.uncounted.get(kind, 0)
            uncounted[kind] = uncounted.get(kind, 0) + (new if new >= 0 else number)
        counts = {str(weight): sides for weight, sides in router.weights.items()}
        cursors[router.name] = Cursor(router.boot, counts, dict(router.uncounted))
    if len(cursors) > _MOST_CURSORS:
        cursors = {router.name: cursors[router.name] for router in routers if router.name in cursors}
    return _Block(weights, uncounted), cursors


# --------------------------------------------------------------------------------------------------------------- pages


def _former(observed: Observed, candidate: Candidate) -> dict[str, Page]:
    """Return the pages that may be of an earlier rehearsal of this revision: a pod shows them until it has read the new
    routes. Newer pods say of which rehearsal their page is."""
    return {
        found.pod: Page(found.boot, is_former=True)
        for found in observed.rehearsing
        if not found.is_named and (not found.boot or found.candidate == candidate.revision)
    }


def _read_pages(
    state: EvidenceState, observed: Observed, revision: str, *, now: float, is_dropped: bool
) -> EvidenceState:
    """Return the state with the present pages of stable's pods; what a process that has gone had counted stays.

    A pod that is not ready, or not read this time, keeps its page: if it comes back, its pairs must not count twice.
    """
    pages, past, excused = dict(state.pages), state.past, state.excused
    for found in observed.rehearsing:
        before = _before(pages, found, revision)
        if before is None:
            continue
        is_same = before.boot == found.boot
        if not is_same:
            past += _ended(before)
        if is_dropped:
            known = before.pairs.pairs.candidate_failed if is_same else 0
            excused += max(found.pairs.pairs.candidate_failed - known, 0)
        pages[found.pod] = Page(found.boot, found.pairs)
    present = {pod.name for known in observed.revisions.values() for pod in known.pods}
    for name in sorted(pages.keys() - present):
        past += _ended(pages.pop(name))
    past += _fold(pages, {found.pod for found in observed.rehearsing})
    state = replace(state, pages=pages, past=past, excused=excused)
    if not state.pairs.pairs.all:
        return state
    return replace(state, pairs_since=state.pairs_since or now, marks=late.marked(state.marks, state.pairs, now))


def _before(pages: dict[str, Page], found: Rehearsing, revision: str) -> Page | None:
    """Return what was known of a pod before this reading; None if the reading does not count."""
    before = pages.get(found.pod, Page())
    if not found.boot or (found.pod not in pages and len(pages) >= _MOST_PAGES):
        return None
    if found.candidate != revision:
        if before == Page("", is_former=True):  # so what it shows next is of this rehearsal
            del pages[found.pod]
        return None
    if before.is_former and not found.is_named and before.boot in ("", found.boot):
        pages[found.pod] = Page(found.boot, is_former=True)
        return None
    return None if before.is_folded and before.boot == found.boot else before


def _fold(pages: dict[str, Page], read: set[str]) -> Pairs:
    """Take the pairs of pods that are not read any more out of their pages, if there are many, and return their sum:
    autoscaling makes new pods, and all pages are in the status."""
    whole = sorted(name for name, page in pages.items() if page.pairs != Pairs())
    folded = [name for name in whole if name not in read][: max(len(whole) - MOST_REHEARSING, 0)]
    past = Pairs()
    for name in folded:
        past += _ended(pages[name])
        pages[name] = Page(pages[name].boot, is_folded=True)
    return past


def _ended(page: Page) -> Pairs:
    """Return what a process that counts no more adds to all pairs."""
    return Pairs() if page.is_former else replace(page.pairs, kept=0, left=0)


# ---------------------------------------------------------------------------------------------------------------- pods


def _watch_pods(pods: Iterable[Pod], last: Mapping[str, float], now: float) -> dict[str, float]:
    """Return the candidate's pods, each with the time until which its termination makes the operator drop readings."""
    return {
        pod.name: (last.get(pod.name) or round(now + TERMINATING_SECONDS, 3)) if pod.terminating else 0.0
        for pod in pods
    }


def _is_dropped(before: EvidenceState, pods: Mapping[str, float], *, last: float) -> bool:
    """Whether a pod of the candidate was being replaced at some time since the ``last`` reading.

    Its version did not cause the failures of that time. They cannot be separated from the others, so none counts. A
    container that restarts in place is not a replacement.
    """
    return max((before.dropped_until, *before.pods.values(), *pods.values())) > last


def _former_boots(state: EvidenceState) -> dict[str, str]:
    return {name: page.boot for name, page in state.pages.items() if page.is_former}


def must_write(written: Evidence, fresh: Evidence, now: float) -> bool:
    """Whether to write ``fresh`` at once: the time of the first pair, which pages are of an earlier rehearsal, what is
    dropped, and where dropping ends must not depend on the next reading."""
    before, after = written.state, fresh.state
    if _former_boots(before) != _former_boots(after):
        return True
    if bool(before.pairs_since) != bool(after.pairs_since):
        return True
    if before.pods != after.pods or before.dropped_until != after.dropped_until:
        return True
    ends = max((before.dropped_until, *before.pods.values()))
    return written.at is not None and written.at < ends <= now


# -------------------------------------------------------------------------------------------------------------- stable


def _recent(recent: Recent, block: Counts, now: float) -> Recent:
    """Return the requests of stable in the last half minute after ``block``."""
    is_full = now >= recent.since + RECENT_SECONDS and recent.now.requests >= _RECENT_REQUESTS
    if is_full:
        return Recent(block, recent.now, now)
    return replace(recent, now=recent.now + block)


# ------------------------------------------------------------------------------------------------------- what is shown


def observed_percent(evidence: Evidence, weight: int) -> float | None:
    """Return the candidate's percentage of the requests that were drawn at the present weight; None without any."""
    step = difference.at_weight(evidence.state.segments, weight)
    return round(100.0 * step.candidate.requests / step.requests, 1) if step.requests else None


def step_requests(evidence: Evidence, weight: int) -> int:
    """Return the number of the candidate's counted requests at the present weight."""
    return difference.at_weight(evidence.state.segments, weight).candidate.requests
