"""``status`` of an MLModel: what users read, and all that the operator remembers between two reconciles.

Nothing about a rollout is kept anywhere else, so an operator that was killed goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from .schema import Doc, Time
from .types import Revision, Snapshot

Phase = Literal["Stable", "Preparing", "Canary", "Promoting", "Baking", "RollingBack", "Draining"]
CandidatePhase = Literal["Preparing", "Canary", "Promoting", "Baking"]
Slot = Literal["a", "b"]
ConditionStatus = Literal["True", "False", "Unknown"]
Outcome = Literal["Promoted", "RolledBack", "Superseded", "Reverted"]

MAX_REJECTED = 10
MAX_HISTORY = 10


@dataclass(frozen=True)
class Stable:
    """The version that answers the requests."""

    version: Annotated[str, Doc("Name of the version, for people.")]
    revision: Annotated[str, Doc("Identity: head of the SHA-256 over what its pods run.")]
    slot: Annotated[Slot, Doc("Slot of the router that leads to it.")]
    snapshot: Annotated[Snapshot, Doc("What it runs.")]
    digest: Annotated[str, Doc("Digest of the model, when the spec pins it.")] = ""
    replicas: Annotated[int, Doc("Pods wanted.")] = 0
    ready_replicas: Annotated[int, Doc("Pods ready.")] = 0


@dataclass(frozen=True)
class Cursor:
    """How far the counters of one pod have been read (requests, client errors, server errors)."""

    requests: int = 0
    client_errors: int = 0
    server_errors: int = 0


@dataclass(frozen=True)
class Ledger:
    """Log-likelihood ratios of the error gate: the state of a test that may be looked at any time."""

    absolute: Annotated[
        tuple[float, ...], Doc("Against the limit, one natural logarithm per alternative error rate.")
    ] = ()
    relative: Annotated[tuple[float, ...], Doc("Against stable, one natural logarithm per risk ratio.")] = ()


@dataclass(frozen=True)
class Tally:
    """Requests and errors of one side since the rollout began."""

    requests: Annotated[int, Doc("Requests answered.")] = 0
    client_errors: Annotated[int, Doc("Answers with a 4xx code.")] = 0
    failed: Annotated[int, Doc("Answers with a 5xx code, and requests not answered at all.")] = 0


@dataclass(frozen=True)
class Evidence:
    """What has been seen of the candidate, and what it proves."""

    candidate: Annotated[Tally, Doc("Requests that the candidate was asked.")] = field(default_factory=Tally)
    stable: Annotated[Tally, Doc("Requests that stable was asked in the same time.")] = field(default_factory=Tally)
    against: Annotated[float, Doc("Evidence against the candidate; at 1000 it is rolled back.")] = 1.0
    certified_percent: Annotated[
        float | None, Doc("Error rate, in percent, below which the candidate has been proven to be.")
    ] = None
    ledger: Annotated[Ledger, Doc("State of the sequential tests.")] = field(default_factory=Ledger)
    counted: Annotated[Tally, Doc("Requests of the candidate as its own pods counted them.")] = field(
        default_factory=Tally
    )
    routed: Annotated[
        tuple[int, ...], Doc("Requests that the routers gave to candidate and stable, and failures of the candidate.")
    ] = (0, 0, 0)
    excused: Annotated[
        int, Doc("Failures that only the routers saw while a pod was being replaced: no fault of the version.")
    ] = 0
    step_routed: Annotated[tuple[int, ...], Doc("The first two of routed when the present step began.")] = (0, 0)
    pods: Annotated[Mapping[str, Cursor], Doc("How far each pod's counters have been read.")] = field(
        default_factory=dict
    )
    routers: Annotated[
        Mapping[str, tuple[int, ...]], Doc("How far each router's counters have been read, in the order of routed.")
    ] = field(default_factory=dict)
    at: Annotated[Time | None, Doc("When these figures were last written; they are kept every 10 seconds.")] = None


@dataclass(frozen=True)
class Candidate:
    """The version on its way in."""

    version: Annotated[str, Doc("Name of the version, for people.")]
    revision: Annotated[str, Doc("Identity: head of the SHA-256 over what its pods run.")]
    phase: Annotated[CandidatePhase, Doc("How far it is.")]
    snapshot: Annotated[Snapshot, Doc("What it runs.")]
    started_at: Annotated[Time, Doc("When the rollout began.")]
    since: Annotated[Time, Doc("When the present phase or step began.")]
    slot: Annotated[Slot | None, Doc("Slot of the router that leads to it, once it has one.")] = None
    digest: Annotated[str, Doc("Digest of the model, when the spec pins it.")] = ""
    weight: Annotated[int, Doc("Share of the requests that it gets, in percent.")] = 0
    observed_percent: Annotated[float | None, Doc("Share that the routers counted in this step, in percent.")] = None
    step: Annotated[int, Doc("Number of the present step, from 1.")] = 0
    steps: Annotated[int, Doc("Number of steps.")] = 0
    replicas: Annotated[int, Doc("Pods wanted.")] = 0
    ready_replicas: Annotated[int, Doc("Pods ready.")] = 0
    down_since: Annotated[Time | None, Doc("Since when it has had no ready pod, though it had before.")] = None
    stable_down_since: Annotated[Time | None, Doc("Since when stable has had no ready pod.")] = None
    evidence: Annotated[Evidence | None, Doc("What has been seen of it.")] = None


@dataclass(frozen=True)
class Leaving:
    """A revision that gets no new request and is removed when its last ones are answered."""

    revision: Annotated[str, Doc("Which revision.")]
    outcome: Annotated[Outcome, Doc("Why it leaves: RolledBack, Superseded, Reverted, or Promoted for an old stable.")]
    slot: Annotated[Slot | None, Doc("Slot of the router that led to it.")] = None
    until: Annotated[Time | None, Doc("When it is removed; unset until every router has confirmed the new routes.")] = (
        None
    )


@dataclass(frozen=True)
class Rejected:
    """A revision that is not tried again by itself."""

    revision: Annotated[str, Doc("Which revision.")]
    version: Annotated[str, Doc("Name of the version, for people.")]
    reason: Annotated[str, Doc("One word for machines.")]
    message: Annotated[str, Doc("One sentence for people.")]
    at: Annotated[Time, Doc("When.")]
    weight: Annotated[int, Doc("Share of the requests that it had, in percent; 0: it never got one.")] = 0
    retry: Annotated[str, Doc("Value of spec.rollout.retry then; another value tries it again.")] = ""


@dataclass(frozen=True)
class HistoryEntry:
    """One rollout that has ended."""

    revision: Annotated[str, Doc("Which revision.")]
    version: Annotated[str, Doc("Name of the version, for people.")]
    outcome: Annotated[Outcome, Doc("How it ended.")]
    started_at: Annotated[Time, Doc("When it began.")]
    ended_at: Annotated[Time, Doc("When it ended.")]
    message: Annotated[str, Doc("One sentence for people.")] = ""


@dataclass(frozen=True)
class Condition:
    """A standard Kubernetes condition."""

    type: Annotated[str, Doc("Ready, Available, Reconciling, Stalled, RolledBack or Paused.")]
    status: Annotated[ConditionStatus, Doc("True, False or Unknown.")]
    reason: Annotated[str, Doc("One word for machines.")]
    message: Annotated[str, Doc("One sentence for people.")]
    last_transition_time: Annotated[Time, Doc("When the status last changed.")]
    observed_generation: Annotated[int, Doc("Generation of the spec that this was computed from.")] = 0


@dataclass(frozen=True)
class Status:
    """The whole ``status`` of an MLModel."""

    observed_generation: Annotated[int, Doc("Generation of the spec that this status was computed from.")] = 0
    url: Annotated[str, Doc("Where the model answers, inside the cluster.")] = ""
    phase: Annotated[Phase, Doc("Where the rollout is.")] = "Stable"
    replicas: Annotated[str, Doc("Ready and wanted pods of stable, for the column.")] = ""
    stable: Annotated[Stable | None, Doc("The version that answers the requests.")] = None
    candidate: Annotated[Candidate | None, Doc("The version on its way in.")] = None
    leaving: Annotated[tuple[Leaving, ...], Doc("Revisions that answer their last requests.")] = ()
    rejected: Annotated[tuple[Rejected, ...], Doc("Versions that were rolled back, newest first.")] = ()
    history: Annotated[tuple[HistoryEntry, ...], Doc("Rollouts that ended, newest first.")] = ()
    routes: Annotated[str, Doc("Identity of the routes that every router has confirmed.")] = ""
    conditions: Annotated[tuple[Condition, ...], Doc("The state in standard conditions.")] = ()


def rejection(status: Status, revision: str, retry: str) -> Rejected | None:
    """Why a revision is not tried again by itself; None when it never failed, or ``retry`` asks for another try."""
    return next((item for item in status.rejected if item.revision == revision and item.retry == retry), None)


def verdict_on(rejected: Rejected) -> str:
    """How it ended, for people."""
    return "was rolled back" if rejected.weight else "was rejected before it got a request"


def revision_of(held: Stable | Candidate) -> Revision:
    """The snapshot in status as a revision to build."""
    return Revision(held.revision, held.snapshot)
