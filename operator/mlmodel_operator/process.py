"""The process: constructs its parts, starts and supervises them, leads, answers probes, and stops as a whole.

If any part stops, the process exits, and the new container starts from the state in the cluster; the process has no
other state. On SIGTERM it finishes the reconciles in progress and releases the Lease.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from mlmodel_operator import handlers
from mlmodel_operator.controller import MODELS, Controller
from mlmodel_operator.crd_check import CrdCheck
from mlmodel_operator.handlers import WatchStopped
from mlmodel_operator.kept import VIEWS
from mlmodel_operator.names import APPLIED_ANNOTATION, FIELD_MANAGER, MANAGED_BY_LABEL, MODEL_LABEL, OPERATOR, PROJECT
from mlmodel_operator.resources.exact import foreign_fields
from mlmodel_operator.runtime import metrics
from mlmodel_operator.runtime.api import ApiError, KubeApi
from mlmodel_operator.runtime.apply import Applier
from mlmodel_operator.runtime.audit import Audit, WatchSilent
from mlmodel_operator.runtime.clock import Clock, SystemClock
from mlmodel_operator.runtime.events import Events
from mlmodel_operator.runtime.health import Heartbeats
from mlmodel_operator.runtime.lease import Elector, LeaseLost
from mlmodel_operator.runtime.metrics import Metrics
from mlmodel_operator.runtime.queue import Pace, Priority, WorkQueue
from mlmodel_operator.runtime.reflector import Reflector
from mlmodel_operator.runtime.resource import (
    AUTOSCALERS,
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    NETWORK_POLICIES,
    PODS,
    REPLICA_SETS,
    SERVICES,
    Resource,
    address,
)
from mlmodel_operator.runtime.store import Store
from mlmodel_operator.runtime.workers import Key, Reconcile, Workers
from mlmodel_operator.scrape import Scraper
from mlmodel_operator.settings import Settings

logger = logging.getLogger(__name__)

CHILDREN: tuple[Resource, ...] = (
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    REPLICA_SETS,
    SERVICES,
    PODS,
    CONFIG_MAPS,
    AUTOSCALERS,
    DISRUPTION_BUDGETS,
)
"""Kinds that it watches, with the label of ``CHILD_SELECTOR``."""
CHILD_SELECTOR = f"{MANAGED_BY_LABEL}={OPERATOR}"
WORKERS = 16
SHARE = 4
"""Maximum number of workers for the models of one namespace: a tenant whose pods do not answer holds no more."""
PACE = Pace(burst=20, per_second=5)
"""How often one model is reconciled, however often it is edited: a rollout polls four times per second."""
FINISH_SECONDS = 10.0
"""Time for the reconciles in progress after SIGTERM."""
RESYNC_SECONDS = 3600.0
"""A net under the watches and the times of requeues; every model costs one reconcile, so it is rare."""


@dataclass(frozen=True)
class Parts:
    """The parts that a controller uses."""

    api: KubeApi
    store: Store
    applier: Applier
    events: Events
    scraper: Scraper
    settings: Settings
    clock: Clock


def children(settings: Settings) -> tuple[Resource, ...]:
    """Return the kinds that the operator watches beside MLModels."""
    return (*CHILDREN, NETWORK_POLICIES) if settings.network_policies else CHILDREN


Build = Callable[[Parts], Reconcile]


def controller(parts: Parts) -> Reconcile:
    """Return the reconcile of the controller."""
    return Controller(
        parts.api, parts.store, parts.applier, parts.events, parts.scraper, parts.settings, parts.clock
    ).reconcile


class PartStopped(Exception):
    """A part stopped before the process was to stop."""


EXPECTED = (PartStopped, ApiError, LeaseLost, WatchStopped, WatchSilent, OSError)
"""Errors that the environment causes. Any other is a bug, and the log has its traceback."""


async def run(settings: Settings, build: Build, port: int) -> None:
    """Run the operator until SIGTERM or SIGINT.

    Raise OSError if the configuration of an API server is missing or the port is in use, and a group of PartStopped if
    a part stops before.
    """
    stop = asyncio.Event()
    take_signals(stop)
    instruments = Metrics("mlmodel_operator")
    async with AsyncExitStack() as stack:
        api = await KubeApi.connect(f"{OPERATOR}/{version(PROJECT)}", instruments.observe_request, VIEWS)
        stack.push_async_callback(api.close)
        scraper = Scraper()
        stack.push_async_callback(scraper.close)
        operator = Operator(settings, api, scraper, instruments, build, stop)
        await stack.enter_async_context(metrics.serve(instruments, port, operator.not_alive, operator.not_ready))
        await operator.run()


def take_signals(stop: asyncio.Event) -> None:
    """Make SIGTERM and SIGINT set ``stop``."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


