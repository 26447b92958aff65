"""The two results of a decision: the status stays, or it makes one transition."""

from __future__ import annotations

from dataclasses import dataclass

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.status import Status
from mlmodel_operator.rollout.plan import Notice

PAUSED = "spec.rollout.paused is true"


@dataclass(frozen=True)
class Stay:
    """No transition: the rollout waits, or there is none."""

    why: str = ""
    """What the rollout waits for, as a clause for the message of Ready; empty if the rest of the message says it.

    Without a figure that changes with each decision: every change is a write of status.
    """
    reason: Reason | None = None
    """The reason of Ready, if it is not that of the phase."""


@dataclass(frozen=True)
class Transition:
    """The next state, and what to report about it."""

    status: Status
    notices: tuple[Notice, ...] = ()


Decision = Stay | Transition
