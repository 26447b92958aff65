"""Somebody who may write ``mlmodels/status``, and nothing else, chooses neither what runs nor what was decided."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mlmodel_operator.controller import MODELS
from mlmodel_operator.runtime.resource import CONTROLLER_REVISIONS, DEPLOYMENTS, Body
from tests.unit.operator.controller.test_status_lost import in_canary, rolled_back
from tests.unit.operator.controller.world import World
from tests.unit.operator.runtime.support import asynchronous

pytestmark = [pytest.mark.simulation, pytest.mark.attack]

TIME = "2026-01-31T12:00:00Z"
ENDED = {"revision": "ffffffff", "version": "v", "outcome": "Promoted", "startedAt": TIME, "endedAt": TIME}

while_it_runs = pytest.mark.parametrize("while_it_runs", [True, False], ids=["operator runs", "operator is down"])


async def forge(world: World, change: Body, *, while_it_runs: bool) -> None:
    """Change the status, and let the operator react."""
    await world.edit(MODELS, "fraud", {"status": change}, "status")
    if not while_it_runs:
        world.restart()
    for _ in range(3):
        await world.tick()


def images(world: World) -> set[str]:
    """Return the image of each container of each Deployment that exists."""
    specs = [body["spec"]["template"]["spec"] for (r, _, _), body in world.api.objects.items() if r == DEPLOYMENTS]
    return {item["image"] for spec in specs for item in (*spec["containers"], *spec.get("initContainers", []))}


@while_it_runs
@pytest.mark.parametrize("side", ["stable", "candidate"])
@asynchronous
async def test_no_image_comes_from_the_status(side: str, while_it_runs: bool) -> None:
    world = await in_canary()
    before = images(world)
    await forge(world, {side: {"snapshot": {"image": "attacker/image"}}}, while_it_runs=while_it_runs)
    assert images(world) == before
    assert world.status[side]["snapshot"]["image"] == "mlmodel-server:test"
    assert world.status["stable"]["version"] == "v1"


@while_it_runs
@asynchronous
async def test_no_image_comes_from_the_status_of_a_model_without_records(while_it_runs: bool) -> None:
    world = await in_canary()
    for key in [key for key in world.api.objects if key[0] == CONTROLLER_REVISIONS]:
        del world.api.objects[key]
    await forge(world, {"stable": {"snapshot": {"image": "attacker/image"}}}, while_it_runs=while_it_runs)
    assert "attacker/image" not in images(world)
    assert world.status["stable"]["version"] == "v1"


@asynchronous
async def test_no_image_comes_from_the_status_of_a_new_model() -> None:
    source = await in_canary()
    status = copy.deepcopy(source.status)
    world = World()
    await world.apply_model("v2")
    status["stable"]["snapshot"]["image"] = status["candidate"]["snapshot"]["image"] = "attacker/image"
    await forge(world, status, while_it_runs=False)
    await world.run(world.is_ready, limit=200)
    assert images(world) == {"mlmodel-server:test", "haproxy:test"}


@while_it_runs
@pytest.mark.parametrize(
    "change",
    [
        {"stable": {"revision": "ffffffff"}},
        {"stable": {"version": "v2"}},
        {"stable": {"digest": "sha256:0"}},
        {"draining": [{"revision": "router", "outcome": "Promoted", "until": TIME}]},
        {
            "history": [
                {"revision": "ffffffff", "version": "v", "outcome": "Promoted", "startedAt": TIME, "endedAt": TIME}
            ]
        },
        {"rejected": [{"revision": "ffffffff", "version": "v", "reason": "R", "message": "m", "at": TIME}]},
    ],
    ids=lambda change: next(iter(change)) if isinstance(change, dict) else str(change),
)
@asynchronous
async def test_sides_and_decisions_are_those_of_the_records(change: Body, while_it_runs: bool) -> None:
    world = await in_canary()
    before = {key: copy.deepcopy(world.status.get(key)) for key in ("stable", "history", "rejected", "draining")}
    router = world.child(DEPLOYMENTS, "-router")
    assert router is not None
    await forge(world, change, while_it_runs=while_it_runs)
    assert {key: world.status.get(key) for key in before} == before
    assert (world.child(DEPLOYMENTS, "-router") or {})["metadata"]["uid"] == router["metadata"]["uid"]
    assert world.status["candidate"]["version"] == "v2"


@while_it_runs
@asynchronous
async def test_stable_cannot_be_made_to_drain(while_it_runs: bool) -> None:
    world = await in_canary()
    former = world.revision("stable")
    entry = {"revision": former[1:], "outcome": "Promoted", "until": TIME}
    await forge(world, {"draining": [entry]}, while_it_runs=while_it_runs)
    assert world.child(DEPLOYMENTS, former) is not None
    assert world.status["stable"]["revision"] == former[1:]


@while_it_runs
@pytest.mark.parametrize("forget", [True, False], ids=["rejections emptied", "rejections kept"])
@asynchronous
async def test_a_rejected_version_is_not_brought_back(forget: bool, while_it_runs: bool) -> None:
    world = await rolled_back()
    source = await in_canary()
    candidate: dict[str, Any] = copy.deepcopy(source.status["candidate"]) | {"phase": "Baking", "weight": 100}
    assert candidate["revision"] == world.status["rejected"][0]["revision"]
    rejected = copy.deepcopy(world.status["rejected"])
    change: dict[str, Any] = {"candidate": candidate} | ({"rejected": None} if forget else {})
    await forge(world, change, while_it_runs=while_it_runs)
    assert world.weight() == 0
    assert "candidate" not in world.status
    assert world.status["rejected"] == rejected


@asynchronous
async def test_progress_that_somebody_changes_under_a_running_operator_does_not_count() -> None:
    world = await in_canary()
    await world.edit(MODELS, "fraud", {"status": {"candidate": {"phase": "Baking", "weight": 100}}}, "status")
    await world.reconcile()
    assert world.weight() == 5
    assert (world.status["candidate"]["phase"], world.status["candidate"]["weight"]) == ("Canary", 5)
    assert world.reasons().count("StatusRebuilt") == 1
