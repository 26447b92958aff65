"""Where a share stands among the steps, and what the next one takes."""

from __future__ import annotations

from ..api.status import Evidence
from ..api.types import Rollout, Step
from .evidence import errors


def next_weight(steps: tuple[Step, ...], weight: int) -> int:
    """The share after ``weight``: progress is kept by weight, so that edited steps never restart a rollout."""
    return min((step.weight for step in steps if step.weight > weight), default=100)


def step_at(steps: tuple[Step, ...], weight: int) -> Step:
    """The step with this share; one without conditions when the steps were edited meanwhile."""
    return next((step for step in steps if step.weight == weight), Step(weight))


def number(steps: tuple[Step, ...], weight: int) -> int:
    """The number of the step with this share, from 1."""
    return sum(step.weight <= weight for step in steps)


def goal(rollout: Rollout, weight: int, evidence: Evidence) -> tuple[int, float]:
    """The share after ``weight``, and the error rate (0 to 1) below which the candidate must be proven to be for it."""
    target = next_weight(rollout.steps, weight)
    return target, errors.limit_for(target, max_percent=rollout.gates.errors.max_percent, stable=evidence.stable)
