"""Rebuild a lost status from the operator's records and from what runs.

Backup tools restore spec and children and drop the status, and anyone who may write the status may empty it. Three
rules: the routes stay as they are until something known to be good takes over, nothing drains before that, and a
revision that is not known to be good is a candidate.

Records win over everything else, because only the operator writes them. The ConfigMap with the routes, which tenants
may edit, says which slot points where, and who serves as long as no revision is known to be good.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.revision import desired_revision
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import (
    SLOTS,
    Candidate,
    Draining,
    HistoryEntry,
    Outcome,
    Rejected,
    Slot,
    Stable,
    Status,
    rejection,
)
from mlmodel_operator.api.types import MLModel, Revision, Snapshot
from mlmodel_operator.rollout.observed import Observed
from mlmodel_operator.rollout.phases.starting import new_candidate
from mlmodel_operator.rollout.plan import Notice
from mlmodel_operator.rollout.routes import Routes


@dataclass(frozen=True)
class Decisions:
    """The part of a status that no other object shows: which revision is known to be good, and how rollouts ended."""

    stable: str = ""
    """Identity of the revision that became stable last; empty before the first one did."""
    rejected: tuple[Rejected, ...] = ()
    history: tuple[HistoryEntry, ...] = ()


@dataclass(frozen=True)
class Known:
    """What the records contain."""

    decisions: Decisions = field(default_factory=Decisions)
    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)
    """By revision: what its pods were started with; of several records, the last."""
    earlier: tuple[Decisions, ...] = ()
    """What older records of decisions contain; an operator that was killed has not deleted them yet."""
    all_snapshots: Mapping[str, tuple[Snapshot, ...]] = field(default_factory=dict)
    """By revision: what each of its records contains. The same revision may have run with another image."""


@dataclass(frozen=True)
class Recovery:
    """The rebuilt status, and what to report."""

    status: Status | None
    """None: the operator must change nothing, because it cannot describe the revision that serves."""
    notice: Notice | None = None
    """None if there was nothing to rebuild: a new model."""


def decisions_of(status: Status) -> Decisions:
    """Return what to record of a status."""
    return Decisions(status.stable.revision if status.stable else "", status.rejected, status.history)


def is_lost(status: Status, *, recorded_stable: str) -> bool:
    """Whether a status was never written, was emptied, or lacks the stable revision that the records know."""
    if status.stable is not None:
        return False
    return bool(recorded_stable) or (status.candidate is None and status.observed_generation == 0)


def recover(
    model: MLModel, observed: Observed, known: Known, image: str, now: float, how: str = "was empty"
) -> Recovery:
    """Return the status of a model whose status is lost.

    ``image`` is the server image of a new revision; ``now`` is in seconds since the epoch; ``how`` says how the status
    is lost, as a clause for messages.
    """
    return _Recovery(model, observed, known, desired_revision(model.spec, image), now, how).run()


@dataclass(frozen=True)
class _Recovery:
    model: MLModel
    observed: Observed
    known: Known
    desired: Revision
    now: float
    how: str

    def run(self) -> Recovery:
        decisions = self.known.decisions
        kept = Status(rejected=decisions.rejected, history=decisions.history)
        good = self._known_good()
        if good is not None:
            return self._rebuilt(self._with_stable(kept, good))
        serving = self._serving()
        if serving is None:
            # Nothing serves, so there is nothing to keep: the desired revision starts like the first one.
            return self._rebuilt(kept) if decisions != Decisions() else Recovery(kept)
        if self._snapshot(serving) is None:
            return Recovery(None, self._unknown(serving))
        return self._rebuilt(self._with_first(kept, serving))

    # ------------------------------------------------------------------------------------------------------- sides

    def _known_good(self) -> str | None:
        """Return the revision that became stable last and still runs; else the last one, which is started again."""
        decisions = self.known.decisions
        promoted = [decisions.stable, *(entry.revision for entry in decisions.history if entry.outcome == "Promoted")]
        refused = {item.revision for item in decisions.rejected}
        usable = [name for name in promoted if self._snapshot(name) is not None and name not in refused]
        return next((name for name in usable if self._runs(name)), usable[0] if usable else None)

    def _serving(self) -> str | None:
        """Return the revision that the routes call stable and that runs."""
        routes = self._routes
        refused = {item.revision for item in self.known.decisions.rejected}
        names = (name for name in self.observed.revisions if routes.stable and self._slot(name) == routes.stable)
        return next((name for name in names if self._runs(name) and name not in refused), None)

    def _with_stable(self, status: Status, name: str) -> Status:
        """Return the status with a revision that is known to be good as stable, and the desired one as candidate."""
        revision = self._revision(name)
        state = self.observed.revision(name)
        stable = Stable(
            revision.label,
            name,
            self._slot(name) or self._free_slot(),
            revision.snapshot,
            revision.snapshot.digest,
            state.replicas,
            state.ready,
        )
        status = replace(status, stable=stable)
        alone = self._serves_alone(status, stable)
        if alone is not None:
            status = replace(status, candidate=alone)
        elif self._is_candidate(status, stable):
            candidate, slot = self._as_candidate(self._revision(self.desired.id)), self._slot(self.desired.id)
            # The slot stays with the revision, which may have requests in flight there.
            status = replace(status, candidate=replace(candidate, slot=None if slot == stable.slot else slot))
        return self._with_draining(status)

    def _with_first(self, status: Status, name: str) -> Status:
        """Return the status with a revision that serves everything and is not known to be good: as every first one, it
        becomes stable once all routers have confirmed its routes."""
        first = replace(self._as_candidate(self._revision(name)), phase="Promoting", slot=self._slot(name), weight=100)
        return self._with_draining(replace(status, candidate=first))

    def _is_candidate(self, status: Status, stable: Stable) -> bool:
        """Whether the desired revision runs and goes on as candidate; if it does not run, its rollout starts anew."""
        name = self.desired.id
        if name == stable.revision or name not in self.observed.revisions or self.observed.denied:
            return False
        if rejection(status, name, self.model.spec.rollout.retry) is not None:
            return False
        last = next((item for item in status.rejected if item.revision == name), None)
        # A changed `retry` permits a new attempt, with pods that are newer than the failure.
        pods = self.observed.revision(name).pods
        return last is None or (bool(pods) and all(pod.created > last.at for pod in pods))

    def _serves_alone(self, status: Status, stable: Stable) -> Candidate | None:
        """Return the revision that answers while stable has no ready pod: it stands in until stable has one."""
        if stable.ready_replicas:
            return None
        refused = {item.revision for item in status.rejected}
        for name, state in self.observed.revisions.items():
            slot = self._slot(name)
            weight = 100 if slot == self._routes.stable else self._routes.weight
            routed = slot is not None and slot != stable.slot and slot in (self._routes.stable, self._routes.candidate)
            if name == stable.revision or name in refused or not (routed and weight and state.ready):
                continue
            if self._snapshot(name) is not None:
                return replace(
                    self._as_candidate(self._revision(name)),
                    slot=slot,
                    stands_in_since=Time(self.now),
                    attempt_limit_ms=1000 * self.model.spec.traffic.timeout_seconds,
                )
        return None

    def _as_candidate(self, revision: Revision) -> Candidate:
        state = self.observed.revision(revision.id)
        return replace(new_candidate(revision, self.model, state, self.now), ready_replicas=state.ready)

    def _with_draining(self, status: Status) -> Status:
        """Return the status with every other revision draining, in the slot that may still have its requests."""
        sides = [side for side in (status.stable, status.candidate) if side is not None]
        names, taken = {side.revision for side in sides}, {side.slot for side in sides}
        draining = []
        for name in sorted(self.observed.revisions):
            if name in names:
                continue
            slot = self._slot(name)
            draining.append(Draining(name, self._outcome(status, name), None if slot in taken else slot))
        return replace(status, draining=tuple(draining))

    def _outcome(self, status: Status, name: str) -> Outcome:
        """Return how the rollout of a revision that is neither side ended."""
        if any(item.revision == name for item in status.rejected):
            return "RolledBack"
        return next((entry.outcome for entry in status.history if entry.revision == name), "Superseded")

    # ----------------------------------------------------------------------------------------------------- look-ups

    @property
    def _routes(self) -> Routes:
        return self.observed.followed or Routes()

    def _runs(self, name: str) -> bool:
        state = self.observed.revision(name)
        return bool(state.replicas or state.pods)

    def _snapshot(self, name: str) -> Snapshot | None:
        return self.known.snapshots.get(name) or (self.desired.snapshot if name == self.desired.id else None)

    def _revision(self, name: str) -> Revision:
        snapshot = self._snapshot(name)
        assert snapshot is not None, "callers check it"
        return Revision(name, snapshot)

    def _slot(self, name: str) -> Slot | None:
        """Return the slot that points to the revision's Service."""
        address = self.observed.revision(name).address
        return next((slot for slot in SLOTS if address and self._routes.addresses.get(slot) == address), None)

    def _free_slot(self) -> Slot:
        """Return a slot that points to no existing revision; if both do, the one without the role of stable."""
        used = {self._slot(name) for name in self.observed.revisions}
        return next((slot for slot in SLOTS if slot not in used), "a" if self._routes.stable == "b" else "b")

    # ------------------------------------------------------------------------------------------------------ reports

    def _rebuilt(self, status: Status) -> Recovery:
        message = f"the status {self.how} and is rebuilt: {'; '.join(self._clauses(status))}"
        return Recovery(status, Notice("Warning", Reason.STATUS_REBUILT, message))

    def _clauses(self, status: Status) -> Iterator[str]:
        stable, candidate = status.stable, status.candidate
        if stable is not None:
            yield f"by the records {stable.version} ({stable.revision}) is stable"
        elif candidate is not None:
            yield f"by the routes {candidate.version} ({candidate.revision}) serves; no record says that it is good"
        if stable is not None and candidate is not None:
            yield f"{candidate.version} ({candidate.revision}) runs and is a candidate without evidence"
        if status.draining:
            yield f"draining: {', '.join(item.revision for item in status.draining)}"
        yield f"rejected revisions: {len(status.rejected)}, ended rollouts: {len(status.history)}"

    def _unknown(self, name: str) -> Notice:
        return Notice(
            "Warning",
            Reason.STATUS_LOST,
            f"the status {self.how}, revision {name} serves, and no record describes it; the operator changes"
            " nothing for this model: restore its ControllerRevisions from a backup, or set spec.model and spec.serving"
            f" to those of revision {name}, which its Deployment {self.model.owner.name}-{name} shows",
        )
