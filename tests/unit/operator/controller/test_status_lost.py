"""A status that was emptied or pruned, and children of a former model: what the controller writes and keeps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from mlmodel_operator.controller import MODELS
from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.resource import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    EVENTS,
    PODS,
    REPLICA_SETS,
    SERVICES,
    Body,
    Resource,
    controller_of,
)
from tests.unit.operator.controller.world import DOWN, KEY, QUOTA, World
from tests.unit.operator.runtime.support import asynchronous

pytestmark = pytest.mark.simulation

FULL: dict[str, Any] = {
    "serving": {"autoscaling": {"minReplicas": 2, "maxReplicas": 4}},
    "traffic": {"router": {"replicas": 2}},
}


async def in_canary(**spec: Any) -> World:
    """Return a world with v1 as stable and v2 as candidate with requests."""
    world = World()
    await world.serve("v1", **spec)
    await world.apply_model("v2", **spec)
    await world.run(lambda: world.weight() == 5)
    await world.tick(100)
    return world


async def rolled_back() -> World:
    """Return a world in which v2 was rejected and is still in the spec."""
    world = World()
    await world.serve("v1")
    await world.apply_model("v2")
    await world.reconcile()
    killed = {"name": "server", "state": {"terminated": {"exitCode": 3, "message": "no such column"}}}
    world.waiting[f"fraud{world.revision('candidate')}"] = {"phase": "Running", "containerStatuses": [killed]}
    await world.run(lambda: world.condition("RolledBack").get("status") == "True" and "draining" not in world.status)
    world.waiting.clear()
    return world


def records(world: World) -> list[Body]:
    return [body for (r, _, _), body in world.api.objects.items() if r == CONTROLLER_REVISIONS]


def identities(world: World, *kinds: Resource) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Return what must not change of these objects: UID, spec and data."""
    return {
        (r.plural, name): (body["metadata"]["uid"], copy.deepcopy(body.get("spec")), copy.deepcopy(body.get("data")))
        for (r, _, name), body in world.api.objects.items()
        if r in kinds
    }


async def empty(world: World) -> None:
    """Empty the status, as ``kubectl replace --subresource=status`` does."""
    await world.api.replace_status(MODELS, {**world.api.objects[MODELS, *KEY], "status": {}})


def replace_model(world: World, owners: Callable[[Body], list[Body]]) -> None:
    """Give the model another UID and no status; ``owners`` returns the ownerReferences of a child of the former one."""
    model = world.api.objects[MODELS, *KEY]
    model["metadata"]["uid"] = "new-uid"
    model.pop("status", None)
    for (r, _, _), body in world.api.objects.items():
        if r not in (MODELS, REPLICA_SETS, PODS, EVENTS):
            body["metadata"]["ownerReferences"] = owners(body)
    world.restart()


def orphaned(_: Body) -> list[Body]:
    """``kubectl delete --cascade=orphan``, or Velero."""
    return []


def restored(body: Body) -> list[Body]:
    """A restore that keeps ownerReferences."""
    return list(body["metadata"]["ownerReferences"])


def assert_all_adopted(world: World) -> None:
    for (r, _, name), body in world.api.objects.items():
        if r not in (MODELS, REPLICA_SETS, PODS, EVENTS):
            assert (controller_of(body) or {}).get("uid") == "new-uid", (r.kind, name)
            assert len(body["metadata"]["ownerReferences"]) == 1


@asynchronous
async def test_each_deployment_has_a_record_before_it_is_written() -> None:
    world = World()
    await world.apply_model("v1")
    await world.reconcile()
    kinds = [(verb, plural) for verb, plural, _ in world.writes() if plural in ("controllerrevisions", "deployments")]
    assert kinds[:4] == [("create", "controllerrevisions"), ("apply", "deployments")] * 2
    world = World()
    world.api.fail = []
    await world.apply_model("v1")
    world.api.refusals["create", "controllerrevisions", next(iter(await names_of_records()))] = QUOTA
    await world.reconcile()
    assert world.child(DEPLOYMENTS, "-router") is None


async def names_of_records() -> list[str]:
    """Return the names of the records of the first reconcile, that of the router first."""
    world = World()
    await world.apply_model("v1")
    await world.reconcile()
    return [name for verb, plural, name in world.writes() if (verb, plural) == ("create", "controllerrevisions")]


