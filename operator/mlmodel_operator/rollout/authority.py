"""What of a status counts that this process did not write: only what the operator's records say.

Anyone who may write ``mlmodels/status`` could otherwise choose what the pods run, the image included, call any revision
stable, or forget which ones were rejected. The progress of a rollout (phase, weight, evidence) is in no record: it is
read from the status of a process that was killed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from mlmodel_operator.api.status import Candidate, Stable, Status, rejection
from mlmodel_operator.api.types import Revision, Snapshot
from mlmodel_operator.rollout.recovery import Known, decisions_of

S = TypeVar("S", Stable, Candidate)


def has_rejected_candidate(status: Status, retry: str) -> bool:
    """Whether the candidate was rejected, and ``retry``, that of the spec, does not permit another attempt."""
    candidate = status.candidate
    return candidate is not None and rejection(status, candidate.revision, retry) is not None


def bound(status: Status, known: Known, desired: Revision) -> Status | None:
    """Return ``status`` with the sides that the records describe; None if it contradicts them, and is as good as lost.

    A status that is older than its newest record does not contradict them: the operator was killed after it had written
    the record, and decides the same again.
    """
    if decisions_of(status) not in (known.decisions, *known.earlier):
        return None
    stable, candidate = status.stable, status.candidate
    if stable is not None:
        snapshot = _recorded(stable, known)
        if snapshot is None:
            return None
        stable = _described(stable, snapshot)
    if candidate is not None:
        snapshot = _recorded(candidate, known)
        if snapshot is None:
            # It has no Deployment yet, which is written after its record; so only the spec describes it.
            if candidate.revision != desired.id:
                return None
            snapshot = desired.snapshot
        candidate = _described(candidate, snapshot)
    return replace(status, stable=stable, candidate=candidate)


def _recorded(side: Stable | Candidate, known: Known) -> Snapshot | None:
    """Return what the records say of a side's revision; of several that which its status shows, else the last."""
    found = known.all_snapshots.get(side.revision, ())
    return side.snapshot if side.snapshot in found else known.snapshots.get(side.revision)


def _described(side: S, snapshot: Snapshot) -> S:
    version = Revision(side.revision, snapshot).label
    return replace(side, snapshot=snapshot, digest=snapshot.digest, version=version)
