"""The process: builds everything, supervises it, and ends as a whole.

Any part that ends takes the process with it, and the pod starts again from what is in the cluster; there is no state
here that is worth a repair. SIGTERM is the orderly end: work in progress is finished, and the Lease handed over.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from mlmodel_operator import handlers
from mlmodel_operator.controller import MODELS, Controller
from mlmodel_operator.handlers import WatchEnded
from mlmodel_operator.names import (
    APPLIED_ANNOTATION,
    FIELD_MANAGER,
    MANAGED_BY_LABEL,
    MODEL_LABEL,
    OPERATOR,
    OPERATOR_PORT,
)
from mlmodel_operator.runtime import log, metrics
from mlmodel_operator.runtime.api import ApiError, KubeApi
from mlmodel_operator.runtime.apply import Applier
from mlmodel_operator.runtime.audit import Audit, WatchSilent
from mlmodel_operator.runtime.clock import Clock, SystemClock
from mlmodel_operator.runtime.events import Events
from mlmodel_operator.runtime.health import Heartbeats
from mlmodel_operator.runtime.lease import Elector, LeaseLost
from mlmodel_operator.runtime.metrics import Metrics
from mlmodel_operator.runtime.queue import Priority, WorkQueue
from mlmodel_operator.runtime.reflector import Reflector
from mlmodel_operator.runtime.resource import (
    AUTOSCALERS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    PODS,
    SERVICES,
    Resource,
    address,
)
from mlmodel_operator.runtime.store import Store
from mlmodel_operator.runtime.workers import Key, Reconcile, Workers
from mlmodel_operator.scrape import Scraper
from mlmodel_operator.settings import Settings, SettingsError

logger = logging.getLogger("mlmodel_operator")

CHILDREN: tuple[Resource, ...] = (DEPLOYMENTS, SERVICES, PODS, CONFIG_MAPS, AUTOSCALERS, DISRUPTION_BUDGETS)
CHILD_SELECTOR = f"{MANAGED_BY_LABEL}={OPERATOR}"
WORKERS = 8
FINISH_SECONDS = 10.0
RESYNC_SECONDS = 600.0


@dataclass(frozen=True)
class Parts:
    """What a controller is made of."""

    api: KubeApi
    store: Store
    applier: Applier
    events: Events
    scraper: Scraper
    settings: Settings
    clock: Clock


Build = Callable[[Parts], Reconcile]


class PartEnded(Exception):
    """A part of the process that must run for ever has ended."""


# Reasons to end that the environment can give; of anything else, which is a bug, the log shows the traceback.
EXPECTED = (PartEnded, ApiError, LeaseLost, WatchEnded, WatchSilent, OSError)


def _controller(parts: Parts) -> Reconcile:
    return Controller(
        parts.api, parts.store, parts.applier, parts.events, parts.scraper, parts.settings, parts.clock
    ).reconcile


def main(build: Build = _controller, port: int = OPERATOR_PORT, argv: Sequence[str] | None = None) -> None:
    """The console script ``mlmodel-operator``; exit code 0 after SIGTERM or SIGINT, 2 for a wrong command line, 1 after
    anything else.

    ``build`` and ``port`` are for tests, which put something simpler in the controller's place.
    """
    try:
        settings = Settings.read(sys.argv[1:] if argv is None else argv)
    except SettingsError as error:
        sys.exit(f"mlmodel-operator: {error}")
    log.configure(settings.log_level)
    try:
        asyncio.run(run(settings, build, port))
    except OSError as error:  # no configuration, or the port is taken
        sys.exit(f"mlmodel-operator: {error}")
    except ExceptionGroup as ended:
        for part in _leaves(ended):
            expected = all(isinstance(cause, EXPECTED) for cause in _leaves(part.__cause__ or part))
            logger.error("%s", part, exc_info=None if expected else part)
        sys.exit(1)


async def run(settings: Settings, build: Build, port: int) -> None:
    """Run the operator until SIGTERM or SIGINT.

    Raises OSError when there is no configuration to reach an API server or the port is taken, and a group of PartEnded
    when some part ended.
    """
    stop = asyncio.Event()

    def take_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)

    take_signals()
    clock = SystemClock()
    heartbeats = Heartbeats(clock)
    instruments = Metrics("mlmodel_operator")
    async with AsyncExitStack() as stack:
        api = await KubeApi.connect(f"{OPERATOR}/{version('mlmodel')}", instruments.observe_request)
        stack.push_async_callback(api.close)
        scraper = Scraper()
        stack.push_async_callback(scraper.close)

        store = Store(MODEL_LABEL)
        queue: WorkQueue[Key] = WorkQueue(clock)
        store.on_change(lambda _, namespace, name: queue.add((namespace, name)))
        instruments.queue_due.set_function(lambda: len(queue))
        instruments.queue_working.set_function(lambda: queue.working)
        applier = Applier(api, store, FIELD_MANAGER, APPLIED_ANNOTATION)
        events = Events(api, clock, OPERATOR, settings.pod_name)
        reconcile = build(Parts(api, store, applier, events, scraper, settings, clock))
        workers = Workers(queue, reconcile, clock, instruments, heartbeats)
        elector = Elector(api, clock, settings.pod_namespace, OPERATOR, settings.pod_name)
        audit = Audit(
            api,
            store,
            MODELS,
            clock,
            lambda namespace, name: queue.add((namespace, name), Priority.RESYNC),
            heartbeats=heartbeats,
            on_missed=instruments.missed.inc,
        )
        reflectors = [
            Reflector(
                api,
                store,
                resource,
                CHILD_SELECTOR,
                clock=clock,
                heartbeats=heartbeats,
                on_restart=instruments.observe_watch_restart,
            )
            for resource in CHILDREN
        ]
        synced = {"the models": asyncio.Event()} | {
            f"the {resource.plural}": reflector.synced for resource, reflector in zip(CHILDREN, reflectors, strict=True)
        }

        async def watch_models() -> None:
            await audit.first()
            synced["the models"].set()
            await handlers.watch(MODELS, api, store, queue, take_signals, settings.pod_name)

        async def audit_models() -> None:
            await synced["the models"].wait()
            await audit.run()

        async def lead() -> None:
            # Only who sees the whole state may work on it; a standby gets this far, and waits with everything warm.
            for event in synced.values():
                await event.wait()
            await elector.acquire()
            logger.info("Leading as %s", settings.pod_name)
            instruments.leader.set(1)
            try:
                async with asyncio.TaskGroup() as group:
                    holding = group.create_task(elector.hold())
                    crew = [group.create_task(workers.run(f"worker {number}")) for number in range(WORKERS)]
                    await asyncio.wait(crew)
                    holding.cancel()
            finally:
                await elector.release()

        def not_ready() -> list[str]:
            return [f"{what} have not been listed yet" for what, event in synced.items() if not event.is_set()]

        def not_alive() -> list[str]:
            return [f"nothing heard of the {name}" for name in heartbeats.late()]

        await stack.enter_async_context(metrics.serve(instruments, port, not_alive, not_ready))
        async with asyncio.TaskGroup() as parts:

            def start(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
                return parts.create_task(_supervise(name, work, stop), name=name)

            leading = start("the leading replica", lead())
            others = [
                start("the audit", audit_models()),
                start("the resync", _resync(clock, store, queue)),
                *(
                    start(f"the reflector of {resource.plural}", reflector.run())
                    for resource, reflector in zip(CHILDREN, reflectors, strict=True)
                ),
                # Last: kopf takes the tasks that start after it down with it when it ends.
                start("the watch on models", watch_models()),
            ]
            await stop.wait()
            logger.info("Stopping")
            queue.close()
            if elector.leading:
                await asyncio.wait({leading}, timeout=FINISH_SECONDS)
            for task in (leading, *others):
                task.cancel()


async def _resync(clock: Clock, store: Store, queue: WorkQueue[Key]) -> None:
    """Look at every model now and then even if nothing is heard of it. It costs no write where nothing has changed."""
    while True:
        await clock.sleep(RESYNC_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret
        for body in store.all(MODELS):
            queue.add(address(body), Priority.RESYNC)


async def _supervise(name: str, work: Awaitable[None], stop: asyncio.Event) -> None:
    """Await ``work``, which never ends by itself before ``stop``; if it does, raise PartEnded with the reason."""
    try:
        await work
    except Exception as error:
        reasons = "; ".join(str(leaf) or type(leaf).__name__ for leaf in _leaves(error))
        raise PartEnded(f"{name} ended: {reasons}") from error
    if not stop.is_set():
        raise PartEnded(f"{name} ended")


def _leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group of groups; the error itself if it is no group."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in _leaves(member)]
    return [error]


if __name__ == "__main__":
    main()
