"""The runtime on a real API server: watches that break, writes that must not happen, leases, and the process."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
import yaml

from hack import ROOT
from hack.ports import free_port
from mlmodel_operator.controller import MODELS
from mlmodel_operator.runtime import api as api_module
from mlmodel_operator.runtime.api import ApiError, KubeApi
from mlmodel_operator.runtime.apply import Applier, NotOurs
from mlmodel_operator.runtime.backoff import Backoff
from mlmodel_operator.runtime.clock import SystemClock
from mlmodel_operator.runtime.events import Events
from mlmodel_operator.runtime.lease import Elector
from mlmodel_operator.runtime.reflector import Reflector
from mlmodel_operator.runtime.resource import CONFIG_MAPS, DEPLOYMENTS, EVENTS, LEASES, SERVICES, Body, Resource
from mlmodel_operator.runtime.store import Store
from tests.integration.operator.faults import FaultyProxy, faulty_proxy
from tests.unit.operator.runtime.support import asynchronous

pytestmark = pytest.mark.cluster

GROUP = "example.org/group"
ANNOTATION = "example.org/applied"
PATIENCE = 60.0


class ApiServer(Protocol):
    """The part of the fixture ``apiserver`` that these tests use."""

    kubeconfig: Path

    def kubectl(self, *args: str, input: str | None = None) -> str:
        """Return the output of kubectl; raise if it fails."""
        ...


@pytest.fixture
def namespace(apiserver: ApiServer) -> Iterator[str]:
    """A namespace that only this test uses."""
    name = f"runtime-{uuid.uuid4().hex[:8]}"
    apiserver.kubectl("create", "namespace", name)
    yield name
    apiserver.kubectl("delete", "deployments,services,configmaps,leases", "--all", "-n", name)
    apiserver.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def connect(apiserver: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``async with connect() as (api, writes)``; ``writes`` lists the requests that write, with their status."""

    @asynccontextmanager
    async def open_api(kubeconfig: Path | None = None) -> AsyncIterator[tuple[KubeApi, list[str]]]:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig or apiserver.kubeconfig))
        writes: list[str] = []

        def observe(verb: str, r: Resource, status: int) -> None:
            if verb not in ("get", "list", "watch"):
                writes.append(f"{verb} {r.plural} {status}")

        api = await KubeApi.connect("runtime-test", observe)
        try:
            yield api, writes
        finally:
            await api.close()

    return open_api


NOTES = Resource("runtime.example.org", "v1", "notes", "Note")
NOTES_CRD: Body = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"{NOTES.plural}.{NOTES.group}"},
    "spec": {
        "group": NOTES.group,
        "scope": "Namespaced",
        "names": {"kind": NOTES.kind, "plural": NOTES.plural, "singular": "note"},
        "versions": [
            {
                "name": NOTES.version,
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {"data": {"type": "object", "additionalProperties": {"type": "string"}}},
                    }
                },
            }
        ],
    },
}


@pytest.fixture
def notes(apiserver: ApiServer) -> Iterator[None]:
    """A kind that is created after resourceVersion 1, so that a watch of it from there has expired."""
    apiserver.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(NOTES_CRD))
    apiserver.kubectl("wait", "--for=condition=Established", f"crd/{NOTES_CRD['metadata']['name']}", "--timeout=30s")
    yield
    apiserver.kubectl("delete", "crd", NOTES_CRD["metadata"]["name"])


