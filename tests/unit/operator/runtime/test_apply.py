"""The applier writes only objects that differ from their intent."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.apply import Applier, NotOurs
from mlmodel_operator.runtime.resource import CONFIG_MAPS, DEPLOYMENTS, Body, Resource
from mlmodel_operator.runtime.store import Store
from mlmodel_operator.runtime.view import CONTENT, MAX_CONTENT, View, content_of
from tests.unit.operator.runtime.support import MemoryApi, asynchronous

ANNOTATION = "example.org/applied"


def intent(**spec: Any) -> Body:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "namespace": "ns",
            "name": "x",
            "labels": {"mine": "yes"},
            "ownerReferences": [{"kind": "Thing", "name": "t", "uid": "owner", "controller": True}],
        },
        "spec": spec or {"image": "one"},
    }


class World:
    """An applier over an API server in memory, and another client that edits there."""

    def __init__(self, views: Mapping[Resource, View] = MappingProxyType({})) -> None:
        self.api = MemoryApi()
        self.views = views
        self.restart()

    def restart(self) -> None:
        """Start a new process, whose only state is the cluster."""
        self.store = Store("group", self.views)
        for (r, _, _), body in self.api.objects.items():
            self.store.put(r, copy.deepcopy(body))
        self.applier = Applier(self.api, self.store, "test", ANNOTATION)

    async def edit(self, patch: Body) -> None:
        """Change the object as another client; the watch delivers the change."""
        self.store.put(DEPLOYMENTS, await self.api.patch(DEPLOYMENTS, "ns", "x", patch))
        self.api.calls.clear()

    async def apply(self, body: Body) -> list[str]:
        """Apply ``body``, and return the writes that it costs."""
        self.api.calls.clear()
        await self.applier.apply(DEPLOYMENTS, body)
        return self.api.writes()


@asynchronous
async def test_an_unchanged_intent_is_written_once() -> None:
    world = World()
    assert await world.apply(intent()) == ["apply"]
    for _ in range(3):
        assert await world.apply(intent()) == []
        assert world.api.calls == []  # not even a read
    stored = world.store.get(DEPLOYMENTS, "ns", "x")
    assert stored is not None
    assert stored["spec"] == {"image": "one"}


@asynchronous
async def test_a_changed_intent_is_written_and_in_the_store_at_once() -> None:
    world = World()
    await world.apply(intent(image="one"))
    assert await world.apply(intent(image="two")) == ["apply"]
    stored = world.store.get(DEPLOYMENTS, "ns", "x")
    assert stored is not None
    assert stored["spec"] == {"image": "two"}


@pytest.mark.parametrize(
    "drift",
    [
        {"spec": {"image": "foreign"}},
        {"metadata": {"labels": {"mine": "no"}}},
        {"metadata": {"annotations": {ANNOTATION: "x"}}},
    ],
    ids=["a field", "a label", "the annotation"],
)
@asynchronous
async def test_drift_of_our_fields_is_written_again(drift: Body) -> None:
    world = World()
    await world.apply(intent())
    await world.edit(drift)
    assert await world.apply(intent()) == ["apply"]
    assert await world.apply(intent()) == []


@pytest.mark.parametrize("is_new_process", [False, True], ids=["", "after a restart"])
@pytest.mark.parametrize("image", ["one", "two"], ids=["drift", "another intent"])
@asynchronous
async def test_an_object_of_which_the_store_has_only_a_hash_is_read_once_before_it_is_written(
    image: str, is_new_process: bool
) -> None:
    def keep(body: Body, _known: Body | None) -> Body:
        return {"metadata": body["metadata"], CONTENT: content_of(body)}

    world = World({DEPLOYMENTS: View(dict[str, Any], keep, has_content=True)})
    large = "x" * MAX_CONTENT
    await world.apply(intent(image="one", files=large))
    await world.edit({"spec": {"image": "foreign"}})
    if is_new_process:
        world.restart()
    assert await world.apply(intent(image=image, files=large)) == ["apply"]
    assert [verb for verb, _, _ in world.api.calls] == ["get", "apply"]
    assert world.api.objects[DEPLOYMENTS, "ns", "x"]["spec"]["image"] == image


@asynchronous
async def test_fields_that_others_add_stay_unchanged() -> None:
    world = World()
    await world.apply(intent())
    await world.edit({"spec": {"replicas": 7}, "metadata": {"labels": {"theirs": "x"}}, "status": {"ready": 1}})
    assert await world.apply(intent()) == []


@asynchronous
async def test_values_that_the_server_normalises_are_not_drift() -> None:
    world = World()
    plain = world.api.apply

    async def apply_and_normalise(r: Any, body: Body, manager: str) -> Body:
        return await plain(r, {**body, "spec": {"cpu": "1"}}, manager)

    world.api.apply = apply_and_normalise  # type: ignore[method-assign]
    assert await world.apply(intent(cpu="1000m")) == ["apply"]
    assert await world.apply(intent(cpu="1000m")) == []
    world.restart()
    assert await world.apply(intent(cpu="1000m")) == ["apply"]  # cannot be distinguished from drift: once
    assert await world.apply(intent(cpu="1000m")) == []


@asynchronous
async def test_after_a_restart_an_object_that_equals_its_intent_is_not_written() -> None:
    world = World()
    await world.apply(intent())
    world.restart()
    assert await world.apply(intent()) == []


@asynchronous
async def test_after_a_restart_drift_and_an_intent_that_has_lost_a_field_are_written() -> None:
    world = World()
    await world.apply(intent(image="one", extra="field"))
    world.restart()
    # Every field of the new intent has its value, but the extra field of the old one must be removed.
    assert await world.apply(intent(image="one")) == ["apply"]
    await world.edit({"spec": {"image": "foreign"}})
    world.restart()
    assert await world.apply(intent(image="one")) == ["apply"]


@asynchronous
async def test_kinds_without_a_generation_are_compared_by_their_data() -> None:
    world = World()
    body = {**intent(), "kind": "ConfigMap", "data": {"routes": "a"}}
    await world.applier.apply(CONFIG_MAPS, body)
    await world.applier.apply(CONFIG_MAPS, body)
    assert world.api.writes() == ["apply"]
    world.store.put(CONFIG_MAPS, await world.api.patch(CONFIG_MAPS, "ns", "x", {"data": {"routes": "b"}}))
    await world.applier.apply(CONFIG_MAPS, body)
    assert world.api.objects[CONFIG_MAPS, "ns", "x"]["data"] == {"routes": "a"}


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("owners", "soon"),
    [
        ([], False),
        ([{"kind": "Other", "name": "o", "uid": "other", "controller": True}], False),
        ([{"kind": "Thing", "name": "t", "uid": "owner", "controller": False}], False),
        ([{"kind": "Thing", "name": "t", "uid": "former", "controller": True}], True),
    ],
    ids=["no owner", "another owner", "ours without control", "a deleted owner"],
)
@asynchronous
async def test_an_object_of_another_owner_stays_unchanged(owners: list[Body], soon: bool) -> None:
    world = World()
    foreign = intent(image="theirs")
    foreign["metadata"]["ownerReferences"] = owners
    await world.api.create(DEPLOYMENTS, foreign)
    for is_in_store in (False, True):  # an object without our label is not in the store, so it is read
        if is_in_store:
            world.restart()
        world.api.calls.clear()
        with pytest.raises(NotOurs) as refusal:
            await world.applier.apply(DEPLOYMENTS, intent())
        assert world.api.writes() == []
        assert "Deployment ns/x" in refusal.value.message
        assert refusal.value.retryable is soon
        assert not refusal.value.conflict


@pytest.mark.attack(held=True)
@asynchronous
async def test_an_object_that_replaced_ours_is_a_conflict() -> None:
    world = World()
    await world.apply(intent())
    replaced = world.api.objects[DEPLOYMENTS, "ns", "x"]
    replaced["metadata"]["uid"] = "another"  # deleted and created again; the store still has the old one
    with pytest.raises(ApiError) as error:
        await world.applier.apply(DEPLOYMENTS, intent(image="two"))
    assert error.value.conflict
    assert replaced["spec"] == {"image": "one"}


@asynchronous
async def test_an_object_that_terminates_is_not_written() -> None:
    world = World()
    await world.apply(intent())
    await world.edit({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
    assert await world.apply(intent(image="two")) == []


@asynchronous
async def test_a_failed_write_is_retried() -> None:
    world = World()
    await world.apply(intent())
    world.api.fail = [ApiError(500, "InternalError", "etcd has no leader")]
    with pytest.raises(ApiError, match="etcd"):
        await world.apply(intent(image="two"))
    assert await world.apply(intent(image="two")) == ["apply"]


@asynchronous
async def test_a_patch_is_in_the_store_at_once_and_not_part_of_the_intent() -> None:
    world = World()
    live = await world.applier.apply(DEPLOYMENTS, intent())
    patched = await world.applier.patch(DEPLOYMENTS, live, {"spec": {"replicas": 3}})
    assert patched["spec"] == {"image": "one", "replicas": 3}
    assert world.store.get(DEPLOYMENTS, "ns", "x") == patched
    assert await world.apply(intent()) == []


@asynchronous
async def test_a_patch_of_an_object_that_was_replaced_is_a_conflict() -> None:
    world = World()
    live = await world.applier.apply(DEPLOYMENTS, intent())
    replaced = world.api.objects[DEPLOYMENTS, "ns", "x"]
    replaced["metadata"]["uid"] = "another"
    with pytest.raises(ApiError) as error:
        await world.applier.patch(DEPLOYMENTS, live, {"spec": {"replicas": 3}})
    assert error.value.conflict
    assert replaced["spec"] == {"image": "one"}
