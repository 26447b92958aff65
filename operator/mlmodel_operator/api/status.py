"""``status`` of an MLModel: what users read, and all that the operator keeps between two reconciles.

Nothing about a rollout is stored elsewhere, so an operator that was killed resumes where it stopped.

A change of these fields is a new format. CRD and operator are upgraded at different times, so a field may get another
name but never another type, and ``upgrade.py`` reads the format of the release before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from mlmodel_operator.api.evidence import Evidence, Repeated, Scores
from mlmodel_operator.api.figures import Figures
from mlmodel_operator.api.schema import Doc, Time
from mlmodel_operator.api.types import Revision, Snapshot

FORMAT_VERSION = 5
"""Format of the status that this release writes; a status without ``formatVersion`` has format 1."""

Phase = Literal["Stable", "Preparing", "Validating", "Canary", "Promoting", "Baking", "RollingBack", "Draining"]
CandidatePhase = Literal["Preparing", "Validating", "Canary", "Promoting", "Baking"]
BEFORE_REQUESTS: tuple[CandidatePhase, ...] = ("Preparing", "Validating")
"""Phases in which the candidate gets no request, unless it stands in for stable."""
Slot = Literal["a", "b"]
SLOTS: tuple[Slot, ...] = ("a", "b")
ConditionStatus = Literal["True", "False", "Unknown"]
Outcome = Literal["Promoted", "RolledBack", "Superseded", "Reverted"]

MAX_REJECTED = 10
MAX_HISTORY = 10
MAX_RETRIES = 20

_REVISION = re.compile(r"[0-9a-z]{1,63}")


def _check_revision(revision: str) -> None:
    """Raise TypeError for an identity that no decision makes: it is a part of names of objects."""
    if not _REVISION.fullmatch(revision):
        raise TypeError("revision must be 1 to 63 lower-case letters and digits")


@dataclass(frozen=True)
class Stable:
    """The revision that serves requests."""

    version: Annotated[str, Doc("Human-readable version.")]
    revision: Annotated[
        str,
        Doc(
            "Identity of the revision: the first 8 digits of the SHA-256 of its snapshot without image and filesSha256."
        ),
    ]
    slot: Annotated[Slot, Doc("Router slot that points to the revision.")]
    snapshot: Annotated[Snapshot, Doc("Copy of what the pods of the revision run.")]
    digest: Annotated[
        str,
        Doc(
            "Digest of the model or its image; for a ConfigMap without spec.model.sha256, of its files when the"
            " revision started. Absent for other sources without a digest."
        ),
    ] = ""
    replicas: Annotated[int, Doc("Number of desired pods.")] = 0
    ready_replicas: Annotated[int, Doc("Number of ready pods.")] = 0

    def __post_init__(self) -> None:
        """Raise TypeError for a stable that no decision makes: somebody has changed the status."""
        _check_revision(self.revision)


@dataclass(frozen=True)
class StablePods:
    """The pods of stable during a rollout: a verdict about the candidate is held while they are in trouble."""

    ready: Annotated[int, Doc("Largest number of ready pods in this rollout.")] = 0
    restarts: Annotated[int, Doc("Number of restarts of their containers.")] = 0
    well_since: Annotated[
        Time | None, Doc("Time since which no pod is missing and no container has restarted; absent if one is missing.")
    ] = None


@dataclass(frozen=True)
class Candidate:
    """The revision that is being rolled out."""

    version: Annotated[str, Doc("Human-readable version.")]
    revision: Annotated[
        str,
        Doc(
            "Identity of the revision: the first 8 digits of the SHA-256 of its snapshot without image and filesSha256."
        ),
    ]
    phase: Annotated[CandidatePhase, Doc("Phase of the rollout.")]
    snapshot: Annotated[Snapshot, Doc("Copy of what the pods of the revision run.")]
    started_at: Annotated[Time, Doc("Start of the rollout.")]
    since: Annotated[Time, Doc("Start of the present phase or step.")]
    slot: Annotated[
        Slot | None,
        Doc(
            "Router slot that points to the revision; absent until the candidate gets requests. Present in Preparing"
            " and Validating if the candidate had requests before: it stood in, its verdict was held, or the status was"
            " lost."
        ),
    ] = None
    digest: Annotated[
        str,
        Doc(
            "Digest of the model or its image; for a ConfigMap without spec.model.sha256, of its files when the"
            " revision started. Absent for other sources without a digest."
        ),
    ] = ""
    weight: Annotated[int, Doc("Percentage of the requests that the candidate gets, 0 to 100.")] = 0
    observed_percent: Annotated[
        float | None,
        Doc("Percentage of the counted requests of this step that the candidate got, 0 to 100."),
    ] = None
    step: Annotated[int, Doc("Number of the present step, from 1; 0 before the first.")] = 0
    steps: Annotated[int, Doc("Number of steps in the spec.")] = 0
    replicas: Annotated[int, Doc("Number of desired pods.")] = 0
    ready_replicas: Annotated[int, Doc("Number of ready pods.")] = 0
    down_since: Annotated[
        Time | None,
        Doc("Time since which a candidate that gets requests has no ready pod; absent if it has one."),
    ] = None
    stable_down_since: Annotated[
        Time | None, Doc("Time since which stable has no ready pod; absent if it has one.")
    ] = None
    attempt_limit_ms: Annotated[
        int,
        Doc(
            "Time in milliseconds that the candidate has for a request before the router retries it on stable; 0 before"
            " the canary."
        ),
    ] = 0
    stable_ms: Annotated[
        int, Doc("Average response time of stable in milliseconds at the start of the canary; 0 without requests.")
    ] = 0
    holds: Annotated[
        int, Doc("Number of verdicts about the candidate that were held, because stable was in trouble too.")
    ] = 0
    held_restarts: Annotated[
        int, Doc("Restarts of the candidate's containers until the end of the last hold: only later ones count.")
    ] = 0
    stable_pods: Annotated[StablePods | None, Doc("Pods of stable during this rollout.")] = None
    unproven: Annotated[
        str,
        Doc(
            "Machine-readable reason why the candidate took a step without proof: NoEvidence, or NoTraffic if no"
            " request came; absent if every step was proven."
        ),
    ] = ""
    stands_in_since: Annotated[
        Time | None,
        Doc(
            "Time since which the candidate gets all requests at any weight, because stable has no ready pod;"
            " absent while stable answers."
        ),
    ] = None
    short_since: Annotated[
        Time | None,
        Doc("Time since which pods that a candidate with requests needs have not become ready; absent if none."),
    ] = None
    retries: Annotated[
        tuple[str, ...], Doc("Values of spec.rollout.retry during this rollout, newest first, at most 20.")
    ] = ()
    approvals: Annotated[
        tuple[str, ...],
        Doc(
            "Approvals of steps with `pause`, in their order, at most 20: values of the annotation mlmodel.dev/approve."
        ),
    ] = ()
    evidence: Annotated[Evidence | None, Doc("Requests and failures of this rollout, and what they prove.")] = None
    rehearsal: Annotated[
        Repeated | None,
        Doc(
            "Requests of stable that were repeated on the candidate; absent before Validating and without a rehearsal."
        ),
    ] = None
    quality: Annotated[
        Scores | None, Doc("Labels of this rollout; absent before the canary and without spec.rollout.gates.quality.")
    ] = None
    figures: Annotated[
        Figures | None,
        Doc(
            "CPU time and energy of predictions, restarts and drift of both versions. They decide nothing; absent"
            " without stable."
        ),
    ] = None

    def __post_init__(self) -> None:
        """Raise TypeError for a candidate that no decision makes: somebody has changed the status."""
        _check_revision(self.revision)
        is_before_requests = self.phase in BEFORE_REQUESTS and self.stands_in_since is None
        if self.slot is None and not is_before_requests:
            raise TypeError("a candidate that gets requests requires a slot")
        if not 0 <= self.weight <= 100:
            raise TypeError("weight must be 0 to 100")


@dataclass(frozen=True)
class Draining:
    """A revision that finishes its requests in flight and is then removed."""

    revision: Annotated[str, Doc("Identity of the revision.")]
    outcome: Annotated[
        Outcome,
        Doc(
            "Outcome of the rollout after which the revision drains; with Promoted the revision is the former stable,"
            " else the candidate."
        ),
    ]
    slot: Annotated[Slot | None, Doc("Router slot that pointed to the revision.")] = None
    until: Annotated[
        Time | None, Doc("Time of the removal; absent until every router has confirmed the new routes.")
    ] = None

    def __post_init__(self) -> None:
        """Raise TypeError for an entry that no decision makes: somebody has changed the status."""
        _check_revision(self.revision)


@dataclass(frozen=True)
class Rejected:
    """A revision that is rolled out again only if spec.rollout.retry changes."""

    revision: Annotated[str, Doc("Identity of the revision.")]
    version: Annotated[str, Doc("Human-readable version.")]
    reason: Annotated[str, Doc("Machine-readable reason in CamelCase.")]
    message: Annotated[str, Doc("Human-readable message.")]
    at: Annotated[Time, Doc("Time of the rollback or rejection.")]
    weight: Annotated[
        int, Doc("Weight of the revision at that time in percent, 0 to 100; 0 if it never got a request.")
    ] = 0
    retry: Annotated[str, Doc("Value of spec.rollout.retry at that time.")] = ""
    retries: Annotated[
        tuple[str, ...],
        Doc(
            "Values of spec.rollout.retry with which the revision was rolled out and rejected, newest first, at most"
            " 20; any other value retries it."
        ),
    ] = ()


@dataclass(frozen=True)
class HistoryEntry:
    """One finished rollout."""

    revision: Annotated[str, Doc("Identity of the revision.")]
    version: Annotated[str, Doc("Human-readable version.")]
    outcome: Annotated[
        Outcome,
        Doc(
            "Promoted, RolledBack (also before the first request), Superseded (withdrawn for another revision, or"
            " because the operator may no longer serve it) or Reverted (withdrawn because the spec asks for stable"
            " again)."
        ),
    ]
    started_at: Annotated[Time, Doc("Start of the rollout.")]
    ended_at: Annotated[Time, Doc("End of the rollout.")]
    message: Annotated[str, Doc("Human-readable message.")] = ""
    approvals: Annotated[
        tuple[str, ...],
        Doc(
            "Approvals of steps with `pause`, in their order, at most 20: values of the annotation mlmodel.dev/approve,"
            " each with the revision, the weight of the step and the start of the step in seconds since 1970."
        ),
    ] = ()
    figures: Annotated[
        str, Doc("CPU time and energy of predictions, restarts and drift of both versions. They decided nothing.")
    ] = ""


@dataclass(frozen=True)
class Condition:
    """A standard Kubernetes condition."""

    type: Annotated[
        str, Doc("Type of the condition: Ready, Available, Reconciling, Stalled, RolledBack, Paused or OutdatedImage.")
    ]
    status: Annotated[ConditionStatus, Doc("Status of the condition: True, False or Unknown.")]
    reason: Annotated[str, Doc("Machine-readable reason in CamelCase.")]
    message: Annotated[str, Doc("Human-readable message.")]
    last_transition_time: Annotated[Time, Doc("Time at which the status of the condition last changed.")]
    observed_generation: Annotated[int, Doc("Generation of the spec that the condition was computed from.")] = 0


@dataclass(frozen=True)
class Status:
    """Observed state of the MLModel, which only the operator writes."""

    format_version: Annotated[
        int, Doc("Format of this status, from 1. An operator that finds a newer format changes nothing for the model.")
    ] = FORMAT_VERSION
    observed_generation: Annotated[int, Doc("Generation of the spec that this status was computed from.")] = 0
    url: Annotated[str, Doc("Address for predictions inside the cluster.")] = ""
    phase: Annotated[Phase, Doc("Phase of the rollout; Stable outside a rollout.")] = "Stable"
    replicas: Annotated[str, Doc("Number of ready and desired pods of stable, for example 2/3.")] = ""
    selector: Annotated[str, Doc("Label selector of the pods of stable, for the scale subresource.")] = ""
    stable: Annotated[Stable | None, Doc("Revision that serves; absent until the first one does.")] = None
    candidate: Annotated[Candidate | None, Doc("Revision that is being rolled out; absent outside a rollout.")] = None
    draining: Annotated[
        tuple[Draining, ...], Doc("Revisions that finish their requests in flight and are then removed.")
    ] = ()
    rejected: Annotated[
        tuple[Rejected, ...], Doc("Revisions that were rolled back or rejected, newest first, at most 10.")
    ] = ()
    history: Annotated[tuple[HistoryEntry, ...], Doc("Finished rollouts, newest first, at most 10.")] = ()
    routes: Annotated[str, Doc("Identity of the routes that every ready router has confirmed.")] = ""
    conditions: Annotated[tuple[Condition, ...], Doc("Standard Kubernetes conditions.")] = ()

    def __post_init__(self) -> None:
        """Raise TypeError for sides that no decision makes: somebody has changed the status."""
        stable, candidate = self.stable, self.candidate
        if stable and candidate and (stable.revision == candidate.revision or stable.slot == candidate.slot):
            raise TypeError("stable and candidate require different revisions and slots")
        sides = {side.revision for side in (stable, candidate) if side is not None}
        if any(item.revision in sides for item in self.draining):
            raise TypeError("a revision that is stable or the candidate must not drain")


def rejection(status: Status, revision: str, retry: str) -> Rejected | None:
    """Return why a revision is not rolled out; None if it was never rejected, or never with this ``retry``.

    A value that was used before, as after a revert in Git, retries nothing.
    """
    return next(
        (
            item
            for item in status.rejected
            if item.revision == revision and (retry == item.retry or retry in item.retries)
        ),
        None,
    )


def with_retry(retries: tuple[str, ...], *more: str) -> tuple[str, ...]:
    """Return ``retries`` with ``more`` values in front, each once, at most ``MAX_RETRIES``."""
    return tuple(dict.fromkeys((*more, *retries)))[:MAX_RETRIES]


def verdict_on(rejected: Rejected) -> str:
    """Return how the rollout of a revision ended, as a clause for messages."""
    return (
        f"was rolled back at weight {rejected.weight}" if rejected.weight else "was rejected before its first request"
    )


def revision_of(side: Stable | Candidate) -> Revision:
    """Return the revision of one side, from its snapshot."""
    return Revision(side.revision, side.snapshot)