@asynchronous
async def test_a_former_stable_is_deleted_only_after_the_record_of_its_successor() -> None:
    world = await in_canary()
    former = world.revision("stable")
    plain = world.api.create

    async def refuse(r: Resource, body: Body) -> Body:
        if r == CONTROLLER_REVISIONS and "-decisions-" in body["metadata"]["name"]:
            raise QUOTA
        return await plain(r, body)

    world.api.create = refuse  # type: ignore[method-assign]
    for _ in range(100):
        with suppress(ApiError):
            await world.tick(2000)
    # A status that is ahead of the records would contradict them.
    assert world.status["stable"]["version"] == "v1"
    assert world.status["candidate"]["phase"] == "Baking"
    assert world.child(DEPLOYMENTS, former) is not None
    assert "ApplyRejected" in world.reasons()
    world.api.create = plain  # type: ignore[method-assign]
    await world.run(lambda: world.child(DEPLOYMENTS, former) is None)


@asynchronous
async def test_records_are_as_many_as_revisions_and_cost_nothing_when_idle() -> None:
    world = World()
    await world.serve("v1")
    for version in ("v2", "v3"):
        await world.apply_model(version)
        await world.run(lambda: world.is_ready() and "draining" not in world.status, requests=2000, limit=200)
        await world.reconcile()
    assert len(records(world)) == 3  # the router, the revision, the decisions
    world.restart()
    assert await world.reconcile() is None
    assert not {"controllerrevisions"} & {plural for _, plural, _ in world.api.calls}


@asynchronous
async def test_a_model_of_the_release_before_gets_its_records() -> None:
    world = await in_canary()
    for key in [key for key in world.api.objects if key[0] == CONTROLLER_REVISIONS]:
        del world.api.objects[key]
    world.restart()
    await world.reconcile()
    assert {body["metadata"]["labels"]["mlmodel.dev/record"] for body in records(world)} == {"Deployment", "Decisions"}
    assert len(records(world)) == 4
    assert {verb for verb, plural, _ in world.writes() if plural == "controllerrevisions"} == {"create"}


@pytest.mark.attack(held=True)
@asynchronous
async def test_an_emptied_status_is_rebuilt_and_reported_once() -> None:
    world = await in_canary()
    before = identities(world, DEPLOYMENTS, SERVICES, PODS)
    stable, candidate = world.status["stable"], world.status["candidate"]["revision"]
    await empty(world)
    for _ in range(3):
        await world.reconcile()
        assert any(line[0] == "stable" for line in world._routes())
    assert world.status["stable"] == stable
    assert world.status["candidate"]["revision"] == candidate
    assert identities(world, DEPLOYMENTS, SERVICES, PODS) == before
    assert world.reasons().count("StatusRebuilt") == 1
    await world.run(world.is_ready, requests=2000, limit=200)
    assert world.status["stable"]["version"] == "v2"


@pytest.mark.attack(held=True)
@asynchronous
async def test_a_rejected_version_does_not_return() -> None:
    world = await rolled_back()
    before = world.status
    await empty(world)
    await world.reconcile()
    for key in ("stable", "rejected", "history"):
        assert world.status[key] == before[key]
    assert "candidate" not in world.status
    assert world.condition("RolledBack")["status"] == "True"


@asynchronous
async def test_without_records_the_version_that_serves_is_read_from_its_deployment() -> None:
    """The release before wrote no records, and the status is lost at the same time as the operator is upgraded."""
    world = await in_canary()
    stable = world.status["stable"]["revision"]
    for key in [key for key in world.api.objects if key[0] == CONTROLLER_REVISIONS]:
        del world.api.objects[key]
    await empty(world)
    world.restart()
    await world.run(lambda: "stable" in world.status, limit=5)
    assert world.status["stable"]["revision"] == stable
    assert world.status["stable"]["snapshot"]["model"] == {
        "uri": "builtin://v1", "version": "v1", "format": "auto", "trust": "strict"
    }  # fmt: skip


@asynchronous
async def test_without_any_description_of_the_version_that_serves_nothing_changes() -> None:
    world = await in_canary()
    name = f"fraud{world.revision('stable')}"
    for key in [key for key in world.api.objects if key[0] == CONTROLLER_REVISIONS]:
        del world.api.objects[key]
    template = copy.deepcopy(world.api.objects[DEPLOYMENTS, KEY[0], name]["spec"]["template"])
    template["spec"]["containers"][0]["args"] = ["--of", "another release"]
    await world.edit(DEPLOYMENTS, name, {"spec": {"template": template}})
    await empty(world)
    world.restart()
    for _ in range(3):
        assert await world.reconcile() is None
        assert {verb for verb, _, _ in world.writes()} <= {"create"}
    assert world.reasons().count("StatusLost") == 1


