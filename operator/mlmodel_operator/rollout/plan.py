"""Result of a decision, which the controller carries out."""

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
    """Number of pods; with an autoscaler, its minimum."""


@dataclass(frozen=True)
class Notice:
    """An Event on the MLModel."""

    type: Literal["Normal", "Warning"]
    reason: Reason
    message: str


@dataclass(frozen=True)
class Plan:
    """Everything that one decision changes in the cluster."""

    desired: tuple[DesiredRevision, ...]
    routes: Routes | None
    """None: do not change the routes, because an address is not known yet."""
    status: Status
    rehearsal: str = ""
    """The file that names the candidate of a rehearsal to the servers; empty if there is none. Its place is beside the
    routes."""
    deletes: tuple[str, ...] = ()
    """Revisions whose children are deleted."""
    notices: tuple[Notice, ...] = ()
    requeue_after: float | None = None
    """Seconds after which to requeue the model if nothing changes; None: only a change requeues it."""
