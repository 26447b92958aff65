"""A status that somebody changed so that it cannot be read: nothing is lost, and an Event reports it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlmodel_operator.controller import MODELS
from mlmodel_operator.runtime.api import ApiError
from tests.unit.operator.controller.world import World
from tests.unit.operator.runtime.support import asynchronous


async def changed(status: dict[str, Any]) -> World:
    """Return a world in which v1 serves, v2 is a candidate with requests, and somebody changed the status."""
    world = World()
    await world.serve("v1")
    await world.apply_model("v2")
    await world.run(lambda: world.weight() > 0)
    await world.edit(MODELS, "fraud", {"status": status}, "status")
    world.api.calls.clear()
    return world


@pytest.mark.parametrize(
    "status",
    [
        {"formatVersion": 0},
        {"formatVersion": "2"},
        {"formatVersion": 1, "candidate": {"evidence": {"pods": None, "candidate": "x"}}, "stable": 7},
        {"stable": []},
        {"draining": {"a": 1}},
        {"candidate": {"weight": "much"}},
        {"candidate": {"weight": 101}},
        {"candidate": {"phase": "Baking", "slot": None}},
    ],
    ids=lambda status: json.dumps(status)[:40],
)
@asynchronous
async def test_an_unreadable_status_changes_nothing_and_is_reported_once(status: dict[str, Any]) -> None:
    world = await changed(status)
    for _ in range(3):
        assert await world.reconcile() is None
    assert {(verb, plural) for verb, plural, _ in world.writes()} <= {("create", "events")}
    assert world.reasons().count("StatusUnreadable") == 1


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
    world = await changed({"formatVersion": 0})
    world.api.fail = [ApiError(500, "InternalError", "try later")]
    await world.reconcile()
    assert "StatusUnreadable" not in world.reasons()
    await world.reconcile()
    await world.reconcile()
    assert world.reasons().count("StatusUnreadable") == 1
