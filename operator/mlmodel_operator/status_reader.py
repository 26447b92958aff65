"""Read the status of an MLModel, and decide how far it is believed.

A status that this process wrote is believed. One that somebody else wrote since is replaced by it. One that another
process of the operator wrote, or somebody while no operator ran, counts as far as the records describe it
(rollout/authority.py).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from mlmodel_operator import observe
from mlmodel_operator.api.codec import DecodeError
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.revision import desired_revision
from mlmodel_operator.api.status import FORMAT_VERSION, Status
from mlmodel_operator.api.types import MLModel
from mlmodel_operator.api.upgrade import newer_format, read_status, without_state
from mlmodel_operator.kept import OVERSIZED
from mlmodel_operator.observer import Observer
from mlmodel_operator.recorder import Recorder
from mlmodel_operator.rollout.authority import bound, has_rejected_candidate
from mlmodel_operator.rollout.plan import Notice
from mlmodel_operator.rollout.recovery import Known, decisions_of, is_lost
from mlmodel_operator.runtime.events import Events
from mlmodel_operator.runtime.resource import Body
from mlmodel_operator.status_writer import StatusWriter

_EMPTY = "was empty"
"""How a status is lost that a backup tool dropped or somebody emptied, as a clause for messages."""
_CONTRADICTORY = "does not match the operator's records"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Read:
    """A status that was read."""

    status: Status
    how: str = _EMPTY
    """How it is lost if it is, as a clause for messages."""
    is_own: bool = False
    """Whether this process wrote it."""
    notices: tuple[Notice, ...] = ()


class StatusReader:
    """Belongs to the controller."""

    def __init__(
        self, recorder: Recorder, observer: Observer, writer: StatusWriter, events: Events, server_image: str
    ) -> None:
        self._recorder = recorder
        self._observer = observer
        self._writer = writer
        self._events = events
        self._server_image = server_image
        # What has been reported of a status that cannot be read, by model.
        self._reported: dict[tuple[str, str], str] = {}

    def forget(self, key: tuple[str, str]) -> None:
        """Drop what is known of a model that was deleted."""
        self._reported.pop(key, None)

    async def read(self, body: Body, key: tuple[str, str]) -> Read | None:
        """Return the status of the MLModel ``body``: one that cannot be read is as good as lost. Return None for that
        of a newer release, for which the operator must change nothing."""
        raw = body.get("status") or {}
        try:
            newer = newer_format(raw)
        except DecodeError:
            newer = None
        if newer is not None:
            note = (
                f"status.formatVersion is {newer}, from a newer release of the operator; this release reads up to"
                f" {FORMAT_VERSION} and changes nothing: upgrade the operator"
            )
            await self._report(body, key, Reason.NEWER_STATUS, note)
            return None
        own = self._writer.written(body)
        if own is None or not raw:
            return await self._decoded(body, key, raw)
        if own == raw:
            return Read(read_status(raw), is_own=True)
        note = "somebody changed the status; the operator goes on with the one that it wrote last"
        return Read(read_status(own), is_own=True, notices=(Notice("Warning", Reason.STATUS_REBUILT, note),))

    async def authorized(self, model: MLModel, read: Read) -> tuple[Status | None, str]:
        """Return the status as far as it is believed; None if it is lost, with a clause that says how. Raise
        ApiError."""
        owner, status = model.owner, read.status
        if is_lost(status, recorded_stable=self._recorder.stable(owner)):
            return None, read.how
        desired = desired_revision(model.spec, self._server_image)
        if read.is_own:
            return status, ""
        if has_rejected_candidate(status, model.spec.rollout.retry):
            return None, _CONTRADICTORY
        if self._recorder.describes(owner, status, desired):
            return status, ""
        if self._recorder.owned(owner):
            known = (await self._recorder.load(owner)).known
        else:
            # Of a release without records, or they were deleted: the Deployments show what runs.
            snapshots = await self._observer.snapshots(owner)
            known = Known(decisions_of(status), snapshots)
        return bound(status, known, desired), _CONTRADICTORY

    async def _decoded(self, body: Body, key: tuple[str, str], raw: Body) -> Read:
        try:
            status = read_status(raw)
        except DecodeError as error:
            try:
                status = read_status(without_state(raw))
            except DecodeError:
                return Read(Status(), f"could not be read ({observe.clean(error)})")
            note = f"{observe.clean(error)}; the tests of the candidate restart from the counts of the routers"
            await self._report(body, key, Reason.EVIDENCE_RESET, note)
            return Read(status)
        self._reported.pop(key, None)
        return Read(status)

    async def report_oversized(self, body: Body, key: tuple[str, str]) -> None:
        """Report a model whose spec or status is too large to be kept: what serves goes on."""
        found = body[OVERSIZED]
        note = (
            f"{found['field']} has {found['bytes']} bytes, and the operator reads at most {found['most']}. The versions"
            f" that serve go on, and nothing is changed: shorten {found['field']}"
        )
        await self._report(body, key, Reason.TOO_LARGE, note)

    async def _report(self, body: Body, key: tuple[str, str], reason: Reason, note: str) -> None:
        """Report what cannot be read of a status: once per model and note, and again if the Event was not posted."""
        if self._reported.get(key) == note:
            return
        logger.warning("status not readable", extra={"reason": reason, "note": note})
        if await self._events.post(body, transition=note, reason=reason, note=note, warning=True):
            self._reported[key] = note
