"""The client of the API server: plain dicts in and out, every failure an ``ApiError``.

``kubernetes.aio`` sends the requests (configuration, TLS, token refresh); its typed models are never loaded. Its
``call_api`` takes a URL, headers and a JSON body and returns the raw aiohttp response, which all patch content types
and the streaming watch require.
"""

from __future__ import annotations

import json
import os
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import aiohttp
import msgspec
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from mlmodel_operator.runtime.resource import CONTROLLER_REVISIONS, Bodies, Body, Resource, address
from mlmodel_operator.runtime.view import View, decode_event, decode_list, decode_whole

REQUEST_SECONDS = 15.0
LIST_SECONDS = 60.0
CONNECT_SECONDS = 5.0
PAGE = 500
"""Objects in the first page of a list; the next ones have fewer if this one is larger than ``PAGE_BYTES``."""

# What tenants write decides about sizes. etcd holds 1.5 MiB of an object; JSON escapes make up to 9 MiB of them.
PAGE_BYTES = 4 << 20
OBJECT_BYTES = 4 << 20
"""Maximum size in bytes of a response with one object."""
LINE_BYTES = 16 << 20
"""Maximum size in bytes of an event of a watch, and of a page with one object."""
ERROR_BYTES = 64 << 10
TOO_LARGE = "ResponseTooLarge"
"""Reason of the ApiError for a response of more bytes than its limit."""
# The API server closes a watch after this time (with jitter, so that the watches of all kinds do not close together),
# and sends a bookmark at least every 60 to 75 s. Without any data for longer, the connection is dead.
WATCH_SECONDS = 290
SILENCE_SECONDS = 90.0

_SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_RETRYABLE = frozenset({0, 408, 429, 500, 502, 503, 504})


class ApiError(Exception):
    """A failed call. ``status`` is the HTTP status, or 0 without a response (``reason`` is then ``Unreachable``)."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{reason or status}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def not_found(self) -> bool:
        """Whether the object or its kind does not exist."""
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """Whether a precondition does not hold or the name exists: read the object again before a retry."""
        return self.status == 409

    @property
    def gone(self) -> bool:
        """Whether the resourceVersion is too old for a watch or a page: list again."""
        return self.status == 410

    @property
    def forbidden(self) -> bool:
        """Whether the operator's role does not permit the call, or an admission policy rejects it."""
        return self.status == 403

    @property
    def invalid(self) -> bool:
        """Whether the API server rejects the body: a retry fails too."""
        return self.status in (400, 422)

    @property
    def too_large(self) -> bool:
        """Whether the response has more bytes than the operator reads; a write may have been made."""
        return self.reason == TOO_LARGE

    @property
    def retryable(self) -> bool:
        """Whether a retry of the same call may succeed."""
        return self.status in _RETRYABLE


@dataclass(frozen=True)
class WatchEvent:
    """One event of a watch: ``ADDED``, ``MODIFIED``, ``DELETED`` or ``BOOKMARK`` (whose body is only metadata)."""

    type: str
    body: Body


