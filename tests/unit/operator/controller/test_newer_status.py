"""A status of a newer release of the operator: the operator changes nothing, and reports it once."""

from __future__ import annotations

from mlmodel_operator.api.status import FORMAT_VERSION
from mlmodel_operator.controller import MODELS
from mlmodel_operator.runtime.resource import SERVICES
from tests.unit.operator.controller.world import KEY, World
from tests.unit.operator.runtime.support import asynchronous


async def downgraded() -> World:
    """Return a world in which a newer release has served v1; its status has a field that this release does not know."""
    world = World()
    await world.serve("v1")
    await world.edit(
        MODELS, "fraud", {"status": {"formatVersion": FORMAT_VERSION + 1, "stable": None, "x": 1}}, "status"
    )
    return world


@asynchronous
async def test_a_newer_status_changes_nothing() -> None:
    world = await downgraded()
    await world.edit(SERVICES, "fraud", {"metadata": {"labels": {"mlmodel.dev/component": "foreign"}}})
    await world.apply_model("v2")
    before = dict(world.api.objects)
    for _ in range(3):
        assert await world.reconcile() is None
        assert world.http.requests == []
    assert {key: body for key, body in world.api.objects.items() if key in before} == before


@asynchronous
async def test_a_newer_status_is_reported_once_even_after_a_restart() -> None:
    world = await downgraded()
    world.api.calls.clear()
    await world.reconcile()
    assert world.writes() == [("create", "events", world.writes()[0][2])]
    await world.reconcile()
    assert world.api.calls == []
    world.restart()
    await world.reconcile()
    assert world.reasons().count("NewerStatus") == 1


@asynchronous
async def test_the_report_is_dropped_with_its_model() -> None:
    world = await downgraded()
    await world.reconcile()
    del world.api.objects[MODELS, *KEY]
    await world.reconcile()
    await world.apply_model("v1")
    await world.edit(MODELS, "fraud", {"status": {"formatVersion": FORMAT_VERSION + 1}}, "status")
    await world.reconcile()
    assert world.reasons().count("NewerStatus") == 2
