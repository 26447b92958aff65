"""A clock that tests advance, and an API server in memory with the behaviour that the operator relies on."""

from __future__ import annotations

import asyncio
import copy
import functools
import heapq
from collections.abc import AsyncGenerator, Callable, Coroutine
from itertools import count
from typing import Any, ParamSpec

from mlmodel_operator.runtime.api import ApiError, WatchEvent
from mlmodel_operator.runtime.resource import Bodies, Body, Resource, address, resource_version, uid

P = ParamSpec("P")


def asynchronous(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in a new event loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        # So that a test that waits for ever names the line; long enough for one of 8 s of CPU time on a busy machine.
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 300))

    return run


async def settle() -> None:
    """Let every task run until it waits for the clock or the test."""
    for _ in range(50):
        await asyncio.sleep(0)


class FakeClock:
    """A clock whose time changes only by ``advance``."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = count()

    def now(self) -> float:
        return 1_800_000_000.0 + self._seconds

    def monotonic(self) -> float:
        return self._seconds

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._seconds + seconds, next(self._count), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let time pass, and wake each sleeper at its time, in order."""
        await settle()
        until = self._seconds + seconds
        while self._sleepers and self._sleepers[0][0] <= until:
            at, _, future = heapq.heappop(self._sleepers)
            self._seconds = max(self._seconds, at)
            if not future.done():
                future.set_result(None)
            await settle()
        self._seconds = until
        await settle()


Admit = Callable[[Resource, Body], None]


def _admit_unchanged(r: Resource, body: Body) -> None:
    """Change nothing."""