async def until(condition: Callable[[], object], what: str) -> None:
    """Poll a condition of this process until it is true; fail after ``PATIENCE`` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"timed out after {PATIENCE:.0f} s: {what}"
        await asyncio.sleep(0.01)


def note(namespace: str, name: str, **data: str) -> Body:
    return {**config_map(namespace, name, **data), "apiVersion": NOTES.api_version, "kind": NOTES.kind}


def config_map(namespace: str, name: str, **data: str) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name, "labels": {GROUP: "g"}},
        "data": data,
    }


def deployment(namespace: str, *, uid: str = "", env: dict[str, str] | None = None) -> Body:
    """Return a Deployment that the server normalises: 1000m becomes 1, and it adds defaults."""
    owners = [{"apiVersion": "v1", "kind": "Thing", "name": "t", "uid": uid, "controller": True}] if uid else []
    container = {
        "name": "c",
        "image": "example.org/none",
        "env": [{"name": name, "value": value} for name, value in (env or {"A": "1"}).items()],
        "resources": {"requests": {"cpu": "1000m"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": namespace, "name": "d", "labels": {GROUP: "g"}, "ownerReferences": owners},
        "spec": {
            "selector": {"matchLabels": {"x": "y"}},
            "template": {"metadata": {"labels": {"x": "y"}}, "spec": {"containers": [container]}},
        },
    }


# ----------------------------------------------------------------------------------------------------------- Reflector


class Watched:
    """A reflector of Notes behind a proxy that fails on request, and a client without the proxy."""

    def __init__(self, api: KubeApi, proxy: FaultyProxy, direct: KubeApi, namespace: str) -> None:
        self.proxy, self.direct, self.namespace = proxy, direct, namespace
        self.store = Store(GROUP)
        self.changes: list[tuple[Resource, str, str]] = []
        self.store.on_change(lambda *change: self.changes.append(change))
        self.reflector = Reflector(
            api,
            self.store,
            NOTES,
            GROUP,
            namespace=namespace,
            backoff=Backoff(base=0.05, cap=0.2, rng=random.Random(1)),
        )
        self.task = asyncio.create_task(self.reflector.run())

    def names(self) -> set[str]:
        return {body["metadata"]["name"] for body in self.store.all(NOTES)}

    def data(self, name: str) -> Any:
        return (self.store.get(NOTES, self.namespace, name) or {}).get("data")

    async def make(self, name: str, **data: str) -> Body:
        return await self.direct.apply(NOTES, note(self.namespace, name, **data), "test")

    async def remove(self, name: str) -> None:
        body = await self.direct.get(NOTES, self.namespace, name)
        await self.direct.delete(NOTES, self.namespace, name, body["metadata"]["uid"])

    async def watching(self) -> None:
        await until(self.proxy.is_watched, "the watch is open")


@pytest.fixture
def watched(apiserver: ApiServer, notes: None, namespace: str, connect: Callable[..., Any]) -> Callable[..., Any]:
    """``async with watched(*names) as w``: a running reflector that has listed these Notes."""

    kubeconfig = apiserver.kubectl("config", "view", "--raw", "--flatten", "-o", "json")

    @asynccontextmanager
    async def start(*names: str) -> AsyncIterator[Watched]:
        async with (
            connect() as (direct, _),
            faulty_proxy(kubeconfig) as (proxy, proxy_kubeconfig),
            connect(proxy_kubeconfig) as (api, _),
        ):
            for name in names:
                await direct.apply(NOTES, note(namespace, name, v="1"), "test")
            w = Watched(api, proxy, direct, namespace)
            try:
                await asyncio.wait_for(w.reflector.synced.wait(), PATIENCE)
                assert w.names() == set(names)
                await w.watching()
                w.changes.clear()
                yield w
                assert not w.task.done()
            finally:
                w.task.cancel()
                await asyncio.gather(w.task, return_exceptions=True)

    return start


@asynchronous
async def test_a_reflector_stores_every_change(watched: Callable[..., Any]) -> None:
    async with watched("a", "b") as w:
        await w.make("c", v="1")
        await w.make("a", v="2")
        await w.remove("b")
        await until(lambda: w.names() == {"a", "c"} and w.data("a") == {"v": "2"}, "the three changes are stored")
        assert len(w.changes) == 3
        stored = w.store.get(NOTES, w.namespace, "a")
        assert stored is not None
        assert (stored["apiVersion"], stored["kind"]) == ("runtime.example.org/v1", "Note")
        assert "managedFields" not in stored["metadata"]


@asynchronous
async def test_an_object_that_no_longer_matches_the_selector_is_removed_from_the_store_until_it_matches_again(
    watched: Callable[..., Any],
) -> None:
    async with watched("a") as w:
        await w.direct.patch(NOTES, w.namespace, "a", {"metadata": {"labels": {GROUP: None}}})
        await until(lambda: w.names() == set(), "the object is removed")
        await w.direct.patch(NOTES, w.namespace, "a", {"metadata": {"labels": {GROUP: "h"}}})
        await until(lambda: w.names() == {"a"}, "the object is back")


@asynchronous
async def test_a_watch_resumes_after_a_broken_connection_without_another_list(watched: Callable[..., Any]) -> None:
    async with watched("a", "b") as w:
        w.proxy.down = True
        w.proxy.cut()
        await w.make("c")
        await w.remove("a")
        w.proxy.down = False
        await until(lambda: w.names() == {"b", "c"}, "the changes during the outage are stored")
        assert w.proxy.count(watch=False) == 1


@asynchronous
async def test_a_deletion_during_an_outage_is_found_although_the_watch_has_expired(watched: Callable[..., Any]) -> None:
    async with watched("a", "b") as w:
        w.proxy.down = True
        w.proxy.cut()
        await w.remove("a")
        await w.make("b", v="2")
        w.proxy.stale = 1  # the API server answers 410, because it has compacted that version
        w.proxy.down = False
        await until(lambda: w.names() == {"b"}, "the deletion is stored")
        assert w.data("b") == {"v": "2"}
        assert w.changes.count((NOTES, w.namespace, "g")) == 2
        assert w.proxy.count(watch=False) == 2
        await w.make("c")
        await until(lambda: w.names() == {"b", "c"}, "the watch continues")


@asynchronous
async def test_a_reflector_recovers_from_errors_in_the_stream_and_from_expired_versions(
    watched: Callable[..., Any],
) -> None:
    async with watched("a") as w:
        w.proxy.watch_errors = [
            {"kind": "Status", "code": 500, "reason": "InternalError", "message": "etcdserver: no leader"},
            {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"},
        ]
        w.proxy.stale = 3
        w.proxy.cut()
        await until(lambda: not w.proxy.stale and not w.proxy.watch_errors, "all errors have occurred")
        await w.remove("a")
        await w.make("z")
        await until(lambda: w.names() == {"z"}, "the watch works again")


@asynchronous
async def test_long_lists_are_read_in_pages(watched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "PAGE", 2)
    names = {f"cm-{number}" for number in range(5)}

    async with watched(*names) as w:
        assert w.proxy.count(watch=False) == 3
        assert w.names() == names


# ------------------------------------------------------------------------------------------------------------- Applier


@asynchronous
async def test_applying_twice_writes_once_even_if_the_server_normalises(
    namespace: str, connect: Callable[..., Any]
) -> None:
    async with connect() as (api, writes):
        store = Store(GROUP)
        applier = Applier(api, store, "test", ANNOTATION)
        intents: list[tuple[Resource, Body]] = [
            (DEPLOYMENTS, deployment(namespace)),
            (CONFIG_MAPS, config_map(namespace, "c", k="v")),
            (SERVICES, service(namespace)),
        ]
        for r, intent in intents:
            await applier.apply(r, intent)
        assert len(writes) == 3
        before = [await api.get(r, namespace, intent["metadata"]["name"]) for r, intent in intents]
        for _ in range(3):
            for r, intent in intents:
                await applier.apply(r, intent)
        after = [await api.get(r, namespace, intent["metadata"]["name"]) for r, intent in intents]
        assert len(writes) == 3
        assert after == before

        # A new process does not write objects that equal their intent; it writes once where 1000m has become 1.
        writes.clear()
        store = Store(GROUP)
        for (r, _), body in zip(intents, after, strict=True):
            store.put(r, body)
        applier = Applier(api, store, "test", ANNOTATION)
        for _ in range(2):
            for r, intent in intents:
                await applier.apply(r, intent)
        assert writes == ["apply deployments 200"]


def service(namespace: str) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": "s", "labels": {GROUP: "g"}},
        "spec": {"selector": {"x": "y"}, "ports": [{"name": "http", "port": 8080, "targetPort": "http"}]},
    }


@asynchronous
async def test_drift_is_repaired_and_fields_of_other_managers_stay(namespace: str, connect: Callable[..., Any]) -> None:
    async with connect() as (api, writes):
        store = Store(GROUP)
        applier = Applier(api, store, "test", ANNOTATION)
        await applier.apply(DEPLOYMENTS, deployment(namespace))

        async def edit(patch: Body) -> None:
            store.put(DEPLOYMENTS, await api.patch(DEPLOYMENTS, namespace, "d", patch))
            writes.clear()

        await edit({"spec": {"replicas": 5}, "metadata": {"labels": {"theirs": "x"}}})
        await applier.apply(DEPLOYMENTS, deployment(namespace))
        assert writes == []
        await edit({"metadata": {"labels": {GROUP: "stolen"}}})  # does not change the generation
        body = await applier.apply(DEPLOYMENTS, deployment(namespace))
        assert writes == ["apply deployments 200"]
        assert body["metadata"]["labels"] == {GROUP: "g", "theirs": "x"}
        assert body["spec"]["replicas"] == 5

        # A selector with one more label selects only pods of others.
        await applier.apply(SERVICES, service(namespace))
        store.put(SERVICES, await api.patch(SERVICES, namespace, "s", {"spec": {"selector": {"theirs": "x"}}}))
        assert (await applier.apply(SERVICES, service(namespace)))["spec"]["selector"] == {"x": "y"}


@asynchronous
async def test_a_field_that_is_removed_from_the_intent_is_removed_from_the_object(
    namespace: str, connect: Callable[..., Any]
) -> None:
    async with connect() as (api, _):
        for restart in (False, True):
            store = Store(GROUP)
            applier = Applier(api, store, "test", ANNOTATION)
            await applier.apply(DEPLOYMENTS, deployment(namespace, env={"A": "1", "B": "2"}))
            if restart:
                applier = Applier(api, store, "test", ANNOTATION)
            body = await applier.apply(DEPLOYMENTS, deployment(namespace, env={"A": "1"}))
            assert body["spec"]["template"]["spec"]["containers"][0]["env"] == [{"name": "A", "value": "1"}]


@pytest.mark.attack(held=True)
@asynchronous
async def test_objects_of_other_owners_are_not_changed(namespace: str, connect: Callable[..., Any]) -> None:
    async with connect() as (api, writes):
        theirs = await api.create(DEPLOYMENTS, deployment(namespace, uid="another"))
        unowned = await api.create(CONFIG_MAPS, config_map(namespace, "c", k="theirs"))
        writes.clear()
        applier = Applier(api, Store(GROUP), "test", ANNOTATION)
        owner = deployment(namespace, uid="ours")["metadata"]["ownerReferences"]
        mine = config_map(namespace, "c", k="mine")
        mine["metadata"]["ownerReferences"] = owner
        with pytest.raises(NotOurs, match="belongs"):
            await applier.apply(DEPLOYMENTS, deployment(namespace, uid="ours"))
        with pytest.raises(NotOurs, match="this operator did not create it"):
            await applier.apply(CONFIG_MAPS, mine)
        assert writes == []
        assert await api.get(DEPLOYMENTS, namespace, "d") == theirs
        assert await api.get(CONFIG_MAPS, namespace, "c") == unowned


@pytest.mark.attack(held=True)
@asynchronous
async def test_an_object_that_replaced_ours_is_not_adopted(namespace: str, connect: Callable[..., Any]) -> None:
    async with connect() as (api, _):
        applier = Applier(api, Store(GROUP), "test", ANNOTATION)
        ours = await applier.apply(CONFIG_MAPS, config_map(namespace, "c", k="1"))
        await api.delete(CONFIG_MAPS, namespace, "c", ours["metadata"]["uid"])
        with pytest.raises(ApiError) as error:  # the store still has ours
            await applier.apply(CONFIG_MAPS, config_map(namespace, "c", k="2"))
        assert error.value.conflict
        theirs = await api.create(CONFIG_MAPS, config_map(namespace, "c", k="theirs"))
        with pytest.raises(ApiError) as error:
            await applier.apply(CONFIG_MAPS, config_map(namespace, "c", k="2"))
        assert error.value.conflict
        with pytest.raises(ApiError) as error:
            await applier.patch(CONFIG_MAPS, ours, {"data": {"k": "2"}})
        assert error.value.conflict
        assert await api.get(CONFIG_MAPS, namespace, "c") == theirs
        patched = await applier.patch(CONFIG_MAPS, theirs, {"data": {"k": "2"}})
        assert patched["data"] == {"k": "2"}


# ----------------------------------------------------------------------------------------------------------------- Api


@asynchronous
async def test_a_delete_removes_only_the_object_with_this_uid_and_version(
    namespace: str, connect: Callable[..., Any]
) -> None:
    async with connect() as (api, _):
        old = await api.create(CONFIG_MAPS, config_map(namespace, "c"))
        uid, version = old["metadata"]["uid"], old["metadata"]["resourceVersion"]
        await api.patch(CONFIG_MAPS, namespace, "c", {"data": {"changed": "yes"}})
        for wrong in ((str(uuid.uuid4()), None), (uid, version)):
            with pytest.raises(ApiError) as error:
                await api.delete(CONFIG_MAPS, namespace, "c", *wrong)
            assert error.value.conflict
        await api.get(CONFIG_MAPS, namespace, "c")
        await api.delete(CONFIG_MAPS, namespace, "c", uid)
        await api.delete(CONFIG_MAPS, namespace, "c", uid)  # an object that is already deleted is not an error
        with pytest.raises(ApiError) as error:
            await api.get(CONFIG_MAPS, namespace, "c")
        assert error.value.not_found


@asynchronous
async def test_errors_have_the_status_reason_and_message_of_the_server(
    notes: None, namespace: str, connect: Callable[..., Any]
) -> None:
    async with connect() as (api, _):
        body = await api.create(CONFIG_MAPS, config_map(namespace, "c"))
        with pytest.raises(ApiError) as error:
            await api.create(CONFIG_MAPS, config_map(namespace, "c"))
        assert (error.value.status, error.value.reason) == (409, "AlreadyExists")
        stale = {"metadata": {"resourceVersion": body["metadata"]["resourceVersion"]}, "data": {"a": "b"}}
        await api.patch(CONFIG_MAPS, namespace, "c", stale)
        with pytest.raises(ApiError) as error:
            await api.patch(CONFIG_MAPS, namespace, "c", stale)
        assert error.value.conflict
        with pytest.raises(ApiError) as error:
            await api.apply(SERVICES, {**service(namespace), "spec": {"ports": [{"port": 99999}]}}, "test")
        assert error.value.invalid
        assert "99999" in error.value.message
        with pytest.raises(ApiError) as error:
            await api.list(Resource("example.org", "v9", "unicorns", "Unicorn"))
        assert error.value.not_found
        for _ in range(100):  # for a kind that was just established, the server first asks the client to retry
            with pytest.raises(ApiError) as error:
                async for _event in api.watch(NOTES, "1", namespace):
                    pass
            if not error.value.retryable:
                break
            await asyncio.sleep(0.1)
        assert error.value.gone


@asynchronous
async def test_the_error_for_an_unreachable_server_is_one_sentence(connect: Callable[..., Any], tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "clusters: [{name: x, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: x, user: {}}]\n"
        "contexts: [{name: x, context: {cluster: x, user: x}}]\ncurrent-context: x\n"
    )

    async with connect(kubeconfig) as (api, _):
        with pytest.raises(ApiError) as error:
            await api.get(CONFIG_MAPS, "x", "y")
        assert error.value.retryable
        assert "127.0.0.1" in str(error.value)
        assert "\n" not in str(error.value)


@asynchronous
async def test_an_event_is_posted_once_per_transition(namespace: str, connect: Callable[..., Any]) -> None:
    async with connect() as (api, writes):
        body = await api.create(CONFIG_MAPS, config_map(namespace, "c"))
        events = Events(api, SystemClock(), "runtime-test", "pod-1")
        for transition in ("1", "1", "2"):
            await events.post(body, transition=transition, reason="Promoted", note="n" * 3000, warning=True)
        posted, _ = await api.list(EVENTS, namespace)
        assert len(posted) == 2
        assert {(event["reason"], event["type"], len(event["note"])) for event in posted} == {
            ("Promoted", "Warning", 1024)
        }
        assert posted[0]["regarding"]["uid"] == body["metadata"]["uid"]
        await events.post(body, transition="3", reason="", note="the server rejects it, which raises no error")
        assert writes[-1] == "create events 422"


# --------------------------------------------------------------------------------------------------------------- Lease


def elector(api: KubeApi, namespace: str, identity: str, **times: float) -> Elector:
    return Elector(api, SystemClock(), namespace, "lead", identity, **times)


@asynchronous
async def test_a_released_lease_is_acquired_before_it_expires(namespace: str, connect: Callable[..., Any]) -> None:
    async with connect() as (api, _), connect() as (other, _):
        times = {"duration": 10 * PATIENCE, "deadline": 5 * PATIENCE}
        first, second = elector(api, namespace, "first", **times), elector(other, namespace, "second", **times)
        await first.acquire()
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(0.5)  # so that the standby is waiting and has not just started
        assert not waiting.done()
        await first.release()
        await asyncio.wait_for(waiting, PATIENCE)


@asynchronous
async def test_an_abandoned_lease_is_acquired_after_its_duration_and_not_before(
    namespace: str, connect: Callable[..., Any]
) -> None:
    async with connect() as (api, _), connect() as (other, _):
        times = {"duration": 6.0, "renew": 0.5, "deadline": 5.0}
        first, second = elector(api, namespace, "first", **times), elector(other, namespace, "second", **times)
        await first.acquire()
        holding = asyncio.create_task(first.hold())
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(8)  # longer than the duration: the standby sees the renewals
        assert not waiting.done()
        holding.cancel()
        started = time.monotonic()
        await asyncio.wait_for(waiting, PATIENCE)
        # The last renewal may be older than half a second, on a busy machine.
        assert time.monotonic() - started > 2.0
        assert (await api.get(LEASES, namespace, "lead"))["spec"]["holderIdentity"] == "second"


# --------------------------------------------------------------------------------------------------------- The process


class Process:
    """One operator process with the toy controller."""

    def __init__(self, kubeconfig: Path, namespace: str, pod: str, log: Path) -> None:
        self.port = free_port()
        self.log = log
        env = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "SERVER_IMAGE": "server",
            "ROUTER_IMAGE": "router",
            "POD_NAMESPACE": namespace,
            "POD_NAME": pod,
        }
        command = [sys.executable, "-m", "tests.integration.operator.toy_operator", str(self.port)]
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out)

    def has_logged(self, text: str) -> bool:
        return text in self.log.read_text()

    async def wait(self, text: str) -> None:
        """Wait for a text in the log."""
        await until(lambda: self.has_logged(text) or self.process.poll() is not None, f"{text!r} in the log")
        assert self.has_logged(text), self.log.read_text()

    def get(self, path: str) -> str:
        """Return the response of its server, or the text of the error."""
        try:
            url = f"http://127.0.0.1:{self.port}{path}"  # loopback, our own process
            with urlopen(url, timeout=PATIENCE) as answer:
                return str(answer.read().decode())
        except HTTPError as error:
            return str(error.read().decode())
        except URLError as error:
            return str(error)

    def writes(self) -> dict[str, float]:
        """Return the number of requests that write, by the labels of their metric, without those to the Lease."""
        found = {}
        for line in self.get("/metrics").splitlines():
            if line.startswith("mlmodel_operator_api_requests_total{") and 'resource="leases"' not in line:
                labels, value = line.rsplit(" ", 1)
                if not any(f'verb="{verb}"' in labels for verb in ("get", "list", "watch")):
                    found[labels] = float(value)
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


class Operators:
    """The operator processes of one test, and its models."""

    def __init__(self, apiserver: ApiServer, namespace: str, logs: Path) -> None:
        self.apiserver, self.namespace, self.logs = apiserver, namespace, logs
        self.running: list[Process] = []

    def start(self, pod: str, *, kubeconfig: Path | None = None, system: str = "") -> Process:
        """Start one as ``pod``; by default as administrator, and with the Lease in the namespace of the test."""
        log = self.logs / f"{pod}-{len(self.running)}.log"
        started = Process(kubeconfig or self.apiserver.kubeconfig, system or self.namespace, pod, log)
        self.running.append(started)
        return started

    def apply(self, name: str, uri: str) -> None:
        """Apply a model with kubectl, as a user does."""
        body = {
            "apiVersion": MODELS.api_version,
            "kind": MODELS.kind,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"model": {"uri": uri}},
        }
        self.apiserver.kubectl("apply", "-f", "-", input=json.dumps(body))

    def toy(self, name: str) -> str:
        """Return the uri in the model's ConfigMap; empty without a ConfigMap."""
        args = ("get", "configmap", f"{name}-toy", "-n", self.namespace, "--ignore-not-found", "-o")
        return self.apiserver.kubectl(*args, "jsonpath={.data.uri}")

    def model(self, name: str) -> Body:
        found: Body = json.loads(
            self.apiserver.kubectl(
                "get", MODELS.plural, name, "-n", self.namespace, "-o", "json", "--show-managed-fields"
            )
        )
        return found


