"""Writes that the API server rejects: the conditions report them until they succeed, and they stop no other write."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from mlmodel_operator.controller import MODELS
from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.resource import AUTOSCALERS, DEPLOYMENTS, DISRUPTION_BUDGETS, SERVICES
from tests.unit.operator.controller.world import DOWN, KEY, QUOTA, STALE, World
from tests.unit.operator.runtime.support import asynchronous

TWO: dict[str, Any] = {"serving": {"replicas": 2}, "traffic": {"router": {"replicas": 2}}}


async def preparing(world: World) -> str:
    """Serve v1 with two pods and apply v2; return the suffix of v2, which another world gives."""
    other = World()
    await other.serve("v1", **TWO)
    await other.apply_model("v2", **TWO)
    await other.reconcile()
    await world.serve("v1", **TWO)
    await world.apply_model("v2", **TWO)
    return other.revision("candidate")


@asynchronous
async def test_a_refusal_is_in_the_conditions_until_the_write_succeeds() -> None:
    world = World()
    candidate = await preparing(world)
    world.api.refusals["apply", "deployments", f"fraud{candidate}"] = QUOTA
    assert await world.reconcile() is not None  # a transition: the next decision follows at once
    assert "quota" not in world.condition("Ready")["message"]
    with pytest.raises(ApiError):  # the queue retries with backoff
        await world.reconcile()
    message = "v2 is being prepared: the operator cannot write an object: exceeded quota: team. v1 gets all requests"
    assert world.condition("Ready")["message"] == message
    assert (world.condition("Stalled")["status"], world.condition("Stalled")["reason"]) == ("True", "ApplyRejected")
    for _ in range(3):
        with pytest.raises(ApiError):
            await world.reconcile()
    assert world.reasons().count("ApplyRejected") == 1
    world.api.refusals.clear()
    await world.reconcile()  # succeeds, after the decision
    await world.reconcile()
    assert "quota" not in world.condition("Ready")["message"]


@asynchronous
async def test_a_refusal_is_dropped_with_its_model() -> None:
    world = World()
    candidate = await preparing(world)
    world.api.refusals["apply", "deployments", f"fraud{candidate}"] = QUOTA
    await world.reconcile()
    world.api.refusals.clear()
    del world.api.objects[MODELS, *KEY]
    await world.reconcile()
    await world.apply_model("v2")
    with suppress(ApiError):  # the children still belong to the model that was deleted
        await world.reconcile()
    assert "quota" not in world.condition("Ready")["message"]


@asynchronous
async def test_of_several_refusals_the_first_is_reported() -> None:
    world = World()
    await world.apply_model("v1", **TWO)
    world.api.refusals["apply", "deployments", "fraud-router"] = QUOTA
    world.api.refusals["apply", "poddisruptionbudgets", "fraud-router"] = ApiError(403, "Forbidden", "also rejected")
    for _ in range(2):
        with suppress(ApiError):
            await world.reconcile()
    assert "exceeded quota" in world.condition("Ready")["message"]


@asynchronous
async def test_without_a_rollout_a_refusal_is_raised_and_makes_the_model_not_ready() -> None:
    world = World()
    await world.serve()
    world.api.refusals["apply", "services", "fraud"] = QUOTA
    await world.edit(SERVICES, "fraud", {"metadata": {"labels": {"mlmodel.dev/component": "foreign"}}})
    for _ in range(2):
        with pytest.raises(ApiError, match="exceeded quota"):
            await world.reconcile()
    assert (world.condition("Ready")["status"], world.condition("Ready")["reason"]) == ("False", "ApplyRejected")
    assert world.condition("Stalled")["status"] == "True"
    assert world.condition("Available")["status"] == "True"


@pytest.mark.parametrize("error", [DOWN, STALE], ids=["down", "conflict"])
@asynchronous
async def test_an_error_that_a_retry_may_resolve_is_not_reported(error: ApiError) -> None:
    world = World()
    await world.serve()
    world.api.refusals["apply", "services", "fraud"] = error
    await world.edit(SERVICES, "fraud", {"metadata": {"labels": {"mlmodel.dev/component": "foreign"}}})
    for _ in range(2):
        with pytest.raises(ApiError) as raised:
            await world.reconcile()
        assert raised.value is error
    assert world.condition("Ready")["reason"] == "Serving"


@asynchronous
async def test_a_conflict_is_raised_even_in_a_rollout() -> None:
    world = World()
    candidate = await preparing(world)
    world.api.refusals["apply", "services", f"fraud{candidate}"] = STALE
    with pytest.raises(ApiError) as raised:
        await world.reconcile()
    assert raised.value.conflict


@pytest.mark.parametrize(
    "refused",
    [
        ("apply", "configmaps", "fraud-routes"),
        ("apply", "services", "fraud"),
        ("apply", "deployments", "fraud-router"),
        ("apply", "poddisruptionbudgets", "fraud-router"),
        ("apply", "services", "fraud{}"),
        ("apply", "deployments", "fraud{}"),
        ("apply", "poddisruptionbudgets", "fraud{}"),
    ],
    ids=lambda refused: f"{refused[1]} {refused[2]}",
)
@asynchronous
async def test_a_refusal_of_one_child_does_not_stop_the_others(refused: tuple[str, str, str]) -> None:
    plain = World()
    await plain.apply_model("v1", **TWO)
    await plain.reconcile()
    call = (*refused[:2], refused[2].format(plain.revision("candidate")))
    world = World()
    world.api.refusals[call] = QUOTA
    await world.apply_model("v1", **TWO)
    await world.reconcile()
    # A Deployment that does not exist cannot be scaled either.
    skipped = [("patch", "deployments", call[2])] if refused[1:] == ("deployments", "fraud{}") else []
    assert call in plain.writes()
    assert world.writes() == [write for write in plain.writes() if write not in skipped]


@pytest.mark.parametrize("kind", ["scale", "autoscaler", "budget", "router budget"])
@asynchronous
async def test_a_rejected_change_of_stable_does_not_delay_the_candidate(kind: str) -> None:
    """A rejected patch or delete, not only a rejected apply."""
    world = World()
    await world.serve("v1", serving={"autoscaling": {"minReplicas": 2, "maxReplicas": 4}}, traffic=TWO["traffic"])
    stable = world.revision("stable")
    await world.edit(DEPLOYMENTS, f"fraud{stable}", {"spec": {"replicas": 4}})
    call = {
        "scale": ("patch", "deployments", f"fraud{stable}"),
        "autoscaler": ("delete", "horizontalpodautoscalers", f"fraud{stable}"),
        "budget": ("delete", "poddisruptionbudgets", f"fraud{stable}"),
        "router budget": ("delete", "poddisruptionbudgets", "fraud-router"),
    }[kind]
    world.api.refusals[call] = QUOTA
    await world.apply_model("v2", serving={"replicas": 1})
    await world.reconcile()
    assert call in world.writes()
    candidate = world.revision("candidate")
    assert world.child(DEPLOYMENTS, candidate) is not None
    assert world.child(SERVICES, candidate) is not None
    assert (world.child(AUTOSCALERS, stable) is None) == (kind != "autoscaler")
    assert (world.child(DISRUPTION_BUDGETS, stable) is None) == (kind != "budget")


@asynchronous
async def test_a_rejected_deletion_keeps_the_deployment_and_the_rollout_continues() -> None:
    world = World()
    await world.serve("v1")
    await world.apply_model("v2")
    await world.tick()
    old = world.revision("candidate")
    world.api.refusals["delete", "services", f"fraud{old}"] = QUOTA
    await world.apply_model("v3")
    await world.run(lambda: world.weight() == 5)
    assert world.status["candidate"]["version"] == "v3"
    assert world.child(DEPLOYMENTS, old) is not None
    world.api.refusals.clear()
    await world.run(lambda: world.child(DEPLOYMENTS, old) is None, limit=20)
    assert world.child(SERVICES, old) is None


@asynchronous
async def test_a_status_that_cannot_be_written_is_decided_again() -> None:
    world = World()
    await world.apply_model("v1")
    world.api.refusals["update", "mlmodels", "fraud"] = DOWN
    with pytest.raises(ApiError):
        await world.reconcile()
    assert world.reasons() == []
    assert world.child(DEPLOYMENTS, "-router") is not None
    world.api.refusals.clear()
    await world.reconcile()
    assert world.reasons() == ["Preparing"]
