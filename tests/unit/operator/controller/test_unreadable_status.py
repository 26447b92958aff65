"""A status that somebody changed so that it cannot be read: it is as good as lost, and the records rebuild it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlmodel_operator.controller import MODELS
from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.resource import EVENTS
from tests.unit.operator.controller.world import World
from tests.unit.operator.runtime.support import asynchronous

pytestmark = pytest.mark.simulation

TIME = "2026-01-31T12:00:00Z"


async def changed(status: dict[str, Any]) -> World:
    """Return a world in which v1 serves, v2 is a candidate with requests, and somebody changed the status while no
    operator ran."""
    world = World()
    await world.serve("v1")
    await world.apply_model("v2")
    await world.run(lambda: world.weight() > 0)
    await edit(world, status)
    return world


async def edit(world: World, status: dict[str, Any]) -> None:
    """Change the status while no operator runs: a running one undoes it."""
    await world.edit(MODELS, "fraud", {"status": status}, "status")
    world.restart()
    world.api.calls.clear()


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "status",
    [
        {"formatVersion": 0},
        {"formatVersion": "2"},
        {"formatVersion": 1, "candidate": {"evidence": {"pods": None, "candidate": "x"}}, "stable": 7},
        {"stable": []},
        {"stable": {"revision": ""}},
        {"stable": {"revision": "../../secrets/x"}},
        {"stable": {"slot": "b"}},
        {"draining": {"a": 1}},
        {"draining": [{"revision": "", "outcome": "Promoted"}]},
        {"candidate": {"weight": "much"}},
        {"candidate": {"weight": 101}},
        {"candidate": {"phase": "Baking", "slot": None}},
        {"candidate": {"startedAt": "0000-01-01T00:00:00Z"}},
        {"history": [{"revision": "a", "version": "v", "outcome": "Promoted", "startedAt": "", "endedAt": ""}]},
    ],
    ids=lambda status: json.dumps(status)[:60],
)
@asynchronous
async def test_an_unreadable_status_is_rebuilt_from_the_records(status: dict[str, Any]) -> None:
    world = await changed(status)
    await world.reconcile()
    assert (world.status["stable"]["version"], world.status["candidate"]["version"]) == ("v1", "v2")
    assert world.reasons().count("StatusRebuilt") == 1
    event = next(
        body for (r, _, _), body in world.api.objects.items() if r == EVENTS and body["reason"] == "StatusRebuilt"
    )
    assert "the status could not be read (status" in event["note"]
    assert "delete" not in {verb for verb, plural, _ in world.writes() if plural == "deployments"}
    await world.run(world.is_ready, requests=200, limit=200)
    assert world.status["stable"]["version"] == "v2"
    assert world.reasons().count("StatusRebuilt") == 1


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "status",
    [
        {"candidate": {"version": ""}},
        {"stable": {"version": "v1\nstable b"}},
        {"conditions": [{"type": "", "status": "True", "reason": "", "message": "", "lastTransitionTime": TIME}]},
    ],
    ids=lambda status: json.dumps(status)[:60],
)
@asynchronous
async def test_a_status_with_odd_texts_is_read_again_and_again(status: dict[str, Any]) -> None:
    world = await changed(status)
    weight = world.weight()
    for _ in range(5):
        await world.tick()
    assert world.weight() == weight
    assert not {"StatusRebuilt", "EvidenceReset"} & set(world.reasons())
    await world.run(world.is_ready, requests=200, limit=200)
    assert world.status["stable"]["version"] in ("v2", "")


@pytest.mark.parametrize(
    "state",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '{"hard": [NaN]}',
        '{"pods": 3}',
        '{"segments": [{"weight": 0, "rate": 0.1}]}',
        '{"segments": [{"weight": 5, "rate": 0}]}',
        '{"segments": [{"weight": 5, "rate": 0.1, "credited": 1}]}',
        '{"segments": [{"weight": 5, "rate": 0.1, "counts": {"stable": {"requests": -100}}}]}',
        '{"routers": {"a": {"boot": "b", "weights": {"5": {"candidate": {"failed": 9223372036854775809}}}}}}',
        '{"hard": [1e300]}',
        '{"blocks": -1}',
        "[" * 5000,
    ],
)
@asynchronous
async def test_only_the_tests_restart_when_their_state_is_unreadable(state: str) -> None:
    world = await changed({"candidate": {"evidence": {"state": state}}})
    weight, revision = world.weight(), world.status["candidate"]["revision"]
    assert await world.reconcile() is not None
    assert (world.weight(), world.status["candidate"]["revision"]) == (weight, revision)
    if state:  # an empty one is as good as none
        assert world.reasons().count("EvidenceReset") == 1
    await world.run(world.is_ready, requests=200, limit=200)
    assert world.status["stable"]["version"] == "v2"


@asynchronous
async def test_the_report_is_repeated_until_the_event_exists() -> None:
    world = await changed({"candidate": {"evidence": {"state": "{"}}})
    world.api.fail = [ApiError(500, "InternalError", "try later")]
    await world.reconcile()
    assert "EvidenceReset" not in world.reasons()
    await edit(world, {"candidate": {"evidence": {"state": "{"}}})
    await world.reconcile()
    assert world.reasons().count("EvidenceReset") == 1
