"""The number of pods: who sets it, and which objects depend on it."""

from __future__ import annotations

from typing import Any

import pytest

from mlmodel_operator.resources import server
from mlmodel_operator.runtime.resource import AUTOSCALERS, DEPLOYMENTS, DISRUPTION_BUDGETS, Body, Resource
from tests.unit.operator.controller.world import World
from tests.unit.operator.runtime.support import asynchronous

AUTOSCALED: dict[str, Any] = {"autoscaling": {"minReplicas": 2, "maxReplicas": 8}}


def child(world: World, r: Resource, suffix: str) -> Body:
    body = world.child(r, suffix)
    assert body is not None, f"{r.kind} fraud{suffix} is missing"
    return body


@asynchronous
async def test_the_number_of_pods_is_patched_and_never_applied() -> None:
    world = World()
    await world.apply_model("v1", serving={"replicas": 3})
    await world.reconcile()
    stable = world.revision("candidate")
    scale = ("patch", "deployments", f"fraud{stable}")
    assert world.writes().index(("apply", "deployments", f"fraud{stable}")) < world.writes().index(scale)
    assert child(world, DEPLOYMENTS, stable)["spec"]["replicas"] == 3
    await world.run(world.is_ready)
    await world.edit(DEPLOYMENTS, f"fraud{stable}", {"spec": {"replicas": 1}})
    await world.reconcile()
    assert scale in world.writes()
    assert "apply" not in world.api.writes()
    assert child(world, DEPLOYMENTS, stable)["spec"]["replicas"] == 3
    await world.reconcile()
    assert world.api.writes() == []  # the response to the patch is in the store


@asynchronous
async def test_the_number_of_pods_is_not_written_if_an_autoscaler_owns_it() -> None:
    world = World()
    await world.serve(serving=AUTOSCALED)
    stable = world.revision("stable")
    assert child(world, AUTOSCALERS, stable)["spec"]["minReplicas"] == 2
    for replicas in (8, 5):
        await world.edit(DEPLOYMENTS, f"fraud{stable}", {"spec": {"replicas": replicas}})
        await world.tick()
        assert not [call for call in world.writes() if call[1] == "deployments"]
        assert child(world, DEPLOYMENTS, stable)["spec"]["replicas"] == replicas


@asynchronous
async def test_from_autoscaling_to_a_fixed_number_and_back() -> None:
    world = World()
    await world.serve(serving=AUTOSCALED)
    stable = world.revision("stable")
    await world.edit(DEPLOYMENTS, f"fraud{stable}", {"spec": {"replicas": 6}})
    await world.apply_model("v1", serving={"replicas": 2})
    await world.run(world.is_ready)
    assert world.child(AUTOSCALERS, stable) is None
    assert child(world, DEPLOYMENTS, stable)["spec"]["replicas"] == 2
    assert world.revision("stable") == stable  # nothing was rolled out
    await world.apply_model("v1", serving=AUTOSCALED)
    await world.reconcile()
    assert child(world, AUTOSCALERS, stable)["spec"]["minReplicas"] == 2
    assert child(world, DEPLOYMENTS, stable)["spec"]["replicas"] == 2


@asynchronous
async def test_disruption_budgets_exist_for_two_pods_and_not_for_one() -> None:
    world = World()
    await world.serve(serving={"replicas": 2}, traffic={"router": {"replicas": 2}})
    for suffix in (world.revision("stable"), "-router"):
        child(world, DISRUPTION_BUDGETS, suffix)
    await world.apply_model("v1")
    await world.run(world.is_ready)
    for suffix in (world.revision("stable"), "-router"):
        assert world.child(DISRUPTION_BUDGETS, suffix) is None


@asynchronous
async def test_a_terminating_object_is_not_deleted_again() -> None:
    world = World()
    await world.serve(serving=AUTOSCALED)
    name = f"fraud{world.revision('stable')}"
    await world.edit(AUTOSCALERS, name, {"metadata": {"deletionTimestamp": "2027-01-15T08:00:00Z"}})
    await world.apply_model("v1", serving={"replicas": 2})
    await world.reconcile()
    assert "delete" not in world.api.writes()


@pytest.mark.parametrize("serving", [{"replicas": 2}, AUTOSCALED], ids=["fixed", "autoscaled"])
@asynchronous
async def test_the_pods_of_another_release_of_the_operator_stay_as_they_are(
    serving: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    with monkeypatch.context() as release_before:
        release_before.setattr(server, "PRE_STOP_SECONDS", 7)
        await world.serve(serving=serving)
    stable = world.revision("stable")
    before = child(world, DEPLOYMENTS, stable)["spec"]["template"]
    world.restart()
    await world.reconcile()
    assert world.writes() == []
    assert child(world, DEPLOYMENTS, stable)["spec"]["template"] == before
    await world.apply_model("v1", serving={"replicas": 3})
    await world.reconcile()
    assert child(world, DEPLOYMENTS, stable)["spec"]["template"] == before
    assert child(world, DEPLOYMENTS, stable)["spec"]["replicas"] == 3  # scaling is not part of the template


@asynchronous
async def test_the_next_revision_has_the_template_of_this_release() -> None:
    world = World()
    await world.serve("v1")
    older = {"metadata": {"annotations": {"mlmodel.dev/template": "older"}}}
    await world.edit(DEPLOYMENTS, f"fraud{world.revision('stable')}", older)
    await world.apply_model("v2")
    await world.tick()
    deployment = child(world, DEPLOYMENTS, world.revision("candidate"))
    assert deployment["metadata"]["annotations"]["mlmodel.dev/template"] not in ("", "older")
