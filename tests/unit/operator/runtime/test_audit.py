"""The audit detects changes that a watch has missed, and a watch that delivers none."""

from __future__ import annotations

import asyncio

import pytest

from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.audit import Audit, WatchSilent
from mlmodel_operator.runtime.health import Heartbeats
from mlmodel_operator.runtime.resource import PODS, Body
from mlmodel_operator.runtime.store import Store
from tests.unit.operator.runtime.support import FakeClock, MemoryApi, asynchronous


def pod(name: str) -> Body:
    return {"metadata": {"namespace": "ns", "name": name}}


class Scene:
    """An audit of pods whose watch delivers only what the test puts into the store."""

    def __init__(self) -> None:
        self.api, self.clock, self.store = MemoryApi(), FakeClock(), Store("group")
        self.requeued: list[str] = []
        self.missed: list[int] = []
        self.heartbeats = Heartbeats(self.clock)
        self.audit = Audit(
            self.api,
            self.store,
            PODS,
            self.clock,
            lambda _, name: self.requeued.append(name),
            heartbeats=self.heartbeats,
            on_missed=self.missed.append,
        )


@asynchronous
async def test_the_first_list_waits_for_the_kind_and_reports_everything() -> None:
    scene = Scene()
    await scene.api.create(PODS, pod("a"))
    scene.api.fail = [ApiError(404, "NotFound", "page not found"), ApiError(0, "Unreachable", "refused")]
    first = asyncio.create_task(scene.audit.first())
    await scene.clock.advance(60)
    await asyncio.wait_for(first, 60)
    assert scene.requeued == ["a"]
    assert scene.store.get(PODS, "ns", "a") is not None


@asynchronous
async def test_a_missed_deletion_is_repaired_and_does_not_stop_the_process() -> None:
    scene = Scene()
    scene.store.put(PODS, await scene.api.create(PODS, pod("a")))
    running = asyncio.create_task(scene.audit.run())
    del scene.api.objects[PODS, "ns", "a"]
    scene.api._version += 1
    await scene.clock.advance(1000)
    assert scene.store.get(PODS, "ns", "a") is None
    assert scene.requeued == ["a"]
    assert scene.missed == [1]
    assert not running.done()
    running.cancel()


@asynchronous
async def test_an_event_that_arrives_within_seconds_was_not_missed() -> None:
    scene = Scene()
    running = asyncio.create_task(scene.audit.run())
    await scene.clock.advance(299)
    created = await scene.api.create(PODS, pod("a"))
    await scene.clock.advance(3)  # the audit has listed it
    scene.store.put(PODS, created)  # now the watch delivers it
    await scene.clock.advance(10)
    assert scene.missed == []
    running.cancel()


@asynchronous
async def test_a_watch_that_misses_changes_in_two_consecutive_audits_stops_the_process() -> None:
    scene = Scene()
    running = asyncio.create_task(scene.audit.run())
    await scene.api.create(PODS, pod("a"))
    await scene.clock.advance(310)
    assert scene.requeued == ["a"]
    assert not running.done()
    await scene.api.patch(PODS, "ns", "a", {"metadata": {"labels": {"x": "y"}}})
    await scene.clock.advance(310)
    with pytest.raises(WatchSilent):
        await running


@asynchronous
async def test_an_audit_that_hangs_is_detected() -> None:
    scene = Scene()
    running = asyncio.create_task(scene.audit.run())
    await scene.clock.advance(3000)
    assert scene.heartbeats.late() == []
    running.cancel()
    await scene.clock.advance(3000)
    assert scene.heartbeats.late() == ["audit"]


@asynchronous
async def test_only_the_named_namespaces_are_listed() -> None:
    scene = Scene()
    listed: list[str | None] = []

    async def list_pods(_: object, namespace: str | None = None) -> tuple[list[Body], str]:
        listed.append(namespace)
        return [{"metadata": {"namespace": namespace, "name": f"pod-{namespace}", "resourceVersion": "5"}}], "5"

    scene.api.list = list_pods  # type: ignore[method-assign, assignment]
    audit = Audit(
        scene.api,
        scene.store,
        PODS,
        scene.clock,
        lambda _, name: scene.requeued.append(name),
        namespaces=("shop", "bank"),
        heartbeats=scene.heartbeats,
        on_missed=scene.missed.append,
    )
    await audit.first()
    assert listed == ["shop", "bank"]
    assert scene.requeued == ["pod-shop", "pod-bank"]
    assert len(scene.store.all(PODS)) == 2