@pytest.fixture
def operators(apiserver: ApiServer, namespace: str, tmp_path: Path) -> Iterator[Operators]:
    """Starts operators; stops them afterwards, and deletes their models."""
    apiserver.kubectl("apply", "--server-side", "-f", str(ROOT / "crds" / "mlmodels.yaml"))
    apiserver.kubectl("wait", "--for=condition=Established", "crd/mlmodels.mlmodel.dev", "--timeout=30s")
    found = Operators(apiserver, namespace, tmp_path)
    yield found
    for process in found.running:
        if process.process.poll() is None:
            process.stop(signal.SIGKILL)
        print(f"--- {process.log.name}\n{process.log.read_text()}")
    apiserver.kubectl("delete", MODELS.plural, "--all", "-n", namespace)


@asynchronous
async def test_a_change_reaches_the_child_and_then_the_operator_writes_nothing(operators: Operators) -> None:
    process = operators.start("pod")
    await process.wait('msg="leading" pod=pod')
    assert process.get("/readyz") == "ok\n"
    operators.apply("fraud", "builtin://one")
    await process.wait("done builtin://one")
    operators.apply("fraud", "builtin://two")
    await process.wait("done builtin://two")
    assert operators.toy("fraud") == "builtin://two"

    model = operators.model("fraud")
    assert model["status"] == {"url": "builtin://two"}
    assert "finalizers" not in model["metadata"]
    # kubectl's own annotation survives our write of the status, and kopf has added none.
    assert set(model["metadata"]["annotations"]) == {"kubectl.kubernetes.io/last-applied-configuration"}
    assert {entry["manager"] for entry in model["metadata"]["managedFields"]} == {
        "kubectl-client-side-apply",
        "mlmodel-operator",
    }

    # A manual change of the child triggers a reconcile through its watch.
    operators.apiserver.kubectl(
        "patch", "configmap", "fraud-toy", "-n", operators.namespace, "-p", '{"data": {"uri": "foreign"}}'
    )
    await until(lambda: operators.toy("fraud") == "builtin://two", "the child is repaired")

    before = process.writes()
    assert before
    await asyncio.sleep(4)
    assert process.writes() == before

    operators.apiserver.kubectl("delete", MODELS.plural, "fraud", "-n", operators.namespace)
    await process.wait("deleted fraud")
    assert process.stop() == 0