@pytest.mark.parametrize("owners", [orphaned, restored])
@pytest.mark.parametrize("spec", [{}, FULL], ids=["plain", "full"])
@asynchronous
async def test_children_of_a_former_model_are_adopted(owners: Callable[[Body], list[Body]], spec: Body) -> None:
    world = await in_canary(**spec)
    stable, candidate = world.status["stable"]["revision"], world.status["candidate"]["revision"]
    before = identities(world, DEPLOYMENTS, SERVICES, PODS)
    replace_model(world, owners)
    await world.reconcile()
    assert world.reasons().count("NotAdopted") == 0
    assert world.status["stable"]["revision"] == stable
    assert world.status["candidate"]["revision"] == candidate
    assert identities(world, DEPLOYMENTS, SERVICES, PODS) == before
    assert_all_adopted(world)
    await world.run(world.is_ready, requests=2000, limit=200)
    await world.run(lambda: "draining" not in world.status)
    await world.reconcile()
    assert await world.reconcile() is None
    assert world.api.calls == []


@pytest.mark.attack(held=True)
@asynchronous
async def test_a_rejected_version_does_not_return_with_a_new_model() -> None:
    world = await rolled_back()
    before = world.status
    replace_model(world, orphaned)
    await world.tick()
    assert world.status["rejected"] == before["rejected"]
    assert "candidate" not in world.status


@asynchronous
async def test_an_adoption_that_is_interrupted_anywhere_is_completed() -> None:
    for number in range(60):
        world = await in_canary()
        before = identities(world, DEPLOYMENTS, SERVICES, PODS)
        replace_model(world, restored)
        world.watch()
        world.api.calls.clear()
        world.api.fail = [*[None] * number, DOWN]
        with suppress(ApiError):
            await world.controller.reconcile(KEY)
        is_complete = bool(world.api.fail)
        world.api.fail = []
        world.restart()
        for _ in range(2):
            await world.reconcile()
        assert world.status["stable"]["version"] == "v1"
        assert identities(world, DEPLOYMENTS, SERVICES, PODS) == before
        assert "NotAdopted" not in world.reasons()
        assert_all_adopted(world)
        if is_complete:
            return
    raise AssertionError("more than 60 requests")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "change",
    [
        {"image": "evil:1"},
        {"command": ["sh"]},
        {"env": [{"name": "LD_PRELOAD", "value": "/x"}]},
    ],
    ids=str,
)
@asynchronous
async def test_a_deployment_that_differs_stays_and_is_reported_with_what_to_do(change: Body) -> None:
    world = await in_canary()
    name = f"fraud{world.revision('stable')}"
    template = copy.deepcopy(world.api.objects[DEPLOYMENTS, KEY[0], name]["spec"]["template"])
    template["spec"]["containers"][0] |= change
    await world.edit(DEPLOYMENTS, name, {"spec": {"template": template}})
    replace_model(world, orphaned)
    before = copy.deepcopy(world.api.objects[DEPLOYMENTS, KEY[0], name])
    for _ in range(3):
        with suppress(ApiError):
            await world.reconcile()
    assert world.api.objects[DEPLOYMENTS, KEY[0], name] == before
    notes = [
        body["note"] for (r, _, _), body in world.api.objects.items() if r == EVENTS and body["reason"] == "NotAdopted"
    ]
    assert len(notes) == 1
    assert f"spec.template.spec.containers[0].{next(iter(change))}" in notes[0]
    assert f"kubectl delete deployment {name} -n bank" in notes[0]
    # Its pods serve on behind the Service, which is adopted.
    assert any(line[0] == "stable" for line in world._routes())
    # It is compared once.
    with suppress(ApiError):
        await world.reconcile()
    assert "dry run" not in [verb for verb, _, _ in world.api.calls]


