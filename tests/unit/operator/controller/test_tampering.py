"""What tenants change in the objects of a model: it is undone."""

from __future__ import annotations

import copy

import pytest

from mlmodel_operator.api.types import Owner
from mlmodel_operator.controller import MODELS
from mlmodel_operator.names import CONFIG_ANNOTATION
from mlmodel_operator.resources import router_config_hash, server
from mlmodel_operator.resources.common import owner_references
from mlmodel_operator.resources.exact import foreign_fields
from mlmodel_operator.runtime.resource import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    PODS,
    SERVICES,
    Body,
    Resource,
)
from tests.unit.operator.controller.test_status_lost import in_canary
from tests.unit.operator.controller.world import KEY, World
from tests.unit.operator.runtime.support import asynchronous

pytestmark = [pytest.mark.simulation, pytest.mark.attack]

EVIL = {"name": "extra", "image": "attacker/image"}


def spec(world: World, r: Resource, suffix: str) -> Body:
    body = world.child(r, suffix)
    assert body is not None
    return copy.deepcopy(body["spec"])


@pytest.mark.parametrize("restart", [False, True], ids=["operator runs", "operator was down"])
@asynchronous
async def test_the_routes_that_somebody_made_immutable_are_made_again_and_the_rollout_goes_on(restart: bool) -> None:
    world = await in_canary()
    before = world.child(CONFIG_MAPS, "-routes")
    assert before is not None
    data, former = copy.deepcopy(before["data"]), before["metadata"]["uid"]
    text = data["routes"].replace("stable a", "stable b")
    await world.edit(CONFIG_MAPS, "fraud-routes", {"data": {"routes": text}, "immutable": True})
    if restart:
        world.restart()
    await world.reconcile()
    after = world.child(CONFIG_MAPS, "-routes")
    assert after is not None
    assert (after["data"], "immutable" in after) == (data, False)
    assert after["metadata"]["uid"] != former
    await world.run(world.is_ready, requests=2000, limit=200)
    assert world.status["stable"]["version"] == "v2"


@asynchronous
async def test_routers_follow_their_pod_and_not_the_config_map() -> None:
    world = await in_canary()
    text = world.routes_text()
    await world.edit(CONFIG_MAPS, "fraud-routes", {"data": {"routes": "id 0\nstable b\n"}})
    pod = world.child(PODS, "-router-pod-0")
    assert pod is not None
    assert pod["metadata"]["annotations"]["mlmodel.dev/routes"] == text
    await world.reconcile()
    assert world.routes_text() == text


@pytest.mark.parametrize("labelled", [True, False])
@asynchronous
async def test_a_config_map_that_somebody_puts_in_the_place_of_the_routes_stays_and_the_rollout_goes_on(
    labelled: bool,
) -> None:
    world = await in_canary()
    ours = world.child(CONFIG_MAPS, "-routes")
    assert ours is not None
    labels = dict(ours["metadata"]["labels"]) if labelled else {}
    del world.api.objects[CONFIG_MAPS, "bank", "fraud-routes"]
    meta = {"namespace": "bank", "name": "fraud-routes", "labels": labels}
    await world.api.create(CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"a": "b"}})
    await world.run(lambda: world.status["stable"]["version"] == "v2", requests=2000, limit=200)
    foreign = world.child(CONFIG_MAPS, "-routes")
    assert foreign is not None
    assert foreign["data"] == {"a": "b"}
    assert "fraud-routes" in world.condition("Ready")["message"]