@asynchronous
async def test_a_standby_takes_over_as_soon_as_the_leader_has_finished_its_work(operators: Operators) -> None:
    first = operators.start("first")
    await first.wait('msg="leading" pod=first')
    second = operators.start("second")
    await second.wait('msg="standing by" leader=first')
    assert second.get("/readyz") == "ok\n"
    operators.apply("fraud", "builtin://slow")
    await first.wait("slow started")
    assert first.stop() == 0
    assert first.has_logged("done builtin://slow")
    assert operators.toy("fraud") == "builtin://slow"
    lease = operators.apiserver.kubectl("get", "lease", "mlmodel-operator", "-n", operators.namespace, "-o", "json")
    assert json.loads(lease)["spec"]["holderIdentity"] in ("", "second"), "it was released, and has not expired"
    await second.wait('msg="leading" pod=second')
    operators.apply("fraud", "builtin://two")
    await second.wait("done builtin://two")
    assert second.stop() == 0


@asynchronous
async def test_a_killed_container_resumes_at_once_and_writes_only_what_is_missing(
    operators: Operators,
) -> None:
    process = operators.start("pod")
    operators.apply("fraud", "builtin://one")
    await process.wait("done builtin://one")
    process.stop(signal.SIGKILL)
    operators.apply("spam", "builtin://two")
    restarted = operators.start("pod")
    await restarted.wait("done builtin://two")
    assert not restarted.has_logged("standing by"), "it does not wait for the Lease of the killed container to expire"
    await restarted.wait("done builtin://one")
    assert sum(restarted.writes().values()) == 3  # spam's child, status and event; nothing for fraud
    assert restarted.stop() == 0


