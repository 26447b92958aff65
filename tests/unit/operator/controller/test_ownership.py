"""The controller writes, patches and deletes only objects that the MLModel owns."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import pytest

from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.resource import (
    AUTOSCALERS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
    SERVICES,
    Body,
    Resource,
)
from tests.unit.operator.controller.world import KEY, World
from tests.unit.operator.runtime.support import asynchronous

pytestmark = pytest.mark.simulation

OWNERS: dict[str, list[Body]] = {
    "none": [],
    "another": [{"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "other", "controller": True}],
    "a former model": [
        {"apiVersion": "mlmodel.dev/v1alpha1", "kind": "MLModel", "name": "fraud", "uid": "former", "controller": True}
    ],
}
owned = pytest.mark.parametrize("owners", OWNERS.values(), ids=OWNERS)


async def complete() -> World:
    """Return a world with every kind of child, to copy foreign objects from."""
    world = World()
    await world.serve(
        serving={"autoscaling": {"minReplicas": 2, "maxReplicas": 4}}, traffic={"router": {"replicas": 2}}
    )
    return world


async def plant(world: World, r: Resource, body: Body, owners: list[Body], **metadata: Any) -> Body:
    """Create a copy of a child that another owner controls, and return it."""
    foreign = copy.deepcopy(body)
    foreign["metadata"] = {
        **{key: foreign["metadata"][key] for key in ("namespace", "name", "labels")},
        "annotations": foreign["metadata"].get("annotations", {}) | {"mlmodel.dev/template": "another"},
        "ownerReferences": owners,
        **metadata,
    }
    await world.api.create(r, foreign)
    return copy.deepcopy(world.api.objects[r, KEY[0], foreign["metadata"]["name"]])


@pytest.mark.attack(held=True)
@owned
@pytest.mark.parametrize("labelled", [True, False], ids=["with our labels", "without"])
@pytest.mark.parametrize(
    ("r", "suffix"),
    [
        (CONFIG_MAPS, "-routes"),
        (SERVICES, ""),
        (DEPLOYMENTS, "-router"),
        (DISRUPTION_BUDGETS, "-router"),
        (SERVICES, "{}"),
        (DEPLOYMENTS, "{}"),
        (DISRUPTION_BUDGETS, "{}"),
    ],
    ids=lambda value: value.plural if isinstance(value, Resource) else f"fraud{value}",
)
@asynchronous
async def test_a_foreign_object_with_the_name_of_a_child_stays_unchanged(
    r: Resource, suffix: str, labelled: bool, owners: list[Body]
) -> None:
    source = await complete()
    child = source.child(r, suffix.format(source.revision("stable")))
    assert child is not None
    world = World()
    foreign = await plant(world, r, child, owners, **({} if labelled else {"labels": {}}))
    await world.apply_model("v1", serving={"replicas": 3}, traffic={"router": {"replicas": 2}})
    for _ in range(4):
        with suppress(ApiError):  # the queue would retry
            await world.tick()
        assert world.api.objects[r, KEY[0], foreign["metadata"]["name"]] == foreign


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("owner", ["none", "another"])
@asynchronous
async def test_the_conditions_name_the_foreign_object(owner: str) -> None:
    source = await complete()
    child = source.child(SERVICES, source.revision("stable"))
    assert child is not None
    world = World()
    await plant(world, SERVICES, child, OWNERS[owner])
    await world.apply_model("v1")
    for _ in range(2):
        with suppress(ApiError):  # the queue retries with backoff
            await world.tick()
    message = world.condition("Ready")["message"]
    assert f"Service bank/fraud{source.revision('stable')}" in message
    assert "delete it, or choose another name" in message


@pytest.mark.attack(held=True)
@owned
@asynchronous
async def test_a_foreign_autoscaler_or_budget_is_not_removed(owners: list[Body]) -> None:
    source = await complete()
    world = World()
    await world.serve()
    foreign = []
    for r, suffix in (
        (AUTOSCALERS, "{}"),
        (DISRUPTION_BUDGETS, "{}"),
        (DISRUPTION_BUDGETS, "-router"),
    ):
        child = source.child(r, suffix.format(source.revision("stable")))
        assert child is not None
        foreign.append((r, await plant(world, r, child, owners)))
    await world.reconcile()
    assert world.writes() == []
    for r, body in foreign:
        assert world.api.objects[r, KEY[0], body["metadata"]["name"]] == body


@pytest.mark.attack(held=True)
@owned
@asynchronous
async def test_a_foreign_object_is_not_removed_with_the_revision_whose_name_it_has(owners: list[Body]) -> None:
    source = await complete()
    child = source.child(AUTOSCALERS, source.revision("stable"))
    assert child is not None
    world = World()
    await world.serve("v0")
    await world.apply_model("v1")
    await world.tick()
    candidate = world.revision("candidate")
    assert candidate == source.revision("stable")
    foreign = await plant(world, AUTOSCALERS, child, owners)
    await world.apply_model("v0")
    await world.run(world.is_ready)
    assert world.child(DEPLOYMENTS, candidate) is None
    assert world.child(AUTOSCALERS, candidate) == foreign


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("controller", [None, "fraud-other-6f9c"], ids=["none", "another ReplicaSet"])
@asynchronous
async def test_a_pod_that_only_has_the_labels_of_a_router_is_not_annotated(controller: str | None) -> None:
    world = World()
    await world.serve("v1")
    router = world.child(PODS, "-router-pod-0")
    assert router is not None
    owners = [{"kind": "ReplicaSet", "name": controller, "uid": "u", "controller": True}] if controller else []
    foreign = await plant(world, PODS, router, owners, name="debug")
    await world.apply_model("v2")
    await world.run(lambda: world.weight() == 5)
    assert world.api.objects[PODS, KEY[0], "debug"] == foreign
    assert ("patch", "pods", "fraud-router-pod-0") in world.writes()


@pytest.mark.attack(held=True)
@asynchronous
async def test_a_deployment_made_after_the_watch_is_not_scaled() -> None:
    world = World()
    await world.serve("v1")
    await world.apply_model("v1", serving={"replicas": 3})
    world.watch()
    replaced = world.child(DEPLOYMENTS, world.revision("stable"))
    assert replaced is not None
    replaced["metadata"]["uid"] = "created after the watch"
    with pytest.raises(ApiError) as raised:
        await world.controller.reconcile(KEY)
    assert raised.value.conflict
    assert replaced["spec"]["replicas"] == 1


@pytest.mark.attack(held=True)
@asynchronous
async def test_a_deletion_names_the_uid_so_that_a_replacement_stays() -> None:
    world = World()
    await world.serve("v1", serving={"autoscaling": {"maxReplicas": 4}})
    stable = world.revision("stable")
    await world.apply_model("v1", serving={"replicas": 1})
    world.watch()
    replaced = world.api.objects[AUTOSCALERS, KEY[0], f"fraud{stable}"]
    replaced["metadata"]["uid"] = "created after the watch"
    with pytest.raises(ApiError) as raised:
        await world.controller.reconcile(KEY)
    assert raised.value.conflict
    assert world.child(AUTOSCALERS, stable) is replaced


COPIED = {
    "none": [],
    "another ReplicaSet": [{"kind": "ReplicaSet", "name": "other", "uid": "u", "controller": True}],
    "one of the same name": [{"kind": "ReplicaSet", "name": "{set}", "uid": "u", "controller": True}],
}


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("owners", COPIED.values(), ids=COPIED)
@pytest.mark.parametrize("component", ["server", "router"])
@asynchronous
async def test_labels_alone_make_no_pod_evidence(component: str, owners: list[Body]) -> None:
    """A pod with all labels of ours, ready and with an address, and a ReplicaSet that copies them for more."""
    world = World()
    await world.serve("v1")
    suffix = "-router" if component == "router" else world.revision("stable")
    pod, replica_set = world.child(PODS, f"{suffix}-pod-0"), world.child(REPLICA_SETS, f"{suffix}-6f9c")
    assert pod is not None
    assert replica_set is not None
    named = [{**owner, "name": owner["name"].format(set=f"fraud{suffix}-6f9c")} for owner in owners]
    status = {**pod["status"], "podIP": "10.66.6.6"}
    await plant(world, PODS, pod, named, name="copy", uid="copied pod")
    foreign_set = await plant(world, REPLICA_SETS, replica_set, [], name="copied-set")
    reference = {"kind": "ReplicaSet", "name": "copied-set", "uid": foreign_set["metadata"]["uid"], "controller": True}
    await plant(world, PODS, pod, [reference], name="copy-of-set")
    for name in ("copy", "copy-of-set"):
        await world.edit(PODS, name, {"status": status}, "status")
    before = {name: copy.deepcopy(world.api.objects[PODS, KEY[0], name]) for name in ("copy", "copy-of-set")}
    await world.apply_model("v2")
    asked = []
    for _ in range(20):
        await world.tick(50)
        asked += [address for address, _ in world.http.requests]
        assert world.status["stable"]["readyReplicas"] == 1
    assert world.weight() == 5
    assert "10.66.6.6" not in asked
    assert len(asked) >= 20
    for name, body in before.items():
        assert world.api.objects[PODS, KEY[0], name] == body


@pytest.mark.attack(held=True)
@asynchronous
async def test_a_pod_counts_once_its_replica_set_is_known() -> None:
    """The watches are independent: the pod may be seen first."""
    world = World()
    await world.apply_model("v1")
    await world.tick()
    candidate = world.revision("candidate")
    await world.kubernetes()
    world.watch()
    replica_set = world.store.get(REPLICA_SETS, KEY[0], f"fraud{candidate}-6f9c")
    assert replica_set is not None
    world.store.observe_deletion(REPLICA_SETS, replica_set)
    await world.controller.reconcile(KEY)
    assert world.status["candidate"].get("readyReplicas", 0) == 0
    await world.edit(REPLICA_SETS, f"fraud{candidate}-6f9c", {"metadata": {"annotations": {"its": "event"}}})
    await world.run(world.is_ready)


async def lookalike(world: World, r: Resource, revision: str, **spec: Any) -> None:
    """Plant a copy of a child of stable for ``revision`` under another name, which names the MLModel as its owner."""
    child = world.child(r, world.revision("stable"))
    assert child is not None
    labels = child["metadata"]["labels"] | {"mlmodel.dev/revision": revision}
    foreign = copy.deepcopy(child) | {"spec": copy.deepcopy(child["spec"]) | spec}
    await plant(world, r, foreign, child["metadata"]["ownerReferences"], name=f"zz-{revision}", labels=labels)


@pytest.mark.attack(held=True)
@asynchronous
async def test_a_lookalike_of_the_service_of_a_revision_gets_no_request() -> None:
    world = World()
    await world.serve("v1")
    await world.apply_model("v2")
    await world.run(lambda: world.weight() > 0)
    before = world.routes_id()
    for role in ("stable", "candidate"):
        await lookalike(world, SERVICES, world.revision(role).removeprefix("-"), clusterIP="10.9.9.9")
    for _ in range(3):
        await world.tick()
    assert world.routes_id() == before


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("r", [SERVICES, DEPLOYMENTS], ids=lambda r: r.plural)
@asynchronous
async def test_a_lookalike_of_a_child_of_an_unknown_revision_is_no_revision(r: Resource) -> None:
    world = World()
    await world.serve("v1")
    await lookalike(world, r, "cafecafe")
    for _ in range(15):
        await world.tick()
    assert "draining" not in world.status
    assert world.is_ready()
    assert await world.reconcile() is None, "a settled model is not polled"


@pytest.mark.attack(held=True)
@asynchronous
async def test_a_lookalike_of_the_service_of_the_model_is_not_asked() -> None:
    world = World()
    await world.serve("v1")
    child = world.child(SERVICES, "")
    assert child is not None
    foreign = copy.deepcopy(child) | {"spec": child["spec"] | {"clusterIP": "10.9.9.9"}}
    for name in ("aa", "zz"):
        await plant(world, SERVICES, foreign, child["metadata"]["ownerReferences"], name=name)
    await world.apply_model("v2")
    await world.run(world.is_ready, requests=200, limit=200)
    assert not any("10.9.9.9" in str(request) for request in world.http.requests)


@pytest.mark.attack(held=True)
@asynchronous
async def test_a_selector_with_one_more_label_is_corrected() -> None:
    """Only the pods of a tenant may have it."""
    world = World()
    await world.serve("v1")
    for suffix in ("", world.revision("stable")):
        name = f"fraud{suffix}"
        selector = copy.deepcopy(world.api.objects[SERVICES, KEY[0], name]["spec"]["selector"])
        await world.edit(SERVICES, name, {"spec": {"selector": {"mine": "yes"}}})
        assert "mine" in world.api.objects[SERVICES, KEY[0], name]["spec"]["selector"]
        await world.reconcile()
        assert world.api.objects[SERVICES, KEY[0], name]["spec"]["selector"] == selector
        world.restart()
        await world.edit(SERVICES, name, {"spec": {"selector": {"mine": "yes"}}})
        await world.reconcile()
        assert world.api.objects[SERVICES, KEY[0], name]["spec"]["selector"] == selector
