"""Steps by weight, and what the next one requires."""

from __future__ import annotations

from dataclasses import dataclass

from mlmodel_operator.api.types import Rollout, Step
from mlmodel_operator.rollout.evidence import errors


@dataclass(frozen=True)
class Target:
    """The next weight, and the proof that it requires."""

    weight: int
    """Percentage of the requests; 100 after the last step."""
    limit: float
    """By how much (0 to 1) the candidate's failure rate may exceed that of stable."""


def next_target(rollout: Rollout, weight: int) -> Target:
    """Return the target after ``weight``. The weight identifies a step, so edited steps never restart a rollout."""
    following = min((step.weight for step in rollout.steps if step.weight > weight), default=100)
    return Target(following, errors.limit_for(following, max_percent=rollout.gates.errors.max_percent))


def needs_proof(weight: int, target: Target) -> bool:
    """Whether requests must prove the target. At a weight of 0 none count, and the next step is a first one, which
    needs no such proof; but no candidate gets all requests without one."""
    return weight > 0 or target.weight == 100


def step_at(steps: tuple[Step, ...], weight: int) -> Step:
    """Return the step with this weight; one without minimums if the steps have been edited."""
    return next((step for step in steps if step.weight == weight), Step(weight))


def number(steps: tuple[Step, ...], weight: int) -> int:
    """Return the number of the step with this weight, from 1."""
    return sum(step.weight <= weight for step in steps)
