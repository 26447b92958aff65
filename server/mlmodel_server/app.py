"""The HTTP application: a plain ASGI callable for ``.../infer``, and FastAPI behind it for what may be slow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from .cold import cold_routes
from .engine.model import Model
from .errors import ModelFailure, RequestError
from .observe.failures import FailureLog, log
from .observe.metrics import RequestMetrics
from .protocol import v2

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

INLINE_SECONDS = 0.002
"""A request that takes longer than this goes to the worker thread, so that probes and metrics answer meanwhile."""


@dataclass
class Serving:
    """What this process serves. ``draining`` turns true at SIGTERM and stays so."""

    name: str
    version: str
    revision: str
    model: Model
    platform: str
    example: bytes
    metrics: RequestMetrics
    inline_bytes: int
    max_body: int
    draining: bool = False


class _Gone(Exception):
    """The client went away before its request was whole."""


class Application:
    """ASGI. Every inference request is answered, counted and timed here; one thread predicts what is slow."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._cold = cold_routes(serving)
        self._failures = FailureLog()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="predict")
        base = f"/v2/models/{serving.name}"
        self._paths = {
            f"{prefix}/infer{slash}" for prefix in (base, f"{base}/versions/{serving.version}") for slash in ("", "/")
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].endswith(("/infer", "/infer/")):
            await self._cold(scope, receive, _closing(send) if self._serving.draining else send)
            return
        started = perf_counter()
        headers = [(b"content-type", b"application/json")]
        try:
            status, body = 200, await self._infer(scope, receive)
        except _Gone:
            return
        except RequestError as error:
            status, body = error.status, v2.error(str(error))
            if status == 405:
                headers.append((b"allow", b"POST"))
            elif status == 413:
                headers.append((b"connection", b"close"))  # the rest of the body is not read
        except ModelFailure as failure:
            self._failures.failed(failure)
            status, body = 500, v2.error(str(failure))
        except Exception as error:
            log.error("internal error: %s", type(error).__name__)
            status, body = 500, v2.error(f"internal error ({type(error).__name__})")
        headers.append((b"content-length", b"%d" % len(body)))
        self._serving.metrics.record(status, perf_counter() - started)
        if self._serving.draining:
            send = _closing(send)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _infer(self, scope: Scope, receive: Receive) -> bytes:
        if scope["path"] not in self._paths:
            raise RequestError(_unknown(scope["path"], self._serving), 404)
        if scope["method"] != "POST":
            raise RequestError(f"{scope['method']} is not possible here: POST a v2 inference request", 405)
        body = await _body(scope, receive, self._serving.max_body)
        if len(body) <= self._serving.inline_bytes:
            return self._answer(body)
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._answer, body)

    def _answer(self, body: bytes) -> bytes:
        serving = self._serving
        return v2.encode(serving.model.infer(v2.decode(body)), serving.name, serving.version)


def _closing(send: Send) -> Send:
    """Ask the client to open its next connection elsewhere."""

    async def closing(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"connection", b"close")]
        await send(message)

    return closing


def _unknown(path: str, serving: Serving) -> str:
    parts = path.strip("/").split("/")
    if parts[:3] == ["v2", "models", serving.name] and parts[3:4] == ["versions"] and len(parts) == 6:
        return f"model {serving.name} has no version {v2.shown(parts[4])} here, but {serving.version}"
    return f"there is no such model here: POST to /v2/models/{serving.name}/infer"


async def _body(scope: Scope, receive: Receive, limit: int) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-length":
            if int(value) > limit:  # the HTTP parser has made sure that it is a number
                raise RequestError(f"the body has {int(value)} bytes, the limit is {limit}: send fewer rows", 413)
        elif name == b"content-type":
            kind = value.partition(b";")[0].strip().lower()
            if kind != b"application/json":
                raise RequestError("send JSON with the header 'Content-Type: application/json'", 415)
        elif name == b"content-encoding" and value.strip().lower() != b"identity":
            raise RequestError("compressed bodies are not read: send it without Content-Encoding", 415)
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body") and message["type"] == "http.request" and len(body) <= limit:
        return body
    chunks, size = [body], len(body)
    while message["type"] == "http.request":
        if size > limit:  # sent in chunks, without its length
            raise RequestError(f"the body is longer than the limit of {limit} bytes: send fewer rows", 413)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
    raise _Gone