@asynchronous
async def test_a_process_that_loses_the_lease_exits_with_one_line(
    operators: Operators, connect: Callable[..., Any]
) -> None:
    process = operators.start("pod")
    await process.wait('msg="leading" pod=pod')
    async with connect() as (api, _):
        body = {"spec": {"holderIdentity": "usurper"}}
        await api.patch(LEASES, operators.namespace, "mlmodel-operator", body)
    assert await asyncio.to_thread(process.process.wait, PATIENCE) == 1
    last = process.log.read_text().splitlines()[-1]
    assert 'msg="part stopped" error="leader: usurper holds the Lease now"' in last
    assert "Traceback" not in last


@asynchronous
async def test_without_the_crd_the_operator_waits_and_logs_what_to_do(
    operators: Operators, apiserver: ApiServer, tmp_path: Path
) -> None:
    crd = ROOT / "crds" / "mlmodels.yaml"
    apiserver.kubectl("delete", "-f", str(crd))

    process = operators.start("pod")
    try:
        await process.wait("the cluster has no CustomResourceDefinition mlmodels.mlmodel.dev: type `kubectl apply")
        assert "the models have not been listed yet" not in process.get("/healthz")
        assert process.get("/readyz").startswith("the cluster has no CustomResourceDefinition")
    finally:
        apiserver.kubectl("apply", "--server-side", "-f", str(crd))
    await process.wait('msg="leading" pod=pod')
    operators.apply("fraud", "builtin://one")
    await process.wait("done builtin://one")
    assert process.stop() == 0


