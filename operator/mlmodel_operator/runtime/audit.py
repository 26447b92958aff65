"""Compares the store with the API server from time to time, for a kind whose watch is somebody else's.

kopf forgets deletions that happen while it lists again, and a watch can fall silent without an error. Both are found
here by a plain list.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from mlmodel_operator.runtime.api import Api, ApiError
from mlmodel_operator.runtime.backoff import Backoff
from mlmodel_operator.runtime.clock import Clock
from mlmodel_operator.runtime.health import Heartbeats
from mlmodel_operator.runtime.resource import Resource, address
from mlmodel_operator.runtime.store import Store

logger = logging.getLogger(__name__)

_GRACE_SECONDS = 5.0


class WatchSilent(Exception):
    """The watch has missed changes in two audits running: only a new start of the process is a cure."""


class Audit:
    """Audits one kind every ``every`` seconds; ``found(namespace, name)`` is called for what the watch had missed."""

    def __init__(
        self,
        api: Api,
        store: Store,
        resource: Resource,
        clock: Clock,
        found: Callable[[str, str], None],
        *,
        every: float = 300.0,
        heartbeats: Heartbeats,
        on_missed: Callable[[int], None],
    ) -> None:
        self._api = api
        self._store = store
        self._resource = resource
        self._clock = clock
        self._found = found
        self._every = every
        self._heartbeats = heartbeats
        self._on_missed = on_missed
        self._backoff = Backoff(cap=10.0)

    async def first(self) -> None:
        """Fill the store, waiting for the API server and for the kind to be installed as long as it takes."""
        failures = 0
        while True:
            self._heartbeats.beat("audit", 120.0)
            try:
                bodies, version = await self._api.list(self._resource)
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
                self._store.replace(self._resource, bodies, version)
                for body in bodies:
                    self._found(*address(body))
                return

    async def run(self) -> None:
        """Audit for ever. Raises WatchSilent."""
        silent = 0
        while True:
            self._heartbeats.beat("audit", self._every + 120.0)
            await self._clock.sleep(self._every)
            try:
                silent = silent + 1 if await self._once() else 0
            except ApiError as error:
                logger.warning("audit failed", extra={"resource": self._resource.plural, "error": error})
            if silent >= 2:
                raise WatchSilent(f"the watch on {self._resource.plural} shows no changes any more")

    async def _once(self) -> int:
        """Compare once. Returns how many changes the watch had not shown, deletions aside."""
        bodies, version = await self._api.list(self._resource)
        await self._clock.sleep(_GRACE_SECONDS)  # what is on its way in the watch is not missed
        missed = [body for body in bodies if self._store.put(self._resource, body)]
        removed = self._store.replace(self._resource, bodies, version)
        for body in [*missed, *removed]:
            self._found(*address(body))
        if missed or removed:
            self._on_missed(len(missed) + len(removed))
            values = {"resource": self._resource.plural, "changes": len(missed), "deletions": len(removed)}
            logger.warning("audit found missed changes", extra=values)
        return len(missed)
