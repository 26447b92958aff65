"""The only module that knows kopf: it hosts the watch on MLModels, and nothing else.

kopf brings the login, the watch with its reconnections, and one event at a time per object. A handler here puts the
body into the store and the key into the queue. Handlers that keep state on the object (create, update, resume, timers)
would add annotations, finalizers and writes of their own; there are none, so kopf writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import kopf

from mlmodel_operator.runtime.api import CONNECT_SECONDS, SILENCE_SECONDS, WATCH_SECONDS, KubeApi
from mlmodel_operator.runtime.queue import Priority, WorkQueue
from mlmodel_operator.runtime.resource import Resource, address
from mlmodel_operator.runtime.store import Store
from mlmodel_operator.runtime.workers import Key


class WatchStopped(Exception):
    """kopf does not watch any more."""


async def watch(
    resource: Resource,
    api: KubeApi,
    store: Store,
    queue: WorkQueue[Key],
    take_back_signals: Callable[[], None],
    identity: str,
) -> None:
    """Run kopf until it ends. Raises WatchStopped: it gives up at any error in a watch but an expired version.

    kopf installs signal handlers when it starts; ``take_back_signals`` is called right after that. When it ends it
    cancels whatever task was started after it. ``identity`` names this process; without it kopf looks up the name of
    the user, which the user of a container does not have.
    """
    ours = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=_registry(resource, api, store, queue),
        settings=_settings(),
        clusterwide=True,
        identity=cast(Any, identity),  # kopf does not export its type
    )
    take_back_signals()
    try:
        await kopf.run_tasks(tasks, ignored=ours)
    except Exception as error:
        # Its errors are of private classes; what happened is in the message.
        raise WatchStopped(f"kopf gave up ({type(error).__name__}: {error})") from None


def _registry(resource: Resource, api: KubeApi, store: Store, queue: WorkQueue[Key]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        """The very connection that the rest of the operator uses; called again when the API server says 401."""
        found = await api.credentials()
        scheme, _space, token = (found.authorization or "").partition(" ")
        return kopf.ConnectionInfo(
            server=found.server,
            ca_path=found.ca_path,
            certificate_path=found.certificate_path,
            private_key_path=found.key_path,
            insecure=found.insecure,
            proxy_url=found.proxy,
            scheme=scheme.capitalize() or None,
            token=token.strip() or None,
        )

    @kopf.on.event(resource.group, resource.version, resource.plural, registry=registry)
    async def model_changed(event: kopf.RawEvent, **_: Any) -> None:
        body = dict(event["object"])
        take = store.observe_deletion if event["type"] == "DELETED" else store.put
        if take(resource, body):  # and not the echo of our own write of the status
            # The first list is not a person's edit: a restart must not make the edits of this moment wait.
            queue.add(address(body), Priority.EDIT if event["type"] else Priority.RESYNC)

    return registry


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True  # the Lease decides who works; peering would pause both replicas
    settings.scanning.disabled = True  # no rights to watch namespaces and CRDs are needed
    settings.posting.enabled = False
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.watching.inactivity_timeout = SILENCE_SECONDS
    settings.networking.connect_timeout = CONNECT_SECONDS
    settings.process.ultimate_exiting_timeout = None  # kubelet's grace period is the limit
    return settings
