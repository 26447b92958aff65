"""What a decision asks for; carried out by the controller in the order of the fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.status import Status
from mlmodel_operator.api.types import Revision
from mlmodel_operator.rollout.routes import Routes


@dataclass(frozen=True)
class DesiredRevision:
    """A revision whose children must exist."""

    revision: Revision
    replicas: int
    """Number of pods; with an autoscaler, its lower bound."""


@dataclass(frozen=True)
class Notice:
    """An Event on the MLModel."""

    type: Literal["Normal", "Warning"]
    reason: Reason
    message: str


@dataclass(frozen=True)
class Plan:
    """The whole outcome of one decision."""

    desired: tuple[DesiredRevision, ...]
    routes: Routes | None
    """None: leave the routes as they are, because an address is missing."""
    status: Status
    deletes: tuple[str, ...] = ()
    """Revisions whose children are deleted."""
    notices: tuple[Notice, ...] = ()
    requeue_after: float | None = None
    """Seconds after which to decide again even if nothing changes; None: only a change leads to the next decision."""
