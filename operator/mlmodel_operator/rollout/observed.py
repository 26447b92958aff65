"""State of the cluster at one moment, reduced to what decisions require."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlmodel_operator.api.evidence import LabelSides, Pairs, Sides
from mlmodel_operator.api.figures import Calls, Drift
from mlmodel_operator.names import ROUTER_STATUS_PORTS

MANY_RESTARTS = 2
"""Number of restarts from which on a container that does not start is in a crash loop."""

MOST_REHEARSING = 20
"""Number of pods of stable whose pages are read: their counts are in the status. More would prove little more."""

if TYPE_CHECKING:  # routes.py imports this module
    from mlmodel_operator.rollout.routes import Routes


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
    fetching: bool = False
    """Whether its init container is fetching the model; until it has, what follows is about that container."""
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


@dataclass(frozen=True)
class RevisionState:
    """The children of one revision, or those of the router."""

    pods: tuple[Pod, ...] = ()
    address: str = ""
    """ClusterIP of its Service; empty until the Service has one."""
    replicas: int = 0
    """``spec.replicas`` of its Deployment."""
    deployed: bool = False
    """Whether its Deployment exists."""
    files_sha256: str = ""
    """Digest that its Deployment requires of the files of a ConfigMap; empty if it requires none."""
    replica_failure: str = ""
    """Why its Deployment cannot create pods (a quota, an admission policy); empty if it can."""
    rehearses: bool = False
    """Whether its pods keep a sample of their requests, and answer copies of requests."""
    has_page: bool = False
    """Whether its pods have a page with labels."""

    @property
    def ready(self) -> int:
        """Number of pods that are ready."""
        return sum(pod.ready and not pod.terminating for pod in self.pods)


_NOTHING = RevisionState()
"""A revision without children; a decision looks up some thirty revisions."""


@dataclass(frozen=True)
class Router:
    """One HAProxy process of a router pod that is ready."""

    name: str
    """Name of the pod, ``/`` and the number of the process, from 1."""
    routes: str = ""
    """Identity of the routes that the router follows; empty if it could not be read."""
    boot: str = ""
    """Identity of the router's process; empty if it could not be read."""
    candidate: str = ""
    """Revision whose requests ``weights`` counts; empty if the routes have no candidate."""
    stable_ms: int = 0
    """Average response time of stable in milliseconds over its last requests; 0 without any."""
    weights: Mapping[int, Sides] = field(default_factory=dict)
    """Requests that count as evidence, by the weight (percent) under which they were drawn."""
    uncounted: Mapping[str, int] = field(default_factory=dict)
    """Predictions that cannot count, by kind: ``large``, ``chosen``, ``crowd`` and ``other``."""
    tls: str = ""
    """``former`` if the router could not take the mounted certificate over, and uses the one before."""
    keys: str = ""
    """``former`` or ``closed`` if the file of API keys is not valid: the keys before are valid, or none."""
    silent_since: float | None = None
    """Time since which the router has not answered the operator; None if it answered or was not asked."""
    behind_since: float | None = None
    """Time since which the router has answered with other routes than those that the status requires; None if it
    follows these, or could not be read."""
    port: int = ROUTER_STATUS_PORTS[0]
    """Port of its status."""

    @property
    def pod(self) -> str:
        """Name of the pod."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Rehearsing:
    """One ready pod of stable, and what its page says about the rehearsal of the candidate."""

    pod: str
    boot: str = ""
    """Identity of the process for one rehearsal, which counts from zero; empty if the page could not be read."""
    candidate: str = ""
    """Revision that the pod rehearses; empty if it rehearses none."""
    pairs: Pairs = field(default_factory=Pairs)
    silent_since: float | None = None
    """Time since which the page could not be read; None if it was read or not asked."""
    is_named: bool = False
    """Whether the page says that it is of this rehearsal; those of an older release do not."""


@dataclass(frozen=True)
class Labelled:
    """One ready pod of either side, and what its page says about the labels of this rollout."""

    pod: str
    boot: str = ""
    """Identity of the process for one rollout, which counts from zero; empty if the page could not be read."""
    kind: str = ""
    """What the model predicts: ``classes`` or ``numbers``; empty before the first label."""
    bin: int = 0
    """Largest bin of errors that the page counts as right."""
    weights: Mapping[str, LabelSides] = field(default_factory=dict)
    """By the weight under which the predictions were drawn."""


@dataclass(frozen=True)
class Measured:
    """One ready pod of either side whose figures were read."""

    pod: str
    revision: str
    boot: str = ""
    """Identity of the server's start, which counts from zero."""
    calls: Calls = field(default_factory=Calls)
    milliwatts: int = 0
    """Assumed power of a busy CPU."""
    drift: Drift = field(default_factory=Drift)


@dataclass(frozen=True)
class Observed:
    """One model's children."""

    revisions: Mapping[str, RevisionState] = field(default_factory=dict)
    routers: tuple[Router, ...] = ()
    """The processes of all routers that are ready."""
    router: RevisionState = field(default_factory=RevisionState)
    """The Deployment of the routers and all its pods."""
    followed: Routes | None = None
    """The routes in the cluster, which the routers follow; None if there are none."""
    refusal: str = ""
    """Why the last write of a child failed, as a clause for messages; empty if it succeeded."""
    config_map_error: str = ""
    """Why the ConfigMap of the model could not be read; empty if it could, or did not have to be read."""
    files_sha256: str = ""
    """Digest of the files of the ConfigMap of the model; empty if it was not read."""
    missing_config_map: str = ""
    """Name of the ConfigMap of the model if it does not exist; empty if it exists or was not read."""
    reachable: bool = True
    """Whether the model's address answers; true if no request was sent because of ``needs_address``."""
    unreachable_since: float | None = None
    """Time since which the model's address has not answered; None if ``reachable``."""
    silent_services: Mapping[str, float] = field(default_factory=dict)
    """Revisions of ``needs_services`` whose Service did not answer, and the time since which it has not."""
    rehearsing: tuple[Rehearsing, ...] = ()
    """The ready pods of stable whose pages ``needs_pages`` requires; at most ``MOST_REHEARSING``."""
    labelled: tuple[Labelled, ...] = ()
    """The ready pods of both sides whose labels ``needs_labels`` requires; at most ``MOST_REHEARSING`` of each."""
    measured: tuple[Measured, ...] = ()
    """The ready pods of both sides that answered with the figures that ``needs_figures`` requires; at most
    ``MOST_REHEARSING`` of each."""
    denied: str = ""
    """Why this operator may not serve the desired revision, in one sentence; empty if it may."""

    def revision(self, identity: str) -> RevisionState:
        """Return the state of a revision; empty if it has no children."""
        return self.revisions.get(identity, _NOTHING)
