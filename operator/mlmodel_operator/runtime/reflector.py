"""Keep the store equal to the API server for one kind.

List, then watch from the resourceVersion of the list. If the watch cannot continue (the resourceVersion is too old),
list again and compare: an object that was deleted in between sends no event any more, so the store deletes it now.
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
# Longest time between two heartbeats: one dead connection or one list, and the longest backoff; twice, as a margin.
_HEARTBEAT_SECONDS = 2 * (max(SILENCE_SECONDS, LIST_SECONDS) + _BACKOFF_CAP)


def _ignore(*_: object) -> None:
    """Do nothing."""


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
        self._name = f"reflector of {resource.plural}" + (f" in {namespace}" if namespace else "")
        self._failures = 0
        self._version = ""  # resourceVersion to watch from; empty: list first
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """List and watch until cancelled; retry while the API server does not answer."""
        while True:
            self._beat()
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                # Pause, so that a server that closes each watch at once gets few requests.
                await self._clock.sleep(0.1)
            except ApiError as error:
                # 410 is normal for an old resourceVersion, and costs one list. After a lost connection the watch
                # continues from the last resourceVersion; after an error of the server it lists first.
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
        removed = self._store.replace(self._resource, bodies, version, self._namespace)
        if removed and self.synced.is_set():
            values = {"resource": self._resource.plural, "count": len(removed)}
            logger.info("objects deleted while no watch was open", extra=values)
        self._version = version
        self.synced.set()

    async def _watch(self) -> None:
        """Watch until the server closes the stream."""
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
            self._heartbeats.beat(self._name, _HEARTBEAT_SECONDS)