class MemoryApi:
    """Objects in memory, with the behaviour of a real API server that the operator relies on.

    - Each object gets a UID, a resourceVersion, and a generation that rises with every change outside metadata and
      status.
    - ``apply`` removes the fields that the same manager applied before and now leaves out; fields of others stay. A
    list is one field, and so is a selector. A write that changes nothing keeps the resourceVersion.
    - ``apply`` and ``patch`` do not write the status; ``replace_status`` and the subresource write only the status.
    - The data of an object with ``immutable`` cannot change.
    - A stale resourceVersion, another UID, and a name that exists or is missing are rejected.

    ``admit`` adds what the API server would add (defaults, addresses). ``calls`` lists (verb, plural, name). ``fail``
    has errors to raise, one per call of any verb, None for success; ``refusals`` has errors to raise at every call that
    equals the key.
    """

    def __init__(self, admit: Admit = _admit_unchanged) -> None:
        self.objects: dict[tuple[Resource, str, str], Body] = {}
        self.calls: list[tuple[str, str, str]] = []
        self.fail: list[ApiError | None] = []
        self.refusals: dict[tuple[str, str, str], ApiError] = {}
        self.down = False
        self._admit = admit
        self._applied: dict[tuple[Resource, str, str, str], Body] = {}  # what each manager applied last
        self._version = 100
        self._uids = count(1)
        self._changed = asyncio.Condition()

    def writes(self) -> list[str]:
        return [verb for verb, _, _ in self.calls if verb not in ("get", "list", "watch", "dry run")]

    def _call(self, verb: str, r: Resource, name: str) -> None:
        self.calls.append((verb, r.plural, name))
        if self.down:
            raise ApiError(0, "Unreachable", "the API server is down")
        error = self.fail.pop(0) if self.fail else self.refusals.get((verb, r.plural, name))
        if error is not None:
            raise error

    async def _save(self, r: Resource, body: Body) -> Body:
        """Store ``body`` in place of the previous object."""
        live = self.objects.get((r, *address(body)))
        if live is not None and live.get("immutable") and live.get("data") != body.get("data"):
            raise ApiError(422, "Invalid", "data: Forbidden: field is immutable when `immutable` is set")
        self._admit(r, body)
        meta = body["metadata"]
        if live is None:
            meta |= {"uid": f"uid-{next(self._uids)}", "generation": 1}
        elif _without(live, "metadata", "status") != _without(body, "metadata", "status"):
            meta["generation"] = meta.get("generation", 1) + 1
        self._version += 1
        meta["resourceVersion"] = str(self._version)
        self.objects[r, *address(body)] = body
        async with self._changed:
            self._changed.notify_all()
        return copy.deepcopy(body)

    async def get(self, r: Resource, namespace: str, name: str) -> Body:
        self._call("get", r, name)
        try:
            return copy.deepcopy(self.objects[r, namespace, name])
        except KeyError:
            raise ApiError(404, "NotFound", f"{name} not found") from None

    async def list(
        self, r: Resource, namespace: str | None = None, label_selector: str = "", *, whole: bool = False
    ) -> tuple[Bodies, str]:
        self._call("list", r, "")
        return [copy.deepcopy(body) for key, body in self.objects.items() if key[0] == r], str(self._version)

    async def watch(
        self,
        r: Resource,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncGenerator[WatchEvent, None]:
        self._call("watch", r, "")
        seen = int(resource_version)
        while True:
            for key, body in list(self.objects.items()):
                version = int(body["metadata"]["resourceVersion"])
                if key[0] == r and version > seen:
                    seen = version
                    yield WatchEvent("MODIFIED", copy.deepcopy(body))
            async with self._changed:
                await self._changed.wait()

    async def apply(self, r: Resource, body: Body, manager: str) -> Body:
        self._call("apply", r, address(body)[1])
        live = self.objects.get((r, *address(body)))
        if "uid" in body["metadata"]:
            if live is None:
                raise ApiError(409, "Conflict", "the object to be updated does not exist")
            _reject_another_uid(live, body)
        intent = _without(body, "status")
        before = self._applied.get((r, *address(body), manager), {}) if live is not None else {}
        merged = _merge(_release(live or {"metadata": {}}, before, intent), intent, atomic=("selector",))
        self._applied[r, *address(body), manager] = copy.deepcopy(intent)
        if merged == live:
            return copy.deepcopy(merged)
        return await self._save(r, merged)

    async def patch(
        self, r: Resource, namespace: str, name: str, body: Body, subresource: str = "", *, dry_run: bool = False
    ) -> Body:
        self._call("dry run" if dry_run else "patch", r, name)
        live = self._live(r, namespace, name, body)
        if "uid" in (body.get("metadata") or {}):
            _reject_another_uid(live, body)
        change = {"status": body.get("status")} if subresource == "status" else _without(body, "status")
        if dry_run:
            changed: Body = copy.deepcopy(_merge(live, change))
            self._admit(r, changed)
            return changed
        return await self._save(r, _merge(live, change))

    async def replace_status(self, r: Resource, body: Body) -> Body:
        self._call("update", r, address(body)[1])
        live = self._live(r, *address(body), body)
        return await self._save(r, copy.deepcopy({**live, "status": body.get("status")}))

    async def create(self, r: Resource, body: Body) -> Body:
        self._call("create", r, address(body)[1])
        if (r, *address(body)) in self.objects:
            raise ApiError(409, "AlreadyExists", "the name exists")
        return await self._save(r, _merge({"metadata": {}}, body))

    async def delete(
        self, r: Resource, namespace: str, name: str, uid: str, resource_version: str | None = None
    ) -> None:
        self._call("delete", r, name)
        live = self.objects.get((r, namespace, name))
        if live is None:
            return
        if live["metadata"]["uid"] != uid or resource_version not in (None, live["metadata"]["resourceVersion"]):
            raise ApiError(409, "Conflict", "the UID or resourceVersion in the precondition differs")
        del self.objects[r, namespace, name]

    def _live(self, r: Resource, namespace: str, name: str, body: Body) -> Body:
        """Return the object that ``body`` changes, if ``body`` has its resourceVersion or none."""
        live = self.objects.get((r, namespace, name))
        if live is None:
            raise ApiError(404, "NotFound", f"{name} not found")
        if resource_version(body) not in ("", resource_version(live)):
            raise ApiError(409, "Conflict", "the object has been modified")
        return live


def _reject_another_uid(live: Body, body: Body) -> None:
    if uid(live) != uid(body):
        raise ApiError(422, "Invalid", f"metadata.uid: Invalid value: {uid(body)}: field is immutable")


def _without(body: Body, *keys: str) -> Body:
    return {key: value for key, value in body.items() if key not in keys}


def _merge(live: Any, patch: Any, atomic: tuple[str, ...] = ()) -> Any:
    """Return ``live`` after a merge patch: null removes a field. Fields named in ``atomic`` are one value."""
    if not isinstance(live, dict) or not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = copy.deepcopy(live)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = copy.deepcopy(value) if key in atomic else _merge(live.get(key), value, atomic)
    return merged


def _release(live: Any, before: Any, after: Any) -> Any:
    """Return ``live`` without the fields that are in ``before`` and not in ``after``: their manager released them."""
    if not (isinstance(live, dict) and isinstance(before, dict) and isinstance(after, dict)):
        return live
    return {
        key: _release(value, before.get(key), after.get(key))
        for key, value in live.items()
        if key in after or key not in before
    }
