"""A tenant attacks the operator: the models of others are reconciled in time, and the process stays small.

``--fat N`` and ``--liars N`` select the size: the whole is 1,000 and 60.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hack.cluster import Cluster
from mlmodel_operator.controller import MODELS
from mlmodel_operator.names import MODEL_LABEL
from mlmodel_operator.runtime.api import KubeApi
from mlmodel_operator.runtime.resource import CONFIG_MAPS, SERVICES, Body
from tests.integration.operator.attack import (
    PATIENCE,
    OperatorProcess,
    Watched,
    add_pods,
    create_fat_config_maps,
    create_fat_models,
    deployments_of,
    edit_honestly,
    edit_without_end,
    liars,
    many,
    model,
    probe,
)

pytestmark = [pytest.mark.cluster, pytest.mark.attack]

LATER = 2.0
"""Seconds by which an attack may delay the model of another namespace, beside a slower API server."""
WRITES = 15
"""Writes that a reconcile makes one after the other for a new version."""
MEMORY = 256.0
"""Memory limit of the operator in manifests/install.yaml, in MiB."""
LAG = 5.0
"""Seconds within which the event loop must answer: the Lease is renewed every 5 s, and lost after 11."""
FAT_MODEL, FAT_CONFIG_MAP = 250_000, 200_000


class Attack:
    """One operator, an attacker in one namespace, and the owner of a model in another."""

    def __init__(self, api: KubeApi, operator: OperatorProcess, evil: str, good: str) -> None:
        self.api, self.operator, self.evil, self.good = api, operator, evil, good
        self.phases = 0

    async def watch(self, what: str, attack: Coroutine[Any, Any, None] | None = None, edits: int = 6) -> Watched:
        """Edit another model while ``attack`` goes on; report how long it took."""
        self.phases += 1
        watched = Watched()
        others = [asyncio.create_task(probe(self.operator.port, watched))]
        if attack is not None:
            others.append(asyncio.create_task(attack))
        try:
            await edit_honestly(self.api, self.good, watched, edits=edits, name=f"honest-{self.phases}")
        finally:
            for task in others:
                task.cancel()
        print(f"{what}: {watched} memory_max={self.operator.memory('VmHWM'):.0f}MiB")
        assert self.operator.process.poll() is None, self.operator.log.read_text()[-3000:]
        return watched

    async def compare(self, what: str, control: Watched, attack: Coroutine[Any, Any, None] | None = None) -> None:
        """Watch, and assert that it makes no difference to ``control`` but that of a busy API server."""
        before = len(self.operator.waits(self.good))
        watched = await self.watch(what, attack)
        waits = self.operator.waits(self.good)[before:]
        print(f"{what}: waited_max={max(waits):.3f}s of {len(waits)} reconciles")
        # However long the API server takes, a model must not wait for those of another namespace.
        assert max(waits) < LATER
        assert max(watched.lags) < LAG
        # Each write waits for the API server, and for a turn of the event loop: both are slower on a busy machine.
        turn = max(watched.writes) + max(watched.lags)
        assert max(watched.delays) < max(control.delays) + LATER + WRITES * turn
        assert self.operator.memory("VmHWM") < MEMORY


@pytest.fixture
def attack(
    apiserver: Cluster, crd: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., Any]:
    """``async with attack() as a``: a running operator that leads."""
    name = f"attack-{abs(hash(request.node.name)) % 100_000}"
    monkeypatch.setenv("KUBECONFIG", str(apiserver.kubeconfig))

    @asynccontextmanager
    async def start() -> AsyncIterator[Attack]:
        evil, good = f"{name}-evil", f"{name}-good"
        for namespace in (evil, good):
            apiserver.kubectl("create", "namespace", namespace)
        api = await KubeApi.connect("attack")
        operator = OperatorProcess(apiserver.kubeconfig, good, tmp_path / "operator.log")
        try:
            await operator.leads()
            yield Attack(api, operator, evil, good)
        finally:
            operator.stop()
            await api.close()
            for namespace in (evil, good):
                # Each kind with one request, which takes seconds for a thousand large objects, and not minutes.
                for kind in (
                    f"apis/{MODELS.api_version}/namespaces/{namespace}/mlmodels",
                    f"api/v1/namespaces/{namespace}/configmaps",
                ):
                    apiserver.kubectl("delete", "--raw", f"/{kind}", seconds=120)
                apiserver.kubectl("delete", "namespace", namespace, "--wait=false")

    return start


@pytest.fixture
def fat(request: pytest.FixtureRequest) -> int:
    """Number of fat objects of each kind."""
    return int(request.config.getoption("fat", 40))


@pytest.fixture
def lies(request: pytest.FixtureRequest) -> int:
    """Number of lying pods."""
    return int(request.config.getoption("liars", 14))


def test_lying_pods_delay_nobody_else(attack: Callable[..., Any], lies: int) -> None:
    async def test() -> None:
        async with attack() as a, liars(lies) as addresses:
            control = await a.watch("no attack")
            await a.api.create(MODELS, model(a.evil, "liar"))
            deployments = await deployments_of(a.api, a.evil, "liar")
            await add_pods(a.api, deployments["router"], addresses)
            await add_pods(a.api, deployments["server"], addresses[:1])
            await a.compare(f"{lies} lying pods", control)

    asyncio.run(test())


def test_edits_without_end_delay_nobody_else(attack: Callable[..., Any]) -> None:
    async def test() -> None:
        async with attack() as a:
            names = [f"busy-{number}" for number in range(20)]
            await many(len(names), lambda number: a.api.create(MODELS, model(a.evil, names[number])))
            control = await a.watch("no attack")
            for edited in (names[:1], names):
                what = f"{len(edited)} of {len(names)} models edited 100 times per second"
                await a.compare(what, control, edit_without_end(a.api, a.evil, edited, 100))

    asyncio.run(test())


def test_fat_objects_stay_out_of_memory(attack: Callable[..., Any], fat: int) -> None:
    async def test() -> None:
        async with attack() as a:
            before, control = a.operator.memory(), await a.watch("no attack")
            await create_fat_models(a.api, a.evil, fat, FAT_MODEL)
            await a.compare(f"{fat} fat MLModels", control)
            await create_fat_config_maps(a.api, a.evil, fat, FAT_CONFIG_MAP, "fat-0")
            await a.compare(f"{fat} fat ConfigMaps", control)
            # A new process lists all of them.
            restarted = OperatorProcess(Path(a.operator.kubeconfig), a.good, a.operator.log.with_suffix(".2"))
            a.operator.stop()
            a.operator = restarted
            await restarted.leads()
            await a.watch("first edit after the restart", edits=1)  # kopf may still start
            await a.compare("after a restart", control)
            if fat < 100:
                assert restarted.memory("VmHWM") < before + 25

    asyncio.run(test())


async def corrected(a: Attack, config_map: Body) -> None:
    """Wait until a ConfigMap has its content again, of which the operator keeps only the version."""
    is_foreign = False
    events = a.api.watch(CONFIG_MAPS, config_map["metadata"]["resourceVersion"], a.good)
    async with asyncio.timeout(PATIENCE), aclosing(events):
        async for event in events:
            if event.type != "BOOKMARK" and event.body["metadata"]["name"] == config_map["metadata"]["name"]:
                if is_foreign and event.body["data"] == config_map["data"]:
                    return
                is_foreign = event.body["data"] != config_map["data"]


def test_what_the_operator_does_not_keep_survives_its_writes(attack: Callable[..., Any]) -> None:
    """It writes the status of a model, and sends nothing of which it has only a part."""

    async def test() -> None:
        async with attack() as a:
            body = model(a.good, "whole", fat=50_000)
            body["metadata"]["labels"] = {"example.org/label": "x"}
            body["metadata"]["finalizers"] = ["example.org/finalizer"]
            before = await a.api.create(MODELS, body)
            try:
                await deployments_of(a.api, a.good, "whole")
                service = await a.api.get(SERVICES, a.good, "whole")
                config_map = await a.api.get(CONFIG_MAPS, a.good, "whole-routes")
                await a.api.patch(SERVICES, a.good, "whole", {"metadata": {"annotations": {"example.org/a": "x"}}})
                foreign = {"data": dict.fromkeys(config_map["data"], "x")}
                await a.api.patch(CONFIG_MAPS, a.good, "whole-routes", foreign)
                await corrected(a, config_map)
                live = await a.api.get(MODELS, a.good, "whole")
                assert live["status"]["observedGeneration"] == 1
                for key in ("annotations", "labels", "finalizers"):
                    assert live["metadata"][key] == before["metadata"][key]
                assert live["spec"] == before["spec"]
                patched = await a.api.get(SERVICES, a.good, "whole")
                assert (patched["spec"], patched["metadata"]["annotations"]["example.org/a"]) == (service["spec"], "x")
                assert service["metadata"]["labels"][MODEL_LABEL] == "whole"
            finally:
                await a.api.patch(MODELS, a.good, "whole", {"metadata": {"finalizers": None}})

    asyncio.run(test())
