"""The watch on MLModels: the only module that imports kopf.

kopf provides the login, the watch with its reconnections, and one event at a time per object. The handler puts the body
into the store and the key into the queue. Handlers that keep state on the object (create, update, resume, timers) would
write annotations and finalizers. This module has none of them, so kopf writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import kopf

from mlmodel_operator.runtime.api import CONNECT_SECONDS, SILENCE_SECONDS, WATCH_SECONDS, KubeApi
from mlmodel_operator.runtime.queue import Priority, WorkQueue
from mlmodel_operator.runtime.resource import Resource, address
from mlmodel_operator.runtime.store import Store
from mlmodel_operator.runtime.workers import Key


class WatchStopped(Exception):
    """The watch of kopf has stopped."""


async def watch(
    resource: Resource,
    api: KubeApi,
    store: Store,
    queue: WorkQueue[Key],
    restore_signal_handlers: Callable[[], None],
    identity: str,
    namespaces: Sequence[str] = (),
) -> None:
    """Run kopf until it stops. Raise WatchStopped: kopf stops at any error of a watch except an expired version.

    kopf installs signal handlers when it starts; ``restore_signal_handlers`` is called right after that. When kopf
    stops, it cancels all tasks that were started after it. ``identity`` names this process; without it kopf looks up
    the name of the user, which the user of a container does not have. Without ``namespaces`` it watches all.
    """
    our_tasks = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=_registry(resource, api, store, queue),
        settings=_settings(),
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        identity=cast(Any, identity),  # kopf does not export its type
    )
    restore_signal_handlers()
    try:
        await kopf.run_tasks(tasks, ignored=our_tasks)
    except Exception as error:
        # The classes of kopf's errors are private; the message has the cause.
        raise WatchStopped(f"kopf stopped ({type(error).__name__}: {error})") from None


def _registry(resource: Resource, api: KubeApi, store: Store, queue: WorkQueue[Key]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        """Return the credentials of the operator's own client; kopf calls this again when the API server answers
        401."""
        credentials = await api.credentials()
        scheme, _space, token = (credentials.authorization or "").partition(" ")
        return kopf.ConnectionInfo(
            server=credentials.server,
            ca_path=credentials.ca_path,
            certificate_path=credentials.certificate_path,
            private_key_path=credentials.key_path,
            insecure=credentials.insecure,
            proxy_url=credentials.proxy,
            scheme=scheme.capitalize() or None,
            token=token.strip() or None,
        )

    @kopf.on.event(resource.group, resource.version, resource.plural, registry=registry)
    async def model_changed(event: kopf.RawEvent, **_: Any) -> None:
        body = dict(event["object"])
        update = store.observe_deletion if event["type"] == "DELETED" else store.put
        if update(resource, body):  # not the event of our own write of the status
            # The first list has no edits: after a restart, edits of users must not wait behind it.
            queue.add(address(body), Priority.EDIT if event["type"] else Priority.RESYNC)

    return registry


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True  # the Lease selects the leader; peering would pause both replicas
    settings.scanning.disabled = True  # requires no rights to watch namespaces and CRDs
    settings.posting.enabled = False
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.watching.inactivity_timeout = SILENCE_SECONDS
    settings.networking.connect_timeout = CONNECT_SECONDS
    settings.process.ultimate_exiting_timeout = None  # kubelet's grace period is the limit
    return settings
