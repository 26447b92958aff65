"""The two results of looking at a rollout: its state stays, or it takes one transition."""

from __future__ import annotations

from dataclasses import dataclass

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.status import Status
from mlmodel_operator.rollout.plan import Notice


@dataclass(frozen=True)
class Stay:
    """No transition: the rollout waits for something, or there is none."""

    why: str = ""
    """What it waits for, as a clause for the message of Ready.

    Without a figure that changes from look to look: each change is a write of status.
    """
    reason: Reason | None = None
    """The reason of Ready, where the phase does not say enough."""


@dataclass(frozen=True)
class Transition:
    """The next state, and what to report about it."""

    status: Status
    notices: tuple[Notice, ...] = ()


Decision = Stay | Transition
