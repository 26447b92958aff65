"""The parts of the process together: what it requires before it leads, what stops it, and how it stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from mlmodel_operator import handlers, process
from mlmodel_operator.api.crd import crd
from mlmodel_operator.controller import MODELS
from mlmodel_operator.handlers import WatchStopped
from mlmodel_operator.names import MODEL_LABEL, OPERATOR
from mlmodel_operator.process import CHILDREN, Operator, Parts, PartStopped
from mlmodel_operator.runtime.api import KubeApi
from mlmodel_operator.runtime.log import LineFormatter
from mlmodel_operator.runtime.metrics import Metrics
from mlmodel_operator.runtime.resource import CRDS, LEASES, SERVICES
from mlmodel_operator.runtime.workers import Key, Reconcile
from mlmodel_operator.scrape import Scraper
from mlmodel_operator.settings import Settings
from tests.unit.operator.runtime.support import FakeClock, MemoryApi, asynchronous, settle

SETTINGS = Settings("server:1", "router:1", "system", "pod-1")
NO_SCRAPER = cast(Scraper, None)


class Scene:
    """One process over an API server in memory; the watch of kopf delivers nothing, and stops when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.api, self.clock, self.stop = MemoryApi(), FakeClock(), asyncio.Event()
        self.watching, self.stopped = asyncio.Event(), asyncio.get_running_loop().create_future()
        self.started: list[Key] = []
        self.done: list[Key] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.metrics = Metrics("test")
        monkeypatch.setattr(handlers, "watch", self._watch)
        api = cast(KubeApi, self.api)
        self.operator = Operator(SETTINGS, api, NO_SCRAPER, self.metrics, self._build, self.stop, self.clock)

    async def _watch(self, *_: Any) -> None:
        self.watching.set()
        await self.stopped

    def _build(self, parts: Parts) -> Reconcile:
        assert (parts.settings, parts.clock) == (SETTINGS, self.clock)

        async def reconcile(key: Key) -> None:
            self.started.append(key)
            await self.gate.wait()
            self.done.append(key)

        return reconcile

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Run the process, and stop it at the end."""
        task = asyncio.create_task(self.operator.run())
        await self.clock.advance(0)
        yield task
        self.stop.set()
        await self.clock.advance(0)
        await asyncio.wait_for(task, 60)

    async def install(self) -> None:
        await self.api.create(CRDS, crd())

    async def add_model(self, name: str = "fraud") -> None:
        await self.api.create(MODELS, {"metadata": {"namespace": "bank", "name": name, "labels": {}}})

    def holder(self) -> str:
        lease = self.api.objects.get((LEASES, "system", OPERATOR), {"spec": {}})
        return str(lease["spec"].get("holderIdentity", ""))


@asynchronous
async def test_a_replica_leads_once_the_crd_fits_and_all_caches_have_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    await scene.add_model()
    async with scene.running():
        assert "CustomResourceDefinition" in scene.operator.not_ready()[0]
        assert scene.operator.not_ready()[1:] == ["the models have not been listed yet"]
        assert not scene.watching.is_set()
        assert (scene.holder(), scene.started) == ("", [])
        await scene.install()
        await scene.clock.advance(3)
        assert scene.operator.not_ready() == []
        assert scene.watching.is_set()
        assert (scene.holder(), scene.done) == ("pod-1", [("bank", "fraud")])
    assert scene.holder() == ""


@asynchronous
async def test_a_replica_with_a_cache_that_has_not_synced_does_not_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    await scene.install()
    listed = scene.api.list

    async def list_but_pods(r: Any, *rest: Any) -> Any:
        if r.plural == "pods":
            await asyncio.Event().wait()
        return await listed(r, *rest)

    monkeypatch.setattr(scene.api, "list", list_but_pods)
    async with scene.running():
        await scene.clock.advance(60)
        assert scene.operator.not_ready() == ["the pods have not been listed yet"]
        assert scene.holder() == ""


@asynchronous
async def test_all_children_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    await scene.install()
    async with scene.running():
        watched = {plural for verb, plural, _ in scene.api.calls if verb == "watch"}
        assert watched == {resource.plural for resource in CHILDREN}


@asynchronous
async def test_a_part_that_stops_stops_the_process_with_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(monkeypatch)
    await scene.install()
    task = asyncio.create_task(scene.operator.run())
    await scene.clock.advance(0)
    scene.stopped.set_exception(WatchStopped("kopf stopped"))
    with pytest.raises(ExceptionGroup) as stopped:
        await asyncio.wait_for(task, 60)
    caplog.clear()
    process.report(stopped.value)
    (record,) = caplog.records
    assert LineFormatter().format(record).endswith('msg="part stopped" error="watch on models: kopf stopped"')
    assert scene.holder() == ""  # released for a standby


@asynchronous
async def test_a_part_that_stops_without_an_error_stops_the_process_too(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    await scene.install()
    task = asyncio.create_task(scene.operator.run())
    await scene.clock.advance(0)
    scene.stopped.set_result(None)
    with pytest.raises(ExceptionGroup) as stopped:
        await asyncio.wait_for(task, 60)
    (part,) = stopped.value.exceptions
    assert isinstance(part, PartStopped)
    assert str(part) == "watch on models: stopped without an error"


def test_a_bug_in_a_part_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    bug = PartStopped("audit: division by zero")
    bug.__cause__ = ZeroDivisionError("division by zero")
    process.report(ExceptionGroup("parts", [bug]))
    (record,) = caplog.records
    assert "ZeroDivisionError: division by zero\\n\\nThe above exception" in LineFormatter().format(record)


@asynchronous
async def test_on_stop_reconciles_in_progress_finish_and_no_new_one_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(monkeypatch)
    await scene.install()
    await scene.add_model()
    scene.gate.clear()
    task = asyncio.create_task(scene.operator.run())
    await scene.clock.advance(0)
    assert scene.started == [("bank", "fraud")]
    scene.stop.set()
    await settle()
    assert not task.done()
    assert scene.holder() == "pod-1"
    scene.gate.set()
    await asyncio.wait_for(task, 60)
    assert scene.done == [("bank", "fraud")]
    assert scene.holder() == ""


@asynchronous
async def test_models_are_reconciled_periodically_without_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    await scene.install()
    await scene.add_model()
    async with scene.running():
        assert len(scene.done) == 1
        await scene.clock.advance(4 * process.RESYNC_SECONDS)
        assert 4 <= len(scene.done) <= 6


@asynchronous
async def test_a_change_of_a_child_requeues_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    await scene.install()
    async with scene.running():
        meta = {"namespace": "bank", "name": "fraud", "labels": {MODEL_LABEL: "fraud"}}
        await scene.api.create(SERVICES, {"metadata": meta, "spec": {}})
        await scene.clock.advance(1)
        assert scene.done == [("bank", "fraud")]


@asynchronous
async def test_a_part_that_hangs_is_named_by_the_liveness_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    await scene.install()
    await scene.add_model()
    scene.gate.clear()
    async with scene.running():
        assert scene.operator.not_alive() == []
        await scene.clock.advance(121)
        assert [line for line in scene.operator.not_alive() if "worker" in line] == ["no heartbeat from the worker 0"]
        scene.gate.set()
