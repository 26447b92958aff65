"""Write, read and delete the records of a model (see resources/records.py).

The data of a record is immutable and its name has the hash of it, so an existing name is a written record.
"""

from __future__ import annotations

from collections.abc import Collection

from mlmodel_operator import observe
from mlmodel_operator.api.status import Status
from mlmodel_operator.api.types import Owner, Revision
from mlmodel_operator.names import ADOPTED_LABEL, MODEL_LABEL, RECORD_LABEL, REVISION_LABEL, SNAPSHOT_ANNOTATION
from mlmodel_operator.resources import records
from mlmodel_operator.resources.records import DECISIONS, DEPLOYMENT, Recorded
from mlmodel_operator.rollout.recovery import Decisions, decisions_of
from mlmodel_operator.runtime.api import Api, ApiError
from mlmodel_operator.runtime.apply import NotOurs
from mlmodel_operator.runtime.resource import (
    CONTROLLER_REVISIONS,
    Bodies,
    Body,
    address,
    belongs_to,
    controller_of,
    metadata,
    uid,
)
from mlmodel_operator.runtime.store import Store


class Recorder:
    """The records in the API server; the store has them without their data."""

    def __init__(self, api: Api, store: Store) -> None:
        self._api = api
        self._store = store

    async def ensure(self, record: Body) -> str:
        """Write a record unless it exists; return its name. Raise ApiError; NotOurs if another owner has the name."""
        namespace, name = address(record)
        live = self._store.get(CONTROLLER_REVISIONS, namespace, name)
        if live is None:
            try:
                live = await self._api.create(CONTROLLER_REVISIONS, record)
            except ApiError as error:
                if not error.conflict:
                    raise
                live = await self._api.get(CONTROLLER_REVISIONS, namespace, name)
            self._store.put(CONTROLLER_REVISIONS, live)
        if (controller_of(live) or {}).get("uid") != (controller_of(record) or {}).get("uid"):
            raise NotOurs(CONTROLLER_REVISIONS, live, outdated=False)
        return name

    async def ensure_decisions(self, owner: Owner, decisions: Decisions) -> str:
        """Write the record of these decisions unless it is the newest; return its name, empty without a decision."""
        if decisions == Decisions():
            return ""
        number = max((records.number_of(body) for body in self._of_kind(owner, DECISIONS)), default=0) + 1
        return await self.ensure(records.decisions_record(owner, decisions, number))

    def stable(self, owner: Owner) -> str:
        """Return the revision that the newest record calls stable; empty without one."""
        newest = max(self._of_kind(owner, DECISIONS), key=records.number_of, default=None)
        return observe.label(newest, REVISION_LABEL) if newest is not None else ""

    def describes(self, owner: Owner, status: Status, desired: Revision) -> bool:
        """Whether the records describe all of a status that they have, without a request; false if that cannot be seen
        from their metadata. A candidate without a record has no Deployment yet, and is what the spec asks for
        (``desired``)."""
        decisions = decisions_of(status)
        expected = records.decisions_record(owner, decisions, 1)["metadata"]["name"]
        names = {address(body)[1] for body in self._of_kind(owner, DECISIONS)}
        if expected not in names and (names or decisions != Decisions()):
            return False
        for side in (status.stable, status.candidate):
            if side is None:
                continue
            revision = Revision(side.revision, side.snapshot)
            if (side.version, side.digest) != (revision.label, side.snapshot.digest):
                return False
            if not self.has_revision(owner, side.revision) and side == status.candidate and revision == desired:
                continue
            if not self._has_snapshot(owner, revision):
                return False
        return True

    def _has_snapshot(self, owner: Owner, revision: Revision) -> bool:
        digest = records.snapshot_digest(revision.snapshot)
        bodies = self._of_kind(owner, DEPLOYMENT)
        return any(
            (observe.label(body, REVISION_LABEL), observe.annotation(body, SNAPSHOT_ANNOTATION))
            == (revision.id, digest)
            for body in bodies
        )

    def has_revision(self, owner: Owner, revision: str) -> bool:
        """Whether a record describes the revision."""
        bodies = self._of_kind(owner, DEPLOYMENT)
        return any(observe.label(body, REVISION_LABEL) == revision for body in bodies)

    def has_adopted(self, owner: Owner) -> bool:
        """Whether the model has a record of a former model of its name."""
        return any(observe.label(body, ADOPTED_LABEL) for body in self.owned(owner))

    def owned(self, owner: Owner) -> Bodies:
        """Return the model's records, without their data."""
        bodies = self._store.group(CONTROLLER_REVISIONS, owner.namespace, owner.name)
        return [body for body in bodies if belongs_to(body, owner.uid)]

    async def read(self, owner: Owner) -> Bodies:
        """Return all ControllerRevisions with the labels of a record of this model, with their data. Raise ApiError."""
        selector = f"{MODEL_LABEL}={owner.name},{RECORD_LABEL}"
        bodies, _ = await self._api.list(CONTROLLER_REVISIONS, owner.namespace, selector, whole=True)
        of_model = [body for body in bodies if observe.label(body, MODEL_LABEL) == owner.name]
        return [body for body in of_model if address(body)[0] == owner.namespace and observe.label(body, RECORD_LABEL)]

    async def load(self, owner: Owner) -> Recorded:
        """Return the content of the model's records, without a request if there is none. Raise ApiError."""
        if not self.owned(owner):
            return Recorded()
        bodies = await self.read(owner)
        return records.read_records(body for body in bodies if belongs_to(body, owner.uid))

    async def prune(self, owner: Owner, current: Collection[str], revisions: Collection[str]) -> None:
        """Delete the records that are no longer needed.

        ``current`` has the names of the records that this reconcile requires, ``revisions`` those that still exist. An
        older record of the same object, or of a revision that no longer exists, is deleted.
        """
        owned = self.owned(owner)
        kinds = {_subject(body) for body in owned if str(metadata(body)["name"]) in current}
        for body in owned:
            revision = observe.label(body, REVISION_LABEL)
            is_replaced = _subject(body) in kinds and str(metadata(body)["name"]) not in current
            is_removed = observe.label(body, RECORD_LABEL) != DECISIONS and revision and revision not in revisions
            if (is_replaced or is_removed) and not observe.is_terminating(body):
                await self._api.delete(CONTROLLER_REVISIONS, *address(body), uid(body))
                self._store.remove(CONTROLLER_REVISIONS, body)

    def _of_kind(self, owner: Owner, kind: str) -> Bodies:
        return [body for body in self.owned(owner) if observe.label(body, RECORD_LABEL) == kind]


def _subject(record: Body) -> str:
    """Return what a record is about: the decisions, or one Deployment."""
    kind = observe.label(record, RECORD_LABEL)
    return kind if kind == DECISIONS else f"{kind}/{observe.label(record, REVISION_LABEL)}"
