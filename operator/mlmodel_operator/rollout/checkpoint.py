"""When evidence is written to status."""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.evidence import Evidence
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Status
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.evidence.errors import certified_percent
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
    evidence = candidate.evidence
    evidence = replace(evidence, at=Time(now), certified_percent=certified_percent(evidence.state.segments))
    percent = observed_percent(evidence, candidate.weight)
    return replace(status, candidate=replace(candidate, evidence=evidence, observed_percent=percent))
