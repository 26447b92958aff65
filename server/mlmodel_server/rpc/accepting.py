"""A gRPC server whose loop of accepting calls never ends unnoticed.

grpc.aio accepts calls in one loop. It decodes the path of a call there, and a path that is not UTF-8 ends the loop and
with it the server, before anything of ours sees the call. It does not decode the path of a call to a registered
method, though. So all methods are registered, and this module answers all other calls itself, without their path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # has no types

LOOP, REQUEST = "AioServer._server_main_loop", "AioServer._request_call"
"""Coroutines of grpc.aio: the loop, and what waits for a call to a method that is not registered."""

UNKNOWN = "unknown method: call one of inference.GRPCInferenceService, with the names of the Open Inference Protocol"


async def start(server: grpc.aio.Server, on_end: Callable[[], None]) -> None:
    """Start a server that has registered methods only. ``on_end`` is called when it accepts no further calls."""
    request_call: Callable[[], Awaitable[Any]] = server._server._request_call  # type: ignore[attr-defined]
    with _replacing({LOOP: lambda loop: _watched(loop, on_end), REQUEST: lambda first: _reject(first, request_call)}):
        await server.start()
        await asyncio.sleep(0)  # the loop has started to wait for calls


async def _watched(loop: Coroutine[Any, Any, None], on_end: Callable[[], None]) -> None:
    try:
        await loop
    finally:
        on_end()


async def _reject(first: Awaitable[Any], request_call: Callable[[], Awaitable[Any]]) -> None:
    """Answer every call with UNIMPLEMENTED, and never return one to the loop."""
    tasks: set[asyncio.Task[None]] = set()
    call = await first
    while True:
        task = asyncio.create_task(_abort(call))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        call = await request_call()


async def _abort(call: Any) -> None:
    context = cygrpc._ServicerContext(call, None, None, asyncio.get_running_loop())
    try:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, UNKNOWN)
    except Exception:
        return  # abort always raises


@contextmanager
def _replacing(wrappers: dict[str, Callable[[Any], Coroutine[Any, Any, Any]]]) -> Iterator[None]:
    """Within the context, run the coroutines with these names in a wrapper, each exactly once."""
    loop = asyncio.get_running_loop()
    left = dict(wrappers)

    def task(_: object, coroutine: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        wrap = left.pop(getattr(coroutine, "__qualname__", ""), None)
        return asyncio.Task(wrap(coroutine) if wrap else coroutine, loop=loop, **options)

    before = loop.get_task_factory()
    loop.set_task_factory(task)  # type: ignore[arg-type]  # the stubs want a generic function
    try:
        yield
    finally:
        loop.set_task_factory(before)
    assert not left, f"this version of grpcio has no {', '.join(left)}"
