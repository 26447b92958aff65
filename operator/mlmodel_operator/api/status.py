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
    """The revision that serves requests."""

    version: Annotated[str, Doc("Version: the label that people read.")]
    revision: Annotated[str, Doc("Revision: the first 8 hexadecimal digits of the SHA-256 over what its pods run.")]
    slot: Annotated[Slot, Doc("Slot of the router that points to it.")]
    snapshot: Annotated[Snapshot, Doc("What its pods run.")]
    digest: Annotated[str, Doc("Digest of the model; absent unless the spec pins it.")] = ""
    replicas: Annotated[int, Doc("Number of pods desired.")] = 0
    ready_replicas: Annotated[int, Doc("Number of pods ready.")] = 0


@dataclass(frozen=True)
class Candidate:
    """The revision that is being rolled out."""

    version: Annotated[str, Doc("Version: the label that people read.")]
    revision: Annotated[str, Doc("Revision: the first 8 hexadecimal digits of the SHA-256 over what its pods run.")]
    phase: Annotated[CandidatePhase, Doc("Phase of its rollout.")]
    snapshot: Annotated[Snapshot, Doc("What its pods run.")]
    started_at: Annotated[Time, Doc("Time at which the rollout began.")]
    since: Annotated[Time, Doc("Time at which the present phase or step began.")]
    slot: Annotated[Slot | None, Doc("Slot of the router that points to it; absent before it gets requests.")] = None
    digest: Annotated[str, Doc("Digest of the model; absent unless the spec pins it.")] = ""
    weight: Annotated[int, Doc("Share of the requests that it gets, in percent, 0 to 100.")] = 0
    observed_percent: Annotated[
        float | None, Doc("Share of the requests of this step that the routers counted, in percent.")
    ] = None
    step: Annotated[int, Doc("Number of the present step, from 1.")] = 0
    steps: Annotated[int, Doc("Number of steps in the spec.")] = 0
    replicas: Annotated[int, Doc("Number of pods desired.")] = 0
    ready_replicas: Annotated[int, Doc("Number of pods ready.")] = 0
    down_since: Annotated[
        Time | None, Doc("Time since which it has no ready pod, though it had one; absent if it has one.")
    ] = None
    stable_down_since: Annotated[
        Time | None, Doc("Time since which stable has no ready pod; absent if it has one.")
    ] = None
    evidence: Annotated[Evidence | None, Doc("Requests and errors so far, and what they prove.")] = None


@dataclass(frozen=True)
class Draining:
    """A revision that gets no new request and is removed when its requests in flight are answered."""

    revision: Annotated[str, Doc("Revision.")]
    outcome: Annotated[
        Outcome, Doc("Why it is removed: RolledBack, Superseded, Reverted, or Promoted for the stable before.")
    ]
    slot: Annotated[Slot | None, Doc("Slot of the router that pointed to it.")] = None
    until: Annotated[
        Time | None, Doc("Time of its removal; absent until every router has confirmed the new routes.")
    ] = None


@dataclass(frozen=True)
class Rejected:
    """A revision that is not rolled out again unless spec.rollout.retry changes."""

    revision: Annotated[str, Doc("Revision.")]
    version: Annotated[str, Doc("Version: the label that people read.")]
    reason: Annotated[str, Doc("Machine-readable reason in CamelCase.")]
    message: Annotated[str, Doc("Human-readable message.")]
    at: Annotated[Time, Doc("Time of the rejection.")]
    weight: Annotated[int, Doc("Share of the requests that it had, in percent; 0: it never got a request.")] = 0
    retry: Annotated[str, Doc("Value of spec.rollout.retry at that time; another value tries the revision again.")] = ""


@dataclass(frozen=True)
class HistoryEntry:
    """One finished rollout."""

    revision: Annotated[str, Doc("Revision.")]
    version: Annotated[str, Doc("Version: the label that people read.")]
    outcome: Annotated[Outcome, Doc("How it ended: Promoted, RolledBack, Superseded or Reverted.")]
    started_at: Annotated[Time, Doc("Time at which it began.")]
    ended_at: Annotated[Time, Doc("Time at which it ended.")]
    message: Annotated[str, Doc("Human-readable message.")] = ""


@dataclass(frozen=True)
class Condition:
    """A standard Kubernetes condition."""

    type: Annotated[str, Doc("Ready, Available, Reconciling, Stalled, RolledBack or Paused.")]
    status: Annotated[ConditionStatus, Doc("True, False or Unknown.")]
    reason: Annotated[str, Doc("Machine-readable reason in CamelCase.")]
    message: Annotated[str, Doc("Human-readable message.")]
    last_transition_time: Annotated[Time, Doc("Time at which the condition last changed.")]
    observed_generation: Annotated[int, Doc("Generation of the spec that this was computed from.")] = 0


@dataclass(frozen=True)
class Status:
    """The whole ``status`` of an MLModel."""

    format_version: Annotated[
        int, Doc("Format of this status. An operator that meets a newer one changes nothing for the model.")
    ] = FORMAT_VERSION
    observed_generation: Annotated[int, Doc("Generation of the spec that this status was computed from.")] = 0
    url: Annotated[str, Doc("Address of the model inside the cluster.")] = ""
    phase: Annotated[Phase, Doc("Phase of the rollout; Stable without one.")] = "Stable"
    replicas: Annotated[str, Doc("Ready and desired pods of stable, for the column.")] = ""
    selector: Annotated[str, Doc("Label selector of the pods of stable, for the scale subresource.")] = ""
    stable: Annotated[Stable | None, Doc("The revision that serves requests.")] = None
    candidate: Annotated[Candidate | None, Doc("The revision that is being rolled out.")] = None
    draining: Annotated[tuple[Draining, ...], Doc("Revisions that finish their requests in flight.")] = ()
    rejected: Annotated[
        tuple[Rejected, ...], Doc("Revisions that were rolled back or rejected, newest first, up to 10.")
    ] = ()
    history: Annotated[tuple[HistoryEntry, ...], Doc("Finished rollouts, newest first, up to 10.")] = ()
    routes: Annotated[str, Doc("Identity of the routes that every router has confirmed.")] = ""
    conditions: Annotated[tuple[Condition, ...], Doc("Standard Kubernetes conditions.")] = ()


def rejection(status: Status, revision: str, retry: str) -> Rejected | None:
    """Return why a revision is not rolled out; None if it never failed, or ``retry`` has another value than then."""
    return next((item for item in status.rejected if item.revision == revision and item.retry == retry), None)


def verdict_on(rejected: Rejected) -> str:
    """Return how it ended, as a clause for messages."""
    return "was rolled back" if rejected.weight else "was rejected before it got a request"


def revision_of(held: Stable | Candidate) -> Revision:
    """Return the snapshot in status as a revision to build."""
    return Revision(held.revision, held.snapshot)
