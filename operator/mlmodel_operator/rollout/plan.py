"""What a decision asks for; carried out by the controller in the order of the fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..api.status import Status
from ..api.types import Revision
from .routes import Routes


@dataclass(frozen=True)
class Want:
    """A revision whose children must exist."""

    revision: Revision
    pods: int
    """Number of pods; with an autoscaler, its lower bound."""


@dataclass(frozen=True)
class Notice:
    """An Event on the MLModel."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """The whole outcome of one decision."""

    wants: tuple[Want, ...]
    routes: Routes | None
    """None: leave the routes as they are, because an address is missing."""
    status: Status
    deletes: tuple[str, ...] = ()
    """Revisions whose children go."""
    notices: tuple[Notice, ...] = ()
    again: float | None = None
    """Seconds after which to decide again though nothing was seen to change."""
