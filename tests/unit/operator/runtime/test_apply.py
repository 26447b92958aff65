"""The applier: writes what differs, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.apply import Applier, NotOurs
from mlmodel_operator.runtime.resource import CONFIG_MAPS, DEPLOYMENTS, Body
from mlmodel_operator.runtime.store import Store
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
    """An applier over an API server in memory, and somebody else who edits there."""

    def __init__(self) -> None:
        self.api = MemoryApi()
        self.store = Store("group")
        self.restart()

    def restart(self) -> None:
        """A new process: what it remembered is lost, what it sees is the cluster."""
        self.store = Store("group")
        for (r, _, _), body in self.api.objects.items():
            self.store.put(r, copy.deepcopy(body))
        self.applier = Applier(self.api, self.store, "test", ANNOTATION)

    async def edit(self, patch: Body) -> None:
        """Somebody else changes the object, and the watch shows it."""
        self.store.put(DEPLOYMENTS, await self.api.patch(DEPLOYMENTS, "ns", "x", patch))
        self.api.calls.clear()

    async def apply(self, body: Body) -> list[str]:
        """The writes that applying ``body`` costs."""
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
async def test_a_changed_intent_is_written_and_read_back_from_the_store_at_once() -> None:
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
async def test_what_others_change_of_ours_is_written_again(drift: Body) -> None:
    world = World()
    await world.apply(intent())
    await world.edit(drift)
    assert await world.apply(intent()) == ["apply"]
    assert await world.apply(intent()) == []


@asynchronous
async def test_what_others_add_is_none_of_our_business() -> None:
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
    assert await world.apply(intent(cpu="1000m")) == ["apply"]  # cannot be told from drift any more: once
    assert await world.apply(intent(cpu="1000m")) == []


@asynchronous
async def test_after_a_restart_an_object_that_is_as_wanted_is_not_written() -> None:
    world = World()
    await world.apply(intent())
    world.restart()
    assert await world.apply(intent()) == []


@asynchronous
async def test_after_a_restart_drift_and_an_intent_that_has_lost_a_field_are_written() -> None:
    world = World()
    await world.apply(intent(image="one", extra="field"))
    world.restart()
    # Everything that the new intent sets is as it sets it; but the old one's extra field must be given up.
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


@pytest.mark.parametrize(
    ("owners", "soon"),
    [
        ([], False),
        ([{"kind": "Other", "name": "o", "uid": "other", "controller": True}], False),
        ([{"kind": "Thing", "name": "t", "uid": "owner", "controller": False}], False),
        ([{"kind": "Thing", "name": "t", "uid": "former", "controller": True}], True),
    ],
    ids=["nobody's", "another's", "ours without control", "a former owner's"],
)
@asynchronous
async def test_an_object_of_another_owner_is_left_alone(owners: list[Body], soon: bool) -> None:
    world = World()
    foreign = intent(image="theirs")
    foreign["metadata"]["ownerReferences"] = owners
    await world.api.create(DEPLOYMENTS, foreign)
    for seen in (False, True):  # without our label it is not in the store: found by asking
        if seen:
            world.restart()
        world.api.calls.clear()
        with pytest.raises(NotOurs) as refusal:
            await world.applier.apply(DEPLOYMENTS, intent())
        assert world.api.writes() == []
        assert "Deployment ns/x" in refusal.value.message
        assert refusal.value.retryable is soon
        assert not refusal.value.conflict


@asynchronous
async def test_an_object_put_in_the_place_of_ours_is_a_conflict() -> None:
    world = World()
    await world.apply(intent())
    replaced = world.api.objects[DEPLOYMENTS, "ns", "x"]
    replaced["metadata"]["uid"] = "another"  # deleted and made anew; the store has not heard of it
    with pytest.raises(ApiError) as error:
        await world.applier.apply(DEPLOYMENTS, intent(image="two"))
    assert error.value.conflict
    assert replaced["spec"] == {"image": "one"}


@asynchronous
async def test_an_object_that_is_being_deleted_is_not_written() -> None:
    world = World()
    await world.apply(intent())
    await world.edit({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
    assert await world.apply(intent(image="two")) == []


@asynchronous
async def test_a_failed_write_is_tried_again() -> None:
    world = World()
    await world.apply(intent())
    world.api.fail = [ApiError(500, "InternalError", "etcd has no leader")]
    with pytest.raises(ApiError, match="etcd"):
        await world.apply(intent(image="two"))
    assert await world.apply(intent(image="two")) == ["apply"]


@asynchronous
async def test_a_patch_is_read_back_from_the_store_at_once_and_is_no_part_of_the_intent() -> None:
    world = World()
    live = await world.applier.apply(DEPLOYMENTS, intent())
    patched = await world.applier.patch(DEPLOYMENTS, live, {"spec": {"replicas": 3}})
    assert patched["spec"] == {"image": "one", "replicas": 3}
    assert world.store.get(DEPLOYMENTS, "ns", "x") == patched
    assert await world.apply(intent()) == []


@asynchronous
async def test_a_patch_of_an_object_put_in_the_place_of_the_known_one_is_a_conflict() -> None:
    world = World()
    live = await world.applier.apply(DEPLOYMENTS, intent())
    replaced = world.api.objects[DEPLOYMENTS, "ns", "x"]
    replaced["metadata"]["uid"] = "another"
    with pytest.raises(ApiError) as error:
        await world.applier.patch(DEPLOYMENTS, live, {"spec": {"replicas": 3}})
    assert error.value.conflict
    assert replaced["spec"] == {"image": "one"}
