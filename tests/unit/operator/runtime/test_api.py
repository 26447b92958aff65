"""The client reads within bounds what an API server sends: pages, objects and events of any size."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import msgspec
import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from mlmodel_operator.handlers import reduced_session
from mlmodel_operator.kept import MODELS, VIEWS
from mlmodel_operator.runtime import api as api_module
from mlmodel_operator.runtime.api import ApiError, KubeApi, bounded_lines
from mlmodel_operator.runtime.resource import CONFIG_MAPS, SERVICES, Body, Resource
from tests.unit.operator.runtime.support import asynchronous

KIB = 1024


class Server:
    """An API server with these objects, which answers lists, watches and reads of one object."""

    def __init__(self, bodies: list[Body]) -> None:
        self.bodies = bodies
        self.requests: list[tuple[str, str]] = []
        """Query and accepted type."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.query_string, request.headers["Accept"]))
        assert request.headers["Accept-Encoding"] == "identity"
        if "watch" in request.query:
            lines = [json.dumps({"type": "ADDED", "object": body}) for body in self.bodies]
            return web.Response(text="\n".join(lines) + "\n")
        if request.path.count("/") > 5:
            return web.json_response(self.bodies[0])
        first, limit = int(request.query.get("continue") or 0), int(request.query["limit"])
        more = str(first + limit) if first + limit < len(self.bodies) else ""
        page = {"metadata": {"resourceVersion": "7", "continue": more}, "items": self.bodies[first : first + limit]}
        return web.json_response(page)


@asynccontextmanager
async def serve(server: Server) -> AsyncIterator[KubeApi]:
    app = web.Application()
    app.router.add_get("/{any:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = KubeApi(Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}"), "test", views=VIEWS)
    try:
        yield api
    finally:
        await api.close()
        await runner.cleanup()


def bodies(count: int, size: int) -> list[Body]:
    fat = {"metadata": {"annotations": {"example.org/fat": "x" * size}}}
    return [
        {**fat, "metadata": {**fat["metadata"], "namespace": "bank", "name": f"o{number}", "uid": f"u{number}"}}
        for number in range(count)
    ]


@asynchronous
async def test_pages_that_are_too_large_have_fewer_objects_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "PAGE", 64)
    monkeypatch.setattr(api_module, "PAGE_BYTES", 64 * KIB)
    server = Server(bodies(20, 1 * KIB) + bodies(20, 20 * KIB))
    async with serve(server) as api:
        found, version = await api.list(SERVICES)
    assert [body["metadata"]["name"] for body in found] == [f"o{number}" for number in range(20)] * 2
    assert version == "7"
    assert sum(len(msgspec.json.encode(body)) for body in found) < 16 * KIB
    assert [query.split("&")[0] for query, _ in server.requests][:2] == ["limit=64", "limit=8"]
    assert "limit=1" in {query.split("&")[0] for query, _ in server.requests}


@pytest.mark.parametrize(("r", "partial"), [(CONFIG_MAPS, True), (SERVICES, False)], ids=["partial", "whole"])
@asynchronous
async def test_of_some_kinds_only_the_metadata_is_requested(r: Resource, partial: bool) -> None:
    server = Server(bodies(1, 10))
    async with serve(server) as api:
        (listed,), _ = await api.list(r)
        async with aclosing(api.watch(r, "7")) as events:
            seen = [event.body async for event in events]
    assert seen == [listed]
    kinds = [accept.partition(";as=")[2].partition(";")[0] for _, accept in server.requests]
    assert kinds == (["PartialObjectMetadataList", "PartialObjectMetadata"] if partial else ["", ""])


@asynchronous
async def test_an_object_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "OBJECT_BYTES", 64 * KIB)
    async with serve(Server(bodies(1, 60 * KIB))) as api:
        assert (await api.get(SERVICES, "bank", "o0"))["metadata"]["name"] == "o0"
    async with serve(Server(bodies(1, 70 * KIB))) as api:
        with pytest.raises(ApiError) as raised:
            await api.get(SERVICES, "bank", "o0")
    assert raised.value.too_large
    assert not raised.value.not_found


@asynchronous
async def test_lines_come_in_any_pieces_and_a_line_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    pieces = chunks(b"a", b"b\nc\n\n", b"", b"d", b"\n", b"unfinished")
    assert [line async for line in bounded_lines(pieces)] == [b"ab", b"c", b"d"]
    monkeypatch.setattr(api_module, "LINE_BYTES", 10)
    with pytest.raises(ApiError, match="an event has more than"):
        [line async for line in bounded_lines(chunks(*[b"1234"] * 3))]


@asynchronous
async def test_kopf_gets_only_what_is_kept_of_models() -> None:
    fat = bodies(3, 250 * KIB)
    for body in fat:
        body |= {"spec": {"model": {"uri": "builtin://iris"}}}
    server = Server(fat)
    async with serve(server) as api:
        credentials = await api.credentials()
        async with reduced_session(credentials, api.ssl_context, MODELS, VIEWS[MODELS]) as session:
            url = credentials.server + MODELS.path()
            headers = {"Accept": "application/json"}
            async with session.get(f"{url}?limit=2", headers=headers) as response:
                listed = await response.json()
            async with session.get(f"{url}?watch=true", headers=headers) as response:
                lines = [line async for line in response.content.iter_chunked(KIB)]
            async with session.get(f"{credentials.server}/apis?limit=1", headers=headers) as response:
                other = await response.json()
    assert listed["metadata"] == {"resourceVersion": "7", "continue": "2"}
    assert [item["spec"] for item in listed["items"]] == [{"model": {"uri": "builtin://iris"}}] * 2
    assert len(json.dumps(listed)) < KIB
    events = [json.loads(line) for line in lines]
    assert [event["object"]["metadata"]["uid"] for event in events] == ["u0", "u1", "u2"]
    assert all(len(line) < KIB for line in lines)
    assert "annotations" in other["items"][0]["metadata"]
