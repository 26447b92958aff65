"""When evidence is written to status."""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.evidence import Evidence, EvidenceState, Repeated
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Candidate, Status
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.evidence import chain, pairs
from mlmodel_operator.rollout.evidence.gather import must_write, observed_percent

CHECKPOINT_SECONDS = 10.0
"""Time between writes of evidence without a transition. Counters are cumulative, so nothing is lost in between."""


def checkpoint(context: Context) -> Status:
    """Return the status with fresh evidence, if the evidence has changed and a write is due."""
    status, fresh = context.status, context.evidence
    if status.candidate is None or status.candidate.evidence is None or fresh is None:
        return status
    written = status.candidate.evidence
    has_changed = replace(fresh, at=written.at) != written
    if not has_changed or not _is_due(written, fresh, context.now):
        return status
    return stamp(replace(status, candidate=replace(status.candidate, evidence=fresh)), context.now)


def _is_due(written: Evidence, fresh: Evidence, now: float) -> bool:
    return written.at is None or now >= written.at + CHECKPOINT_SECONDS or must_write(written, fresh, now)


def stamp(status: Status, now: float) -> Status:
    """Return the status with the time of its evidence, and the percentage of the requests that the candidate got."""
    candidate = status.candidate
    if candidate is None or candidate.evidence is None:
        return status
    evidence, state = candidate.evidence, candidate.evidence.state
    certified = pairs.certified_percent(state.segments, state.pairs)
    stamped = replace(
        candidate,
        evidence=replace(evidence, at=Time(now), certified_percent=certified),
        observed_percent=observed_percent(evidence, candidate.weight),
        rehearsal=_rehearsal(status, candidate, state, certified),
    )
    return replace(status, candidate=stamped)


def _rehearsal(status: Status, candidate: Candidate, state: EvidenceState, certified: float | None) -> Repeated | None:
    """Return what users read of the pairs; None if nothing was ever to be repeated."""
    found = state.pairs
    if status.stable is None or not (candidate.phase == "Validating" or state.pages or found.pairs.all):
        return None
    summary = chain.summary(found, certified, stable=status.stable.version, candidate=candidate.version)
    return replace(chain.figures(found, certified), left=found.left, message=summary)