@pytest.mark.parametrize("forge", [False, True], ids=["template", "template and annotation"])
@pytest.mark.parametrize("restart", [False, True], ids=["operator runs", "operator was down"])
@asynchronous
async def test_a_container_that_somebody_adds_is_removed(restart: bool, forge: bool) -> None:
    world = await in_canary()
    for side in ("stable", "candidate"):
        suffix = world.revision(side)
        before = spec(world, DEPLOYMENTS, suffix)
        containers = [*before["template"]["spec"]["containers"], EVIL]
        change: Body = {"spec": {"template": {"spec": {"containers": containers, "hostNetwork": True}}}}
        if forge:
            change["metadata"] = {"annotations": {"mlmodel.dev/template": "older", "mlmodel.dev/applied": "x"}}
        await world.edit(DEPLOYMENTS, f"fraud{suffix}", change)
        if restart:
            world.restart()
        await world.reconcile()
        assert spec(world, DEPLOYMENTS, suffix) == before
        assert await world.reconcile() is not None
        assert not [call for call in world.writes() if call[1] == "deployments"]


@asynchronous
async def test_a_deployment_of_the_release_before_is_kept_as_that_release_recorded_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = await in_canary()
    suffix = world.revision("stable")
    as_recorded = spec(world, DEPLOYMENTS, suffix)
    # The next release builds another template for the same revision.
    monkeypatch.setattr(server, "PRE_STOP_SECONDS", 7)
    world.restart()
    for _ in range(2):
        await world.tick()
    assert spec(world, DEPLOYMENTS, suffix) == as_recorded
    lists = [call for call in world.api.calls if call[0] == "list"]
    assert not lists, "it is compared once"
    container = {**as_recorded["template"]["spec"]["containers"][0], "image": "attacker/image"}
    await world.edit(DEPLOYMENTS, f"fraud{suffix}", {"spec": {"template": {"spec": {"containers": [container]}}}})
    await world.reconcile()
    assert spec(world, DEPLOYMENTS, suffix) == as_recorded


@asynchronous
async def test_what_the_api_server_adds_again_stays_and_costs_one_write() -> None:
    """A default of a later Kubernetes, or an admission webhook of the administrator."""
    world = World()
    plain = world.api._admit

    def admit(r: Resource, body: Body) -> None:
        plain(r, body)
        if r == SERVICES:
            body["spec"]["trafficDistribution"] = "PreferClose"

    world.api._admit = admit
    await world.serve("v1")
    await world.reconcile()
    assert world.writes() == []
    await world.edit(SERVICES, "fraud", {"spec": {"publishNotReadyAddresses": True}})
    await world.reconcile()
    assert "publishNotReadyAddresses" not in spec(world, SERVICES, "")
    await world.reconcile()
    assert world.writes() == []


@asynchronous
async def test_the_config_map_of_the_router_of_the_release_before_goes_with_its_last_pod() -> None:
    world = World()
    await world.serve("v1")
    owner = Owner("fraud", "bank", str(world.api.objects[MODELS, *KEY]["metadata"]["uid"]))
    labels = {"mlmodel.dev/model": "fraud", "app.kubernetes.io/managed-by": "mlmodel-operator"}
    meta = {"namespace": "bank", "name": "fraud-router-config", "labels": labels}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta | {"ownerReferences": owner_references(owner)}}
    await world.api.create(CONFIG_MAPS, body)
    await world.edit(PODS, "fraud-router-pod-0", {"metadata": {"annotations": {CONFIG_ANNOTATION: "before"}}})
    await world.reconcile()
    assert world.child(CONFIG_MAPS, "-router-config") is not None
    change = {"metadata": {"annotations": {CONFIG_ANNOTATION: router_config_hash()}}}
    await world.edit(PODS, "fraud-router-pod-0", change)
    await world.reconcile()
    assert world.child(CONFIG_MAPS, "-router-config") is None


def test_only_children_of_the_operator_have_foreign_fields() -> None:
    assert foreign_fields({"spec": {"a": 1}}, {"kind": "Other", "spec": {}}) is None
    assert foreign_fields({"data": {"a": "1"}}, {"kind": "ConfigMap", "data": {"a": "1"}}) is None
    live = {"data": {"a": "2", "b": "3"}, "binaryData": {"c": "eA=="}, "immutable": True}
    assert foreign_fields(live, {"kind": "ConfigMap", "data": {"a": "1"}}) == {
        "data": {"b": None},
        "binaryData": None,
        "immutable": None,
    }
