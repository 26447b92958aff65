"""An HTTP proxy between a client and a real API server that fails on request.

It passes on the responses of the API server unchanged: the tests check how the client behaves when connections break,
resource versions expire and a watch reports an error.
"""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web

_PASSED_ON = ("Content-Type", "Accept", "User-Agent")


class FaultyProxy:
    """Forwards to ``server``. ``requests`` lists (method, path with query) in order."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session = session
        self._server = server
        self._streams: list[web.Request] = []
        self.requests: list[tuple[str, str]] = []
        self.down = False  # close the connection of every request
        self.stale = 0  # this many watches start at resourceVersion 1, which the API server has compacted
        self.watch_errors: list[dict[str, object]] = []  # sent as ERROR events of the next watches, which then end

    def cut(self) -> None:
        """Abort every connection that is streaming now."""
        for request in self._streams:
            if request.transport is not None:
                request.transport.abort()

    def is_watched(self) -> bool:
        """Return whether a watch is streaming, which :meth:`cut` would abort."""
        return any("watch=true" in request.path_qs for request in self._streams)

    def count(self, *, watch: bool) -> int:
        """Return the number of list requests, or of watch requests."""
        return sum(method == "GET" and ("watch=true" in path) is watch for method, path in self.requests)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass on one request."""
        self.requests.append((request.method, request.path_qs))
        if self.down:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        url = request.rel_url
        watch = url.query.get("watch") == "true"
        if watch and self.watch_errors:
            event = {"type": "ERROR", "object": self.watch_errors.pop(0)}
            return web.Response(body=json.dumps(event).encode() + b"\n", content_type="application/json")
        if watch and self.stale:
            self.stale -= 1
            url = url.update_query(resourceVersion="1")
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        body = await request.read()
        async with self._session.request(
            request.method, f"{self._server}{url}", headers=headers, data=body or None
        ) as answer:
            response = web.StreamResponse(status=answer.status)
            response.content_type = answer.content_type
            await response.prepare(request)
            self._streams.append(request)
            try:
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            finally:
                self._streams.remove(request)
            return response


@asynccontextmanager
async def faulty_proxy(kubeconfig: str) -> AsyncIterator[tuple[FaultyProxy, Path]]:
    """Run a proxy on loopback, without TLS, to the API server of ``kubeconfig`` (its text); yield it and its
    kubeconfig."""
    config = yaml.safe_load(kubeconfig)
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    with tempfile.TemporaryDirectory() as directory:
        context = _tls(cluster, user, Path(directory))
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            proxy = FaultyProxy(session, cluster["server"])
            app = web.Application(client_max_size=8 << 20)
            app.router.add_route("*", "/{path:.*}", proxy.handle)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                port = runner.addresses[0][1]
                mine = Path(directory) / "kubeconfig"
                mine.write_text(_plain_kubeconfig(f"http://127.0.0.1:{port}"))
                yield proxy, mine
            finally:
                proxy.cut()
                await runner.cleanup()


def _plain_kubeconfig(server: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": server}}],
            "users": [{"name": "anonymous", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "anonymous"}}],
            "current-context": "proxy",
        }
    )


def _tls(cluster: dict[str, str], user: dict[str, str], directory: Path) -> ssl.SSLContext:
    """Return the TLS context of a kubeconfig entry, whose certificates are files or base64 data."""

    def file(entry: dict[str, str], key: str) -> str:
        if key in entry:
            return entry[key]
        path = directory / key
        path.write_bytes(base64.b64decode(entry[f"{key}-data"]))
        return str(path)

    context = ssl.create_default_context(cafile=file(cluster, "certificate-authority"))
    context.load_cert_chain(file(user, "client-certificate"), file(user, "client-key"))
    return context
