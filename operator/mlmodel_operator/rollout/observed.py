"""State of the cluster at one moment, reduced to what decisions require."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlmodel_operator.api.evidence import Counts
from mlmodel_operator.api.status import Slot

MANY_RESTARTS = 2


@dataclass(frozen=True)
class Pod:
    """One pod of a revision or of the router; restarts, waiting and exits are those of its main container."""

    name: str
    created: float
    ready: bool = False
    since: float | None = None
    """Time since which the pod is ready or not ready; None until its node has reported it."""
    started: bool = False
    """Whether the present container runs and has passed its startup probe."""
    terminating: bool = False
    restarts: int = 0
    """Number of restarts; numbers above ``MANY_RESTARTS`` are read as that one."""
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
    """The children of one revision, or those of the router."""

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
    silent_since: float | None = None
    """Time since which the router has not answered the operator; None if it answered or was not asked."""


@dataclass(frozen=True)
class Observed:
    """One model's children."""

    revisions: Mapping[str, RevisionState] = field(default_factory=dict)
    routers: tuple[Router, ...] = ()
    """The routers that are ready."""
    router: RevisionState = field(default_factory=RevisionState)
    """The Deployment of the routers and all its pods."""
    refusal: str = ""
    """Why the last write of a child failed, as a clause for messages; empty if it succeeded."""
    missing_config_map: str = ""
    """The ConfigMap that ``needs_config_map`` names, if it does not exist; empty if it exists or was not read."""
    reachable: bool = True
    """Whether the model's address answers; true if no request was sent because of ``needs_address``."""
    unreachable_since: float | None = None
    """Time since which the model's address has not answered; None if ``reachable``."""
    silent_services: Mapping[str, float] = field(default_factory=dict)
    """Revisions of ``needs_services`` whose Service did not answer, and the time since which it has not."""
    denied: str = ""
    """Why this operator may not serve the desired revision, in one sentence; empty if it may."""

    def revision(self, identity: str) -> RevisionState:
        """Return the state of a revision; empty if it has no children."""
        return self.revisions.get(identity, RevisionState())
