"""``status`` of an MLModel: what users read, and all that the operator remembers between two reconciles.

Nothing about a rollout is kept anywhere else, so an operator that was killed continues where it stopped.

A change of these fields is a new format. CRD and operator are upgraded at different times, so a field may get another
name but never another type, and ``upgrade.py`` reads the format of the release before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from mlmodel_operator.api.evidence import Evidence
from mlmodel_operator.api.schema import Doc, Time
from mlmodel_operator.api.types import Revision, Snapshot

FORMAT_VERSION = 2
"""Format of the status that this release writes; a status that names none has format 1."""

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
    replicas: Annotated[int, Doc("Number of pods desired.")] = 0
    ready_replicas: Annotated[int, Doc("Number of pods ready.")] = 0


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
    replicas: Annotated[int, Doc("Number of pods desired.")] = 0
    ready_replicas: Annotated[int, Doc("Number of pods ready.")] = 0
    down_since: Annotated[Time | None, Doc("Since when it has had no ready pod, though it had before.")] = None
    stable_down_since: Annotated[Time | None, Doc("Since when stable has had no ready pod.")] = None
    evidence: Annotated[Evidence | None, Doc("What has been seen of it.")] = None


@dataclass(frozen=True)
class Draining:
    """A revision that gets no new request and is removed when its requests in flight are answered."""

    revision: Annotated[str, Doc("Which revision.")]
    outcome: Annotated[
        Outcome, Doc("Why it is removed: RolledBack, Superseded, Reverted, or Promoted for the stable before.")
    ]
    slot: Annotated[Slot | None, Doc("Slot of the router that led to it.")] = None
    until: Annotated[Time | None, Doc("When it is removed; unset until every router has confirmed the new routes.")] = (
        None
    )


@dataclass(frozen=True)
class Rejected:
    """A revision that is not tried again by itself."""

    revision: Annotated[str, Doc("Which revision.")]
    version: Annotated[str, Doc("Name of the version, for people.")]
    reason: Annotated[str, Doc("Machine-readable reason in CamelCase.")]
    message: Annotated[str, Doc("Human-readable message.")]
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
    reason: Annotated[str, Doc("Machine-readable reason in CamelCase.")]
    message: Annotated[str, Doc("Human-readable message.")]
    last_transition_time: Annotated[Time, Doc("When the status last changed.")]
    observed_generation: Annotated[int, Doc("Generation of the spec that this was computed from.")] = 0


@dataclass(frozen=True)
class Status:
    """The whole ``status`` of an MLModel."""

    format_version: Annotated[
        int, Doc("Format of this status. An operator that meets a newer one changes nothing for the model.")
    ] = FORMAT_VERSION
    observed_generation: Annotated[int, Doc("Generation of the spec that this status was computed from.")] = 0
    url: Annotated[str, Doc("Where the model answers, inside the cluster.")] = ""
    phase: Annotated[Phase, Doc("Where the rollout is.")] = "Stable"
    replicas: Annotated[str, Doc("Ready and desired pods of stable, for the column.")] = ""
    selector: Annotated[str, Doc("Label selector of the pods of stable, for the scale subresource.")] = ""
    stable: Annotated[Stable | None, Doc("The version that answers the requests.")] = None
    candidate: Annotated[Candidate | None, Doc("The version on its way in.")] = None
    draining: Annotated[tuple[Draining, ...], Doc("Revisions that finish their requests in flight.")] = ()
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