class Api(Protocol):
    """The calls that the operator makes. Each raises ApiError if it fails."""

    async def get(self, r: Resource, namespace: str, name: str) -> Body:
        """Return one object with all its fields."""
        ...

    async def list(
        self, r: Resource, namespace: str | None = None, label_selector: str = "", *, whole: bool = False
    ) -> tuple[Bodies, str]:
        """Return all objects, and the resourceVersion of the list: the view of each, with ``whole`` all fields."""
        ...

    def watch(
        self,
        r: Resource,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncGenerator[WatchEvent, None]:
        """Yield the changes after ``resource_version``, each with the view of the object, until the server closes the
        stream; ApiError(410) if too old."""
        ...

    async def apply(self, r: Resource, body: Body, manager: str) -> Body:
        """Server-side apply of all fields in ``body``, also of fields that others own."""
        ...

    async def patch(
        self, r: Resource, namespace: str, name: str, body: Body, subresource: str = "", *, dry_run: bool = False
    ) -> Body:
        """JSON merge patch; a conflict if it has a ``metadata.resourceVersion`` that is stale. With ``dry_run`` only
        return what would be stored."""
        ...

    async def replace_status(self, r: Resource, body: Body) -> Body:
        """Replace ``status``; a conflict if the body's resourceVersion is stale."""
        ...

    async def create(self, r: Resource, body: Body) -> Body:
        """Create the object; a conflict if the name exists."""
        ...

    async def delete(
        self, r: Resource, namespace: str, name: str, uid: str, resource_version: str | None = None
    ) -> None:
        """Delete the object with this UID (and resourceVersion); succeed if it does not exist."""
        ...


@dataclass(frozen=True)
class Credentials:
    """Connection to the API server, for another client in the same process. ``authorization`` is the whole header."""

    server: str
    proxy: str | None
    authorization: str | None


Observer = Callable[[str, Resource, int], None]


def _ignore(*_: object) -> None:
    """Do nothing."""


class KubeApi:
    """The Api over HTTP. ``observe(verb, resource, status)`` is called after each request (for metrics).

    ``views`` says which fields of the objects of a kind are read; lists and watches decode no others.
    """

    def __init__(
        self,
        configuration: Configuration,
        user_agent: str,
        observe: Observer = _ignore,
        views: Mapping[Resource, View] | None = None,
    ) -> None:
        # No proxies from the environment: the API server is inside the cluster, and kopf does not use them either. The
        # proxy-url of a kubeconfig applies.
        configuration.client_session_kwargs = {"trust_env": False}
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self._user_agent = user_agent
        self._observe = observe
        self._views = dict(views or {})

    @classmethod
    async def connect(
        cls, user_agent: str, observe: Observer = _ignore, views: Mapping[Resource, View] | None = None
    ) -> KubeApi:
        """Return a client for ``KUBECONFIG``, else the service account of the pod, else ``~/.kube/config``.

        Raise ConnectionError with one sentence if none of them exists. This sends no request.
        """
        configuration = Configuration()
        try:
            kubeconfig = _kubeconfig()
            if kubeconfig is None:
                kubernetes_config.load_incluster_config(client_configuration=configuration)
            else:
                await kubernetes_config.load_kube_config(
                    config_file=kubeconfig, client_configuration=configuration, persist_config=False
                )
        except (kubernetes_config.ConfigException, OSError, KeyError, TypeError, ValueError) as error:
            raise ConnectionError(
                f"no configuration of an API server ({error}): run the operator in a pod with a service account, or set"
                " KUBECONFIG"
            ) from error
        return cls(configuration, user_agent, observe, views)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """TLS of the connection, for another client in the same process."""
        context: ssl.SSLContext = self._client.rest_client.ssl_context
        return context

    async def credentials(self) -> Credentials:
        """Return the connection of this client, with the present token."""
        return Credentials(
            server=self._configuration.host,
            proxy=self._configuration.proxy,
            authorization=await self._authorization(),
        )

    async def get(self, r: Resource, namespace: str, name: str) -> Body:
        """See Api."""
        return await self._call("get", r, "GET", r.path(namespace, name))

    async def list(
        self, r: Resource, namespace: str | None = None, label_selector: str = "", *, whole: bool = False
    ) -> tuple[Bodies, str]:
        """See Api. The pages are one consistent snapshot; if it expires between two pages, raise ApiError(410).

        Each page is reduced before the next one is requested. One that is too large is requested again with fewer
        objects.
        """
        items: Bodies = []
        view = None if whole else self._views.get(r)
        limit, more = PAGE, ""
        while True:
            query = {"limit": str(limit), "labelSelector": label_selector, "continue": more}
            try:
                page = await self._page(r, namespace, query, view, PAGE_BYTES if limit > 1 else LINE_BYTES)
            except ApiError as error:
                if not error.too_large or limit == 1:
                    raise
                limit = max(limit // 8, 1)
                continue
            bodies, more, version = decode_list(page, view, r)
            items += bodies
            if not more:
                return items, version

    async def _page(
        self, r: Resource, namespace: str | None, query: dict[str, str], view: View | None, most: int
    ) -> bytes:
        limits = aiohttp.ClientTimeout(total=LIST_SECONDS, sock_connect=CONNECT_SECONDS)
        kind = _accept(view, "PartialObjectMetadataList")
        async with self._request("list", r, "GET", r.path(namespace), query, limits=limits, accept=kind) as response:
            return await read_bounded(response, most)

    async def watch(
        self,
        r: Resource,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncGenerator[WatchEvent, None]:
        """See Api. A caller that stops before the end must close it (``contextlib.aclosing``)."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(round(WATCH_SECONDS * random.uniform(0.8, 1.0))),  # noqa: S311 - not a secret
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
        }
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        path, view = r.path(namespace), self._views.get(r)
        kind = _accept(view, "PartialObjectMetadata")
        async with self._request("watch", r, "GET", path, query, limits=limits, accept=kind) as response:
            async for line in bounded_lines(response.content.iter_any()):
                yield _watch_event(line, view, r)

    async def apply(self, r: Resource, body: Body, manager: str) -> Body:
        """See Api."""
        namespace, name = address(body)
        query = {"fieldManager": manager, "force": "true"}
        kind = "application/apply-patch+yaml"
        return await self._call("apply", r, "PATCH", r.path(namespace, name), query, body, kind)

    async def patch(
        self, r: Resource, namespace: str, name: str, body: Body, subresource: str = "", *, dry_run: bool = False
    ) -> Body:
        """See Api."""
        kind, query = "application/merge-patch+json", {"dryRun": "All" if dry_run else ""}
        return await self._call("patch", r, "PATCH", r.path(namespace, name, subresource), query, body, kind)

    async def replace_status(self, r: Resource, body: Body) -> Body:
        """See Api."""
        return await self._call("update", r, "PUT", r.path(*address(body), "status"), {}, body)

    async def create(self, r: Resource, body: Body) -> Body:
        """See Api."""
        path = r.path(address(body)[0])
        if r != CONTROLLER_REVISIONS:
            return await self._call("create", r, "POST", path, {}, body)
        # The API server compares the data of a ControllerRevision byte by byte at every later write, also of metadata.
        # From YAML, of which JSON is a part, it stores the bytes that it would write itself; from JSON those of the
        # request, whose spaces and escapes differ.
        return await self._call("create", r, "POST", path, {}, json.dumps(body), "application/yaml")

    async def delete(
        self, r: Resource, namespace: str, name: str, uid: str, resource_version: str | None = None
    ) -> None:
        """See Api. The garbage collector then deletes the children of the object."""
        preconditions = {"uid": uid}
        if resource_version is not None:
            preconditions["resourceVersion"] = resource_version
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": preconditions,
        }
        try:
            await self._call("delete", r, "DELETE", r.path(namespace, name), {}, options)
        except ApiError as error:
            if not error.not_found:
                raise

    async def _authorization(self) -> str | None:
        """Return the header with the present token; that of a service account is read from its file every minute."""
        auth = await self._configuration.auth_settings()
        return auth["BearerToken"]["value"] if "BearerToken" in auth else None

    async def _call(
        self,
        verb: str,
        r: Resource,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Body | str | None = None,
        content_type: str = "application/json",
        seconds: float = REQUEST_SECONDS,
    ) -> Body:
        limits = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        async with self._request(verb, r, method, path, query, body, content_type, limits) as response:
            return decode_whole(await read_bounded(response, OBJECT_BYTES), self._views.get(r))

    @asynccontextmanager
    async def _request(
        self,
        verb: str,
        r: Resource,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Body | str | None = None,
        content_type: str = "application/json",
        limits: aiohttp.ClientTimeout | None = None,
        accept: str = "application/json",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield a response with a status below 400, and release it at the end; raise ApiError for every failure."""
        # Not compressed: a small response could unpack to a large one.
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        headers |= {"Content-Type": content_type, "User-Agent": self._user_agent}
        url = self._configuration.host + path
        if query := {key: value for key, value in (query or {}).items() if value}:
            url += "?" + urlencode(query)
        status = 0
        try:
            if authorization := await self._authorization():
                headers["Authorization"] = authorization
            answer = await self._client.call_api(method, url, headers, body, _request_timeout=limits)
            response: aiohttp.ClientResponse = answer.response
            async with response:
                status = response.status
                if status >= 400:
                    content = await read_bounded(response, ERROR_BYTES)
                    raise _error_of(status, content, response.headers.get("Retry-After"))
                yield response
        except TimeoutError as error:  # before OSError, its parent; aiohttp's timeouts are TimeoutErrors too
            status = 0
            raise ApiError(0, "Unreachable", f"no response to {method} {path} in time") from error
        except (aiohttp.ClientError, OSError, kubernetes_config.ConfigException) as error:
            status = 0
            raise ApiError(0, "Unreachable", f"{error or type(error).__name__}") from error
        except (msgspec.MsgspecError, RecursionError) as error:
            status = 0
            raise ApiError(0, "Unreachable", f"the response to {method} {path} is not JSON") from error
        finally:
            self._observe(verb, r, status)


def _kubeconfig() -> str | None:
    """Return the kubeconfig file to read; None for the service account of the pod."""
    configured = os.environ.get("KUBECONFIG")
    if not configured and _SERVICE_ACCOUNT_TOKEN.exists():
        return None
    return configured or str(Path("~/.kube/config").expanduser())


def _accept(view: View | None, kind: str) -> str:
    """Return the header for a list or watch: of a kind whose metadata alone is read, only that is sent."""
    is_partial = view is not None and view.is_metadata_only
    return f"application/json;as={kind};g=meta.k8s.io;v=v1" if is_partial else "application/json"


async def read_bounded(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the body of a response; raise ApiError (``too_large``) if it has more bytes than ``most``."""
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > most:
            raise ApiError(0, TOO_LARGE, f"the response has more than {most >> 20 or 1} MiB")
    return bytes(content)


async def bounded_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the lines of a stream that are not empty; raise ApiError (``too_large``) for one over ``LINE_BYTES``."""
    # Not readline(), whose limit is below the size of the largest objects.
    rest = bytearray()
    async for chunk in chunks:
        *lines, last = chunk.split(b"\n")
        for line in lines:
            whole = bytes(rest) + line if rest else line
            rest.clear()
            if whole:
                yield whole
        rest += last
        if len(rest) > LINE_BYTES:
            raise ApiError(0, TOO_LARGE, f"an event has more than {LINE_BYTES >> 20} MiB")


def _watch_event(line: bytes, view: View | None, r: Resource) -> WatchEvent:
    kind, body = decode_event(line, view, r)
    if kind == "ERROR":
        raise _error_of_status(int(body.get("code") or 500), body)
    return WatchEvent(kind, body)


def _error_of(status: int, content: bytes, retry_after: str | None) -> ApiError:
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    if not isinstance(body, dict):  # the page of a proxy, or an API server that starts
        body = {"message": content[:200].decode(errors="replace").strip()}
    return _error_of_status(status, body, retry_after)


def _error_of_status(status: int, body: dict[str, Any], retry_after: str | None = None) -> ApiError:
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
    return ApiError(status, str(body.get("reason") or ""), str(body.get("message") or f"HTTP {status}"), seconds)