def report(stopped: ExceptionGroup[Exception]) -> None:
    """Log one line for each part that stopped, with the reason, and the traceback if it was a bug."""
    for part in _leaves(stopped):
        is_expected = all(isinstance(cause, EXPECTED) for cause in _leaves(part.__cause__ or part))
        logger.error("part stopped", extra={"error": part}, exc_info=None if is_expected else part)


class Operator:
    """All parts of one process. Construct it in the event loop that runs it."""

    def __init__(
        self,
        settings: Settings,
        api: KubeApi,
        scraper: Scraper,
        instruments: Metrics,
        build: Build,
        stop: asyncio.Event,
        clock: Clock | None = None,
    ) -> None:
        self._settings, self._api, self._metrics, self._stop = settings, api, instruments, stop
        self._clock = clock = clock or SystemClock()
        self._heartbeats = Heartbeats(clock)
        self._store = Store(MODEL_LABEL, VIEWS)
        self._queue: WorkQueue[Key] = WorkQueue(clock, group=_namespace, share=SHARE, pace=PACE)
        self._store.on_change(lambda _, namespace, name: self._queue.add((namespace, name)))
        instruments.queue_due.set_function(lambda: len(self._queue))
        instruments.queue_working.set_function(lambda: self._queue.working)
        self._crd = CrdCheck(api, clock, is_optional=bool(settings.namespaces))
        self._audit = self._make_audit()
        self._reflectors = {
            (resource, namespace): self._make_reflector(resource, namespace)
            for resource in children(settings)
            for namespace in settings.namespaces or (None,)
        }
        self._models_listed = asyncio.Event()
        self._elector = Elector(api, clock, settings.pod_namespace, OPERATOR, settings.pod_name)
        applier = Applier(api, self._store, FIELD_MANAGER, APPLIED_ANNOTATION, foreign_fields)
        events = Events(api, clock, OPERATOR, settings.pod_name)
        reconcile = build(Parts(api, self._store, applier, events, scraper, settings, clock))
        self._workers = Workers(self._queue, reconcile, clock, instruments, self._heartbeats)

    def _make_audit(self) -> Audit:
        return Audit(
            self._api,
            self._store,
            MODELS,
            self._clock,
            lambda namespace, name: self._queue.add((namespace, name), Priority.RESYNC),
            namespaces=self._settings.namespaces,
            heartbeats=self._heartbeats,
            on_missed=self._metrics.missed.inc,
        )

    def _make_reflector(self, resource: Resource, namespace: str | None) -> Reflector:
        return Reflector(
            self._api,
            self._store,
            resource,
            CHILD_SELECTOR,
            namespace=namespace,
            clock=self._clock,
            heartbeats=self._heartbeats,
            on_restart=self._metrics.observe_watch_restart,
        )

    # ---------------------------------------------------------------------------------- starting, supervising, stopping

    async def run(self) -> None:
        """Run all parts until ``stop`` is set. Raise a group of PartStopped if one stops before."""
        async with asyncio.TaskGroup() as group:

            def start(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
                return group.create_task(self._supervise(name, work), name=name)

            reflectors = (
                (f"reflector of {_scope(*scope)}", reflector.run()) for scope, reflector in self._reflectors.items()
            )
            leader = start("leader", self._lead())
            others = [
                start("audit", self._audit_models()),
                start("resync", self._resync()),
                *(start(name, work) for name, work in reflectors),
                # Last: when kopf stops, it cancels all tasks that were started after it.
                start("watch on models", self._watch_models()),
            ]
            await self._stop.wait()
            await self._finish(leader)
            for task in (leader, *others):
                task.cancel()

    async def _supervise(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Await ``work``, which must not stop before ``stop`` is set; if it does, raise PartStopped."""
        try:
            await work
        except Exception as error:
            reasons = "; ".join(str(leaf) or type(leaf).__name__ for leaf in _leaves(error))
            raise PartStopped(f"{name}: {reasons}") from error
        if not self._stop.is_set():
            raise PartStopped(f"{name}: stopped without an error")

    async def _finish(self, leader: asyncio.Task[None]) -> None:
        """Start no new reconcile, and wait for those in progress and for the release of the Lease."""
        logger.info("stopping")
        self._queue.close()
        if self._elector.leading:
            await asyncio.wait({leader}, timeout=FINISH_SECONDS)

    # ------------------------------------------------------------------------------------------------- the models

    async def _watch_models(self) -> None:
        await self._crd.wait()
        await self._audit.first()
        self._models_listed.set()
        await handlers.watch(
            MODELS,
            self._api,
            self._store,
            self._queue,
            VIEWS[MODELS],
            partial(take_signals, self._stop),
            self._settings.pod_name,
            self._settings.namespaces,
        )

    async def _audit_models(self) -> None:
        await self._models_listed.wait()
        await self._audit.run()

    async def _resync(self) -> None:
        """Reconcile every model about every ``RESYNC_SECONDS``. This writes nothing if nothing has changed."""
        while True:
            await self._clock.sleep(RESYNC_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret
            for body in self._store.all(MODELS):
                self._queue.add(address(body), Priority.RESYNC)

    # ---------------------------------------------------------------------------------------------------- leading

    async def _lead(self) -> None:
        """Reconcile while this replica holds the Lease, which it acquires only after all its caches have synced."""
        await self._models_listed.wait()
        for reflector in self._reflectors.values():
            await reflector.synced.wait()
        await self._elector.acquire()
        logger.info("leading", extra={"pod": self._settings.pod_name})
        self._metrics.leader.set(1)
        try:
            async with asyncio.TaskGroup() as group:
                renewal = group.create_task(self._elector.hold())
                workers = [group.create_task(self._workers.run(f"worker {number}")) for number in range(WORKERS)]
                await asyncio.wait(workers)
                renewal.cancel()
        finally:
            await self._elector.release()

    # ----------------------------------------------------------------------------------------------------- probes

    def not_ready(self) -> list[str]:
        """Return why this replica cannot lead yet; a standby that waits for the Lease is ready."""
        synced = {"models": self._models_listed} | {
            _scope(*scope): reflector.synced for scope, reflector in self._reflectors.items()
        }
        waiting = [f"the {plural} have not been listed yet" for plural, event in synced.items() if not event.is_set()]
        return [self._crd.problem, *waiting] if self._crd.problem else waiting

    def not_alive(self) -> list[str]:
        """Return the parts without a heartbeat."""
        return [f"no heartbeat from the {name}" for name in self._heartbeats.late()]


def _scope(resource: Resource, namespace: str | None) -> str:
    """Return what a reflector watches, for messages."""
    return resource.plural + (f" in {namespace}" if namespace else "")


def _namespace(key: Key) -> str:
    return key[0]


def _leaves(error: BaseException) -> list[BaseException]:
    """Return the errors in a group of groups; the error itself if it is not a group."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in _leaves(member)]
    return [error]
