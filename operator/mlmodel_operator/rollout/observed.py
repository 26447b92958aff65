"""State of the cluster at one moment, reduced to what decisions require."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlmodel_operator.api.evidence import Counts
from mlmodel_operator.api.status import Slot

if TYPE_CHECKING:  # routes.py imports this module
    from mlmodel_operator.rollout.routes import Routes


@dataclass(frozen=True)
class Pod:
    """One server pod."""

    name: str
    created: float
    ready: bool = False
    terminating: bool = False
    restarts: int = 0
    waiting: str = ""
    waiting_message: str = ""
    exit_code: int | None = None
    """Exit code of the last container that exited."""
    exit_reason: str = ""
    exit_message: str = ""
    unschedulable: str = ""
    counts: Counts | None = None
    """Cumulative counters of the present container; None if they could not be read."""


@dataclass(frozen=True)
class RevisionState:
    """The children of one revision."""

    pods: tuple[Pod, ...] = ()
    address: str = ""
    """ClusterIP of its Service; empty until the Service has one."""
    replicas: int = 0
    """``spec.replicas`` of its Deployment."""
    replica_failure: str = ""
    """Why its Deployment cannot create pods (a quota, an admission policy); empty if it can."""

    @property
    def ready(self) -> int:
        """Number of pods that are ready."""
        return sum(pod.ready and not pod.terminating for pod in self.pods)


@dataclass(frozen=True)
class Router:
    """One router pod that is ready."""

    name: str
    created: float
    routes: str = ""
    """Identity of the routes that the router follows; empty if it could not be read."""
    slots: Mapping[Slot, Counts] = field(default_factory=dict)
    """Requests that the router sent to each slot and how many of them failed, since its process started."""


@dataclass(frozen=True)
class Observed:
    """One model's children."""

    revisions: Mapping[str, RevisionState] = field(default_factory=dict)
    routers: tuple[Router, ...] = ()
    followed: Routes | None = None
    """The routes in the cluster, which the routers follow; None if there are none."""
    refusal: str = ""
    """Why the last write of a child failed, as a clause for messages; empty if it succeeded."""
    config_map_missing: bool = False
    """Whether the ConfigMap that ``needs_config_map`` names does not exist; false if it was not read."""
    reachable: bool = True
    """Whether the model's address answers; true if no request was sent because of ``needs_address``."""
    denied: str = ""
    """Why this operator may not serve the desired revision, in one sentence; empty if it may."""

    def revision(self, identity: str) -> RevisionState:
        """Return the state of a revision; empty if it has no children."""
        return self.revisions.get(identity, RevisionState())
