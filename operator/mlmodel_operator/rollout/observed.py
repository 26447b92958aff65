"""What the cluster looks like at one moment, reduced to what decisions need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..api.status import Cursor, Slot


@dataclass(frozen=True)
class Pod:
    """One serving pod."""

    name: str
    created: float
    ready: bool = False
    leaving: bool = False
    restarts: int = 0
    waiting: str = ""
    waiting_message: str = ""
    exit_code: int | None = None
    """Of the last container that ended."""
    exit_reason: str = ""
    exit_message: str = ""
    unschedulable: str = ""
    counts: Cursor | None = None
    """Cumulative counters of the present container; None when they could not be read."""


@dataclass(frozen=True)
class RevisionState:
    """The children of one revision."""

    pods: tuple[Pod, ...] = ()
    address: str = ""
    """ClusterIP of its Service; empty as long as there is none."""
    wanted: int = 0
    """Pods that its Deployment wants now."""

    @property
    def ready(self) -> int:
        """Pods that answer."""
        return sum(pod.ready and not pod.leaving for pod in self.pods)


@dataclass(frozen=True)
class Router:
    """One router pod that is ready."""

    name: str
    created: float
    routes: str = ""
    """Identity of the routes that it follows; empty when it could not be asked."""
    slots: Mapping[Slot, tuple[int, int]] = field(default_factory=dict)
    """Per slot, requests that it was given and how many of them it failed, since the process began."""


@dataclass(frozen=True)
class Observed:
    """One model's children."""

    revisions: Mapping[str, RevisionState] = field(default_factory=dict)
    routers: tuple[Router, ...] = ()
    source_problem: str = ""
    """What is missing for the wanted revision's model to be mounted, in one sentence."""
    reachable: bool = True
    """Whether the model's address answers; true where nobody had to look."""
    denied: str = ""
    """Why no pod of the wanted revision may be made, in one sentence; empty if they may."""

    def revision(self, identity: str) -> RevisionState:
        """The state of a revision; empty when nothing of it exists."""
        return self.revisions.get(identity, RevisionState())
