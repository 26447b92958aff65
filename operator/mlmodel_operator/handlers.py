"""The watch on MLModels: the only module that imports kopf.

kopf provides the login, the watch with its reconnections, and one event at a time per object. The handler puts the body
into the store and the key into the queue. Handlers that keep state on the object (create, update, resume, timers) would
write annotations and finalizers. This module has none of them, so kopf writes nothing.

kopf parses whole objects and keeps them for a while, and tenants decide how large they are. So it gets a session whose
responses have only the fields that the operator reads.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import aiohttp
import kopf
import msgspec

from mlmodel_operator.runtime.api import (
    CONNECT_SECONDS,
    ERROR_BYTES,
    LINE_BYTES,
    SILENCE_SECONDS,
    WATCH_SECONDS,
    Credentials,
    KubeApi,
    bounded_lines,
    read_bounded,
)
from mlmodel_operator.runtime.queue import Priority, WorkQueue
from mlmodel_operator.runtime.resource import Resource, address
from mlmodel_operator.runtime.store import Store
from mlmodel_operator.runtime.view import View, decode_event, decode_list
from mlmodel_operator.runtime.workers import Key

PAGE = 10
"""Objects in a page of kopf's list, which is at most ``LINE_BYTES`` long: etcd holds 1.5 MiB of an object."""


class WatchStopped(Exception):
    """The watch of kopf has stopped."""


async def watch(
    resource: Resource,
    api: KubeApi,
    store: Store,
    queue: WorkQueue[Key],
    view: View,
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
        registry=_registry(resource, api, store, queue, view),
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


def _registry(
    resource: Resource, api: KubeApi, store: Store, queue: WorkQueue[Key], view: View
) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        """Return a session with the credentials of the operator's own client; kopf calls this again when the API server
        answers 401, and closes the session before."""
        credentials = await api.credentials()
        session = reduced_session(credentials, api.ssl_context, resource, view)
        return kopf.AiohttpSession(server=credentials.server, aiohttp_session=session)

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
    settings.watching.chunk_size = PAGE
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.watching.inactivity_timeout = SILENCE_SECONDS
    settings.networking.connect_timeout = CONNECT_SECONDS
    settings.process.ultimate_exiting_timeout = None  # kubelet's grace period is the limit
    return settings


# ------------------------------------------------------------------------------------------------------ what kopf reads


def reduced_session(
    credentials: Credentials, context: ssl.SSLContext, resource: Resource, view: View
) -> aiohttp.ClientSession:
    """Return a session whose lists and watches of ``resource`` have what ``view`` keeps."""

    class Response(_Reduced):
        kind, kept = resource, view

    headers = {"Accept-Encoding": "identity"}
    if credentials.authorization:
        headers["Authorization"] = credentials.authorization
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=context),
        headers=headers,
        proxy=credentials.proxy,
        response_class=Response,
        trust_env=False,
    )


class _Reduced(aiohttp.ClientResponse):
    """A response of the API server. Of ``kind`` kopf reads ``json()`` of a list and lines of ``content`` of a watch,
    of the kinds that the server has ``json()``."""

    kind: Resource
    kept: View

    async def json(self, **_: Any) -> Any:
        """Return a reduced page of a list, or any other response as it is."""
        if self.status >= 400:
            return msgspec.json.decode(await read_bounded(self, ERROR_BYTES))
        content = await read_bounded(self, LINE_BYTES)
        if not _is_list(self.url.path, self.kind):
            return msgspec.json.decode(content)
        bodies, more, version = decode_list(content, self.kept, self.kind)
        return {"items": bodies, "metadata": {"resourceVersion": version, "continue": more}}

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Start the response, and reduce what kopf streams of it."""
        await super().start(connection)
        self.content = cast(aiohttp.StreamReader, _Events(self.content, self.kind, self.kept))
        return self


def _is_list(path: str, kind: Resource) -> bool:
    """Whether the path is that of all objects of a kind, in the cluster or in one namespace."""
    namespace = path.partition("/namespaces/")[2].partition("/")[0]
    return path == kind.path(namespace or None)


class _Events:
    """The content of a response, of which kopf reads a watch with ``iter_chunked``."""

    def __init__(self, content: aiohttp.StreamReader, kind: Resource, kept: View) -> None:
        self._content, self._kind, self._kept = content, kind, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, _size: int) -> AsyncIterator[bytes]:
        """Yield the reduced events of a watch."""
        async for line in bounded_lines(self._content.iter_any()):
            kind, body = decode_event(line, self._kept, self._kind)
            yield msgspec.json.encode({"type": kind, "object": body}) + b"\n"