@asynchronous
async def test_with_an_older_crd_the_operator_is_not_ready_and_waits_for_the_new_one(
    operators: Operators, apiserver: ApiServer
) -> None:
    crd = ROOT / "crds" / "mlmodels.yaml"
    older = yaml.safe_load(crd.read_text())
    del older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["formatVersion"]
    operators.apply("fraud", "builtin://one")
    apiserver.kubectl("replace", "-f", "-", input=json.dumps(older))
    process = operators.start("pod")
    try:
        await process.wait("is older than this operator: type `kubectl apply -f crds/mlmodels.yaml`")
        assert "older than this operator" in process.get("/readyz")
        assert process.get("/healthz") == "ok\n"
        assert process.writes() == {}
    finally:
        apiserver.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crd))
    await process.wait("done builtin://one")
    assert process.get("/readyz") == "ok\n"
    assert process.log.read_text().count("older than this operator") == 1
    assert process.stop() == 0


@asynchronous
async def test_the_permissions_in_the_manifest_are_sufficient(
    operators: Operators, apiserver: ApiServer, tmp_path: Path
) -> None:
    """With the token of the service account, as in a pod, the operator does all that kopf and the runtime need."""
    system = "mlmodel-system"
    documents = yaml.safe_load_all((ROOT / "manifests" / "install.yaml").read_text())
    kinds = ("Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    rights = yaml.safe_dump_all(document for document in documents if document["kind"] in kinds)
    apiserver.kubectl("apply", "--server-side", "-f", "-", input=rights)
    token = apiserver.kubectl("create", "token", "mlmodel-operator", "-n", system).strip()
    config = json.loads(apiserver.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
    config["users"] = [{"name": config["contexts"][0]["context"]["user"], "user": {"token": token}}]
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(config))

    first = operators.start("first", kubeconfig=kubeconfig, system=system)
    await first.wait('msg="leading" pod=first')
    second = operators.start("second", kubeconfig=kubeconfig, system=system)
    await second.wait('msg="standing by" leader=first')
    operators.apply("fraud", "builtin://one")
    await first.wait("done builtin://one")
    assert first.stop() == 0
    await second.wait('msg="leading" pod=second')
    assert second.stop() == 0
    for process in (first, second):
        log = process.log.read_text()
        assert "orbidden" not in log
        assert "level=warning" not in log
        assert "level=error" not in log


@pytest.mark.parametrize("missing", ["SERVER_IMAGE", "POD_NAME"])
def test_the_error_for_a_missing_setting_is_one_sentence(missing: str) -> None:
    env = {"SERVER_IMAGE": "s", "ROUTER_IMAGE": "r", "POD_NAMESPACE": "n", "POD_NAME": "p", "PATH": os.environ["PATH"]}
    del env[missing]
    command = [sys.executable, "-m", "mlmodel_operator"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"mlmodel-operator: the environment variable {missing} is not set")
    assert done.stderr.count("\n") == 1
