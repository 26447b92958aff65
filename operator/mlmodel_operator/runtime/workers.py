"""Take keys from the queue and reconcile them; an error of one reconcile does not stop the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.clock import Clock
from mlmodel_operator.runtime.health import Heartbeats
from mlmodel_operator.runtime.log import current_key
from mlmodel_operator.runtime.metrics import Metrics
from mlmodel_operator.runtime.queue import QueueClosed, WorkQueue

logger = logging.getLogger(__name__)

Key = tuple[str, str]  # (namespace, name)
Reconcile = Callable[[Key], Awaitable[float | None]]

RECONCILE_SECONDS = 60.0


class Workers:
    """Any number of ``run`` over one queue, which ensures that two of them never reconcile the same key."""

    def __init__(
        self,
        queue: WorkQueue[Key],
        reconcile: Reconcile,
        clock: Clock,
        metrics: Metrics,
        heartbeats: Heartbeats,
    ) -> None:
        self._queue = queue
        self._reconcile = reconcile
        self._clock = clock
        self._metrics = metrics
        self._heartbeats = heartbeats

    async def run(self, name: str) -> None:
        """Reconcile until the queue is closed; finish a reconcile in progress first."""
        while True:
            try:
                key = await self._queue.get()
            except QueueClosed:
                return
            self._heartbeats.beat(name, 2 * RECONCILE_SECONDS)
            token = current_key.set(key)
            started, waited = self._clock.monotonic(), self._queue.waited(key)
            self._metrics.wait_seconds.observe(waited)
            try:
                outcome = await self._work(key)
                seconds = self._clock.monotonic() - started
                self._metrics.reconciles.labels(outcome).inc()
                self._metrics.reconcile_seconds.observe(seconds)
                values = {"outcome": outcome, "seconds": f"{seconds:.3f}", "waited_seconds": f"{waited:.3f}"}
                logger.debug("reconciled", extra=values)
            finally:
                self._queue.done(key)
                self._heartbeats.rest(name)
                current_key.reset(token)

    async def _work(self, key: Key) -> str:
        try:
            async with asyncio.timeout(RECONCILE_SECONDS):
                requeue_seconds = await self._reconcile(key)
        except ApiError as error:
            delay = self._queue.retry(key, error.retry_after or 0.0)
            if error.conflict:  # another client wrote in between: normal, and the next reconcile reads it
                logger.debug("conflict, reconcile requeued", extra={"error": error, "retry_seconds": delay})
                return "conflict"
            logger.warning("reconcile rejected", extra={"error": error, "retry_seconds": delay})
            return "refused"
        except Exception:  # a bug with one model must not stop the others
            delay = self._queue.retry(key)
            logger.exception("reconcile failed", extra={"retry_seconds": delay})
            return "error"
        self._queue.forget(key)
        if requeue_seconds is not None:
            self._queue.add_after(key, requeue_seconds)
        return "ok"
