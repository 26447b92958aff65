"""When evidence is written to status."""

from __future__ import annotations

from dataclasses import replace

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
    if replace(fresh, at=held.at) == held or (held.at is not None and context.now < held.at + CHECKPOINT_SECONDS):
        return status
    return stamped(replace(status, candidate=replace(status.candidate, evidence=fresh)), context.now)


def stamped(status: Status, now: float) -> Status:
    """Return the status with the time of its evidence, and the share of requests that this evidence shows."""
    candidate = status.candidate
    if candidate is None or candidate.evidence is None:
        return status
    evidence = replace(candidate.evidence, at=Time(now))
    return replace(status, candidate=replace(candidate, evidence=evidence, observed_percent=observed_percent(evidence)))
