"""Compare the store with the API server at intervals, for the kind that kopf watches.

kopf misses deletions that happen while it lists again, and a watch can stop delivering events without an error. A plain
list detects both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from mlmodel_operator.runtime.api import Api, ApiError
from mlmodel_operator.runtime.backoff import Backoff
from mlmodel_operator.runtime.clock import Clock
from mlmodel_operator.runtime.health import Heartbeats
from mlmodel_operator.runtime.resource import Bodies, Resource, address
from mlmodel_operator.runtime.store import Store

logger = logging.getLogger(__name__)

_GRACE_SECONDS = 5.0


class WatchSilent(Exception):
    """The watch has missed changes in two consecutive audits: the process must restart."""


class Audit:
    """Audits one kind, in all namespaces or some, every ``every`` seconds; calls ``requeue(namespace, name)`` for each
    object with a missed change."""

    def __init__(
        self,
        api: Api,
        store: Store,
        resource: Resource,
        clock: Clock,
        requeue: Callable[[str, str], None],
        *,
        namespaces: Sequence[str] = (),
        every: float = 300.0,
        heartbeats: Heartbeats,
        on_missed: Callable[[int], None],
    ) -> None:
        self._api = api
        self._store = store
        self._resource = resource
        self._clock = clock
        self._requeue = requeue
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._every = every
        self._heartbeats = heartbeats
        self._on_missed = on_missed
        self._backoff = Backoff(cap=10.0)

    async def first(self) -> None:
        """Fill the store; wait until the API server answers and the kind is installed."""
        failures = 0
        while True:
            self._heartbeats.beat("audit", 120.0)
            try:
                found = await self._list()
            except ApiError as error:
                failures += 1
                kind = f"{self._resource.plural}.{self._resource.group}"
                values = {"resource": kind, "error": error}
                if error.not_found:
                    logger.warning("kind not found, apply its CustomResourceDefinition", extra=values)
                else:
                    logger.warning("list failed", extra=values)
                await self._clock.sleep(1.0 + self._backoff.delay(failures))
            else:
                for namespace, bodies, version in found:
                    self._store.replace(self._resource, bodies, version, namespace)
                    for body in bodies:
                        self._requeue(*address(body))
                return

    async def run(self) -> None:
        """Audit until cancelled. Raise WatchSilent."""
        silent = 0
        while True:
            self._heartbeats.beat("audit", self._every + 120.0)
            await self._clock.sleep(self._every)
            try:
                silent = silent + 1 if await self._once() else 0
            except ApiError as error:
                logger.warning("audit failed", extra={"resource": self._resource.plural, "error": error})
            if silent >= 2:
                raise WatchSilent(f"the watch on {self._resource.plural} delivers no changes")

    async def _list(self) -> list[tuple[str | None, Bodies, str]]:
        """Return each namespace, None for all, with its objects and the resourceVersion of the list."""
        return [(namespace, *await self._api.list(self._resource, namespace)) for namespace in self._namespaces]

    async def _once(self) -> int:
        """Compare once. Return the number of changes that the watch has missed, without deletions."""
        found = await self._list()
        await self._clock.sleep(_GRACE_SECONDS)  # events in flight are not missed
        missed: Bodies = []
        removed: Bodies = []
        for namespace, bodies, version in found:
            missed += [body for body in bodies if self._store.put(self._resource, body)]
            removed += self._store.replace(self._resource, bodies, version, namespace)
        for body in [*missed, *removed]:
            self._requeue(*address(body))
        if missed or removed:
            self._on_missed(len(missed) + len(removed))
            values = {"resource": self._resource.plural, "changes": len(missed), "deletions": len(removed)}
            logger.warning("audit found missed changes", extra=values)
        return len(missed)