@asynchronous
async def test_the_config_map_of_a_former_model_is_adopted_and_rewritten() -> None:
    world = await in_canary()
    await world.edit(CONFIG_MAPS, "fraud-routes", {"data": {"rehearsal": "evil"}})
    replace_model(world, orphaned)
    await world.reconcile()
    routes = world.child(CONFIG_MAPS, "-routes")
    assert routes is not None
    assert routes["data"]["rehearsal"] != "evil"


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(("key", "is_adopted"), [("sides", True), ("other", False)])
@asynchronous
async def test_the_routes_of_a_former_model_may_have_rules_for_headers_and_nothing_else(
    key: str, is_adopted: bool
) -> None:
    world = await in_canary()
    await world.edit(CONFIG_MAPS, "fraud-routes", {"data": {key: "id 0\nsticky x-user-id 5e\n"}})
    replace_model(world, orphaned)
    with suppress(ApiError):
        await world.reconcile()
    routes = world.child(CONFIG_MAPS, "-routes")
    assert routes is not None
    assert bool(controller_of(routes)) == is_adopted


@pytest.mark.attack(held=True)
@asynchronous
async def test_a_lookalike_without_records_of_a_former_model_is_foreign() -> None:
    """Equal to what the operator builds, in a new model."""
    world = await in_canary()
    replace_model(world, orphaned)
    for key in [key for key in world.api.objects if key[0] == CONTROLLER_REVISIONS]:
        del world.api.objects[key]
    world.restart()
    for _ in range(3):
        with suppress(ApiError):  # the queue retries with backoff
            await world.tick()
    assert "`kubectl delete " in world.condition("Ready")["message"]
    assert [body for (r, _, _), body in world.api.objects.items() if r == DEPLOYMENTS and controller_of(body)] == []


def prune(body: Body, *fields: str) -> Body:
    """Return the body as an API server with an older CustomResourceDefinition stores it."""
    return {**body, "status": {key: value for key, value in (body.get("status") or {}).items() if key in fields}}


@asynchronous
async def test_a_pruned_status_is_reported_once_and_not_written_for_ever() -> None:
    world = await in_canary()
    plain = world.api.replace_status

    async def pruned(r: Resource, body: Body) -> Body:
        return await plain(r, prune(body, "phase", "observedGeneration"))

    world.api.replace_status = pruned  # type: ignore[method-assign]
    before = identities(world, DEPLOYMENTS, SERVICES, PODS)
    writes = 0
    requeued: list[float | None] = []
    for _ in range(130):
        was_reported = "StatusPruned" in world.reasons()
        requeued.append(await world.tick(20))
        assert not was_reported or world.weight() == 0, "no evidence can be kept, so no weight"
        writes += [call[1] for call in world.writes()].count("mlmodels")
        assert any(line[0] == "stable" for line in world._routes())
    assert identities(world, DEPLOYMENTS, SERVICES, PODS) == before
    assert writes <= 4
    assert requeued[-1] == 60.0
    assert requeued[requeued.index(60.0) - 1] == 1.0, "the weight that nothing watches is removed at once"
    assert world.reasons().count("StatusPruned") == 1
    (note,) = [
        body["note"]
        for (r, _, _), body in world.api.objects.items()
        if r == EVENTS and body["reason"] == "StatusPruned"
    ]
    assert "kubectl apply -f crds/mlmodels.yaml" in note
    world.api.replace_status = plain  # type: ignore[method-assign]
    await world.run(world.is_ready, requests=2000, limit=300)
    assert world.status["stable"]["version"] == "v2"


@pytest.mark.parametrize("is_deleted", [True, False], ids=["deleted", "being deleted"])
@asynchronous
async def test_a_model_that_was_deleted_without_its_children_does_not_adopt_them(is_deleted: bool) -> None:
    """The events of the children come before that of the model; adopted, they would be deleted after it."""
    world = World()
    await world.serve("v1")
    world.watch()
    for (r, _, _), body in world.api.objects.items():
        if r not in (MODELS, REPLICA_SETS, PODS, EVENTS):
            body["metadata"]["ownerReferences"] = []
    stale = copy.deepcopy(world.api.objects[MODELS, *KEY])
    if is_deleted:
        del world.api.objects[MODELS, *KEY]
    else:
        world.api.objects[MODELS, *KEY]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.restart()
    world.watch()
    stale["metadata"]["resourceVersion"] = "9998"  # newer than what ``watch`` has stored
    world.store.replace(MODELS, [stale], "9999")
    world.api.calls.clear()
    assert await world.controller.reconcile(KEY) is None
    assert world.writes() == []
