"""Keeps the store equal to what the API server has of one kind.

List, then watch from there. When the watch cannot be continued (the server has forgotten that resourceVersion), list
again and compare: what disappeared in the gap sent no event that anybody could still receive, so its deletion is made
up here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from mlmodel_operator.runtime.api import LIST_SECONDS, SILENCE_SECONDS, Api, ApiError
from mlmodel_operator.runtime.backoff import Backoff
from mlmodel_operator.runtime.clock import Clock, SystemClock
from mlmodel_operator.runtime.health import Heartbeats
from mlmodel_operator.runtime.resource import Resource, resource_version
from mlmodel_operator.runtime.store import Store

logger = logging.getLogger(__name__)

_BACKOFF_CAP = 30.0
# Longest silence of a healthy reflector: one dead connection, or one list, and the longest backoff; with room.
_PROMISE = 2 * (max(SILENCE_SECONDS, LIST_SECONDS) + _BACKOFF_CAP)


def _ignore(*_: object) -> None:
    """For who is not interested."""


class Reflector:
    """Lists and watches one kind, in all namespaces or one, into a store. ``synced`` is set after the first list."""

    def __init__(
        self,
        api: Api,
        store: Store,
        resource: Resource,
        label_selector: str = "",
        *,
        namespace: str | None = None,
        clock: Clock | None = None,
        backoff: Backoff | None = None,
        heartbeats: Heartbeats | None = None,
        on_restart: Callable[[Resource, str], None] = _ignore,
    ) -> None:
        self._api = api
        self._store = store
        self._resource = resource
        self._label_selector = label_selector
        self._namespace = namespace
        self._clock = clock or SystemClock()
        self._backoff = backoff or Backoff(cap=_BACKOFF_CAP)
        self._heartbeats = heartbeats
        self._on_restart = on_restart
        self._name = f"reflector of {resource.plural}"
        self._failures = 0
        self._version = ""  # to watch from; empty: list first
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Reflect for ever; only cancellation ends it. An API server that is away is waited for."""
        while True:
            self._beat()
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                # A server that ends every watch at once must not be asked without a pause.
                await self._clock.sleep(0.1)
            except ApiError as error:
                # 410 is how a watch normally goes stale; the list that follows costs one request. After a lost
                # connection the last version seen is a good place to go on from; when the server objected it is not.
                self._failures += 1
                if error.status:
                    self._version = ""
                delay = 0.0 if error.gone and self._failures == 1 else self._backoff.delay(self._failures)
                self._on_restart(self._resource, error.reason)
                if not error.gone:
                    values = {"resource": self._resource.plural, "error": error, "retry_seconds": delay}
                    logger.warning("watch failed", extra=values)
                await self._clock.sleep(delay)

    async def _list(self) -> None:
        bodies, version = await self._api.list(self._resource, self._namespace, self._label_selector)
        removed = self._store.replace(self._resource, bodies, version)
        if removed and self.synced.is_set():
            values = {"resource": self._resource.plural, "count": len(removed)}
            logger.info("objects deleted while no watch was open", extra=values)
        self._version = version
        self.synced.set()

    async def _watch(self) -> None:
        """Follow until the server ends the stream."""
        events = self._api.watch(self._resource, self._version, self._namespace, self._label_selector)
        async with aclosing(events):
            async for event in events:
                self._beat()
                self._failures = 0
                match event.type:
                    case "ADDED" | "MODIFIED":
                        self._store.put(self._resource, event.body)
                    case "DELETED":
                        self._store.observe_deletion(self._resource, event.body)
                self._version = resource_version(event.body) or self._version

    def _beat(self) -> None:
        if self._heartbeats is not None:
            self._heartbeats.beat(self._name, _PROMISE)
