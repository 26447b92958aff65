"""Write the status of an MLModel, and detect an API server that drops a part of it.

The CustomResourceDefinition is checked at start; it may be replaced by an older one later.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.rollout.plan import Notice
from mlmodel_operator.runtime.api import Api
from mlmodel_operator.runtime.clock import Clock
from mlmodel_operator.runtime.events import Events
from mlmodel_operator.runtime.resource import Body, Resource, address, metadata, resource_version, uid
from mlmodel_operator.runtime.store import Store

logger = logging.getLogger(__name__)

PRUNED_SECONDS = 60.0
"""Time between two writes of a status of which the API server drops fields."""


class StatusWriter:
    """Writes a status only if it differs, and only onto the resourceVersion that the decision was based on."""

    def __init__(self, api: Api, store: Store, events: Events, clock: Clock, models: Resource) -> None:
        self._api = api
        self._store = store
        self._events = events
        self._clock = clock
        self._models = models
        # By model whose status was pruned: the earliest time of the next write.
        self._pruned: dict[tuple[str, str], float] = {}
        # By model: its UID, and the last status that this process wrote or found as it would write it.
        self._written: dict[tuple[str, str], tuple[str, Body]] = {}

    def written(self, body: Body) -> Body | None:
        """Return the last status that this process wrote of the MLModel ``body``, as the API server stored it; None if
        it wrote none, or does not know whether the last write succeeded."""
        known, status = self._written.get(address(body), ("", None))
        return status if known == uid(body) else None

    def is_pruned(self, key: tuple[str, str]) -> bool:
        """Whether the API server dropped fields of the last status of this model (namespace, name)."""
        return key in self._pruned

    def forget(self, key: tuple[str, str]) -> None:
        """Drop what is known of a model that was deleted."""
        self._pruned.pop(key, None)
        self._written.pop(key, None)

    async def write(self, body: Body, desired: Body, notices: Iterable[Notice]) -> bool:
        """Write the status ``desired`` of the MLModel ``body``, then post the notices.

        Return whether the cluster has this status: if the API server drops fields, an Event reports it, and the next
        write follows after ``PRUNED_SECONDS``. Raise ApiError.
        """
        key = address(body)
        if desired == body.get("status"):
            self._written[key] = (uid(body), desired)
            return True
        if self._clock.now() < self._pruned.get(key, 0.0):
            return False
        self._written.pop(key, None)
        written = await self._api.replace_status(self._models, {**_identity(body), "status": desired})
        self._store.put(self._models, written)
        self._written[key] = (uid(written), written.get("status") or {})
        dropped = dropped_field(desired, written.get("status"))
        if dropped:
            await self._report_pruned(body, dropped)
            self._pruned[key] = self._clock.now() + PRUNED_SECONDS
            return False
        self._pruned.pop(key, None)
        await self.report(body, notices)
        return True

    async def report(self, body: Body, notices: Iterable[Notice]) -> None:
        """Post notices about the MLModel ``body``."""
        for notice in notices:
            # This resourceVersion identifies the transition: if it is repeated after a crash, its Event is posted once.
            await self._events.post(
                body,
                transition=resource_version(body),
                reason=notice.reason,
                note=notice.message,
                warning=notice.type == "Warning",
            )

    async def _report_pruned(self, body: Body, dropped: str) -> None:
        if address(body) in self._pruned:
            return
        note = (
            f"the API server dropped {dropped}: the CustomResourceDefinition in the cluster is not that of this"
            " operator. The versions that serve go on; no weight rises and nothing is deleted. Type `kubectl apply -f"
            " crds/mlmodels.yaml`"
        )
        logger.warning("status pruned", extra={"field": dropped})
        await self._events.post(body, transition=note, reason=Reason.STATUS_PRUNED, note=note, warning=True)


def _identity(body: Body) -> Body:
    """Return the fields that name this version of an object: a write of the status changes no other field."""
    kept = ("namespace", "name", "uid", "resourceVersion")
    meta = {key: value for key, value in metadata(body).items() if key in kept}
    return {"apiVersion": body.get("apiVersion"), "kind": body.get("kind"), "metadata": meta}


def dropped_field(sent: Any, stored: Any, path: str = "status") -> str:
    """Return the path of the first field of ``sent`` that ``stored`` does not have; empty if it has all."""
    if isinstance(sent, dict):
        if not isinstance(stored, dict):
            return path
        for key, value in sent.items():
            if key not in stored:
                return f"{path}.{key}"
            if found := dropped_field(value, stored[key], f"{path}.{key}"):
                return found
    if isinstance(sent, list):
        if not isinstance(stored, list) or len(stored) != len(sent):
            return path
        pairs = enumerate(zip(sent, stored, strict=True))
        return next((found for at, pair in pairs if (found := dropped_field(*pair, f"{path}[{at}]"))), "")
    return ""
