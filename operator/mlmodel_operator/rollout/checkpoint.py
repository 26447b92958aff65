"""When evidence is written to status."""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.evidence import Evidence
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import Status
from mlmodel_operator.rollout.context import Context
from mlmodel_operator.rollout.evidence.gather import observed_percent

CHECKPOINT_SECONDS = 10.0
"""Time between writes of evidence without a transition: counters are cumulative, so nothing is lost in between."""


def checkpoint(context: Context) -> Status:
    """Return the status with fresh evidence, if a write is due and the evidence is not what status holds already."""
    status, fresh = context.status, context.evidence
    if status.candidate is None or status.candidate.evidence is None or fresh is None:
        return status
    held = status.candidate.evidence
    is_new = replace(fresh, at=held.at) != held
    if not is_new or not _is_due(held, fresh, context.now):
        return status
    return stamped(replace(status, candidate=replace(status.candidate, evidence=fresh)), context.now)


def _is_due(held: Evidence, fresh: Evidence, now: float) -> bool:
    # What is excused shows only while a pod is being replaced: it must be kept before that is over.
    excuses_more = fresh.state.excused > held.state.excused
    return excuses_more or held.at is None or now >= held.at + CHECKPOINT_SECONDS


def stamped(status: Status, now: float) -> Status:
    """Return the status with the time of its evidence, and the share of requests that this evidence shows."""
    candidate = status.candidate
    if candidate is None or candidate.evidence is None:
        return status
    evidence = replace(candidate.evidence, at=Time(now))
    return replace(status, candidate=replace(candidate, evidence=evidence, observed_percent=observed_percent(evidence)))
