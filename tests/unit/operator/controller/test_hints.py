"""The conditions when pods do not start, and what the controller reads for them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.resource import DEPLOYMENTS, PODS, Body
from tests.unit.operator.controller.world import SETTINGS, World
from tests.unit.operator.runtime.support import asynchronous

CREATING: Body = {
    "phase": "Pending",
    "containerStatuses": [{"name": "server", "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}],
}
PINNED: dict[str, Any] = {"model": {"uri": "configmap://fraud-v1", "sha256": "9f2c" * 16}}
KEYS: dict[str, Any] = {"serving": {"apiKeys": {"secretName": "fraud-keys"}}}


async def waiting(**spec: Any) -> World:
    """Return a world with a first version whose pod waits for its volumes."""
    world = World()
    await world.apply_model("v1", **spec)
    await world.reconcile()
    world.waiting[f"fraud{world.revision('candidate')}"] = CREATING
    await world.tick()
    return world


def message(world: World) -> str:
    return str(world.condition("Ready")["message"])


@asynchronous
async def test_a_missing_config_map_is_named_with_what_to_type() -> None:
    world = await waiting(**PINNED)
    await world.run(lambda: world.condition("Stalled")["reason"] == "ConfigMapMissing", limit=6)
    assert "ConfigMap fraud-v1 not found in namespace bank" in message(world)
    assert "mlmodel package PACKAGE --configmap fraud-v1 | kubectl apply -f -" in message(world)
    assert (world.condition("Reconciling")["status"], world.reasons()[-1]) == ("False", "ConfigMapMissing")
    await world.tick()
    assert "get" not in [verb for verb, _, _ in world.api.calls], "the same pods are asked about once"
    await world.create_config_map("fraud-v1", {})
    world.waiting.clear()  # kubelet mounts it at its next attempt
    await world.run(world.is_ready)
    assert world.reasons().count("ConfigMapMissing") == 1


@asynchronous
async def test_a_config_map_that_is_applied_right_after_its_model_is_not_missed() -> None:
    world = await waiting(**PINNED)
    for _ in range(3):
        await world.tick()
        assert "ConfigMap" not in message(world)
        assert "get" not in [verb for verb, _, _ in world.api.calls]


@asynchronous
async def test_a_config_map_that_may_not_be_read_is_not_reported_as_missing() -> None:
    world = await waiting(**PINNED)
    world.api.refusals["get", "configmaps", "fraud-v1"] = ApiError(403, "Forbidden", "no")
    for _ in range(8):
        await world.tick()
    assert "ConfigMap" not in message(world)


@pytest.mark.parametrize("spec", [{}, {"model": {"uri": "pvc://claim"}}], ids=["builtin", "pvc"])
@asynchronous
async def test_no_config_map_is_read_for_another_source(spec: dict[str, Any]) -> None:
    world = await waiting(**spec)
    await world.tick()
    assert "get" not in [verb for verb, _, _ in world.api.calls]


@asynchronous
async def test_no_config_map_is_read_once_pods_run() -> None:
    world = World()
    await world.apply_model("v1", **PINNED)
    await world.tick()
    await world.tick()
    assert {name for verb, _, name in world.api.calls if verb == "get"} == {"fraud-routes"}


@asynchronous
async def test_the_secret_with_the_keys_is_named_when_pods_wait_for_long() -> None:
    world = await waiting(**KEYS)
    for _ in range(12):
        await world.tick()
        assert "Secret" not in message(world)
    for _ in range(10):
        await world.tick()
    assert "check that namespace bank has a Secret fraud-keys with the key `keys`" in message(world)


@asynchronous
async def test_pods_that_wait_without_api_keys_do_not_suspect_a_secret() -> None:
    world = await waiting()
    for _ in range(30):
        await world.tick()
    assert "Secret" not in message(world)


@asynchronous
async def test_the_reason_why_a_deployment_cannot_create_pods_is_reported() -> None:
    world = World()
    await world.serve("v1")
    await world.apply_model("v2")
    await world.reconcile()
    name = f"fraud{world.revision('candidate')}"
    failure = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: pods"}
    await world.edit(DEPLOYMENTS, name, {"status": {"conditions": [failure]}}, "status")
    world.waiting[name] = CREATING
    await world.tick()
    assert message(world) == (
        "v2 is being prepared: Kubernetes cannot create pods of v2 (exceeded quota: pods): change the quota, LimitRange"
        " or admission policy, or spec.serving.resources. v1 gets all requests"
    )


@pytest.mark.attack(held=True)
@asynchronous
async def test_a_model_that_this_operator_may_not_serve_gets_no_pod() -> None:
    world = World()
    await world.apply_model("v1", model={"trust": "unsafe"})
    await world.reconcile()
    assert world.condition("Stalled")["reason"] == "TrustNotAllowed"
    assert not [call for call in world.writes() if call[2].startswith("fraud-") and call[1] == "services"]
    world = World(replace(SETTINGS, allow_unsafe_models=True))
    await world.serve("v1", model={"trust": "unsafe"})
    deployment = world.child(DEPLOYMENTS, world.revision("stable"))
    assert deployment is not None
    assert "--allow-unsafe" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]


@asynchronous
async def test_a_model_is_available_once_its_address_answers_which_is_then_not_checked_again() -> None:
    world = World()
    world.reachable = False
    await world.apply_model("v1")
    for _ in range(5):
        requeue_after = await world.tick()
    assert requeue_after is not None
    assert requeue_after < 1
    assert world.condition("Available")["status"] == "False"
    world.reachable = True
    await world.tick()
    assert world.is_ready()
    await world.tick()
    assert world.http.requests == []


@asynchronous
async def test_only_a_rollout_reads_the_routers_and_the_pages_of_stables_pods() -> None:
    world = World()
    await world.serve("v1", serving={"replicas": 2})
    await world.tick(100)
    assert world.http.requests == []
    await world.apply_model("v2", serving={"replicas": 2})
    await world.run(lambda: world.weight() == 5)
    await world.tick(100)
    assert [port for _, port in world.http.requests] == [9090, 9091, 8090, 8090]
    stable = f"fraud{world.revision('stable')}"
    pods = [world.child(PODS, f"{world.revision('stable')}-pod-{number}") for number in range(2)]
    assert [address for address, _ in world.http.requests[2:]] == [pod["status"]["podIP"] for pod in pods if pod], (
        stable
    )


@asynchronous
async def test_an_evicted_pod_does_not_fail_its_version() -> None:
    world = World()
    await world.serve("v1")
    await world.apply_model("v2")
    await world.tick()
    name = f"fraud{world.revision('candidate')}"
    killed = {"name": "server", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    world.waiting[name] = {"phase": "Failed", "reason": "Evicted", "containerStatuses": [killed]}
    await world.tick()
    assert world.status["candidate"]["version"] == "v2"
    world.waiting[name] = {**world.waiting[name], "phase": "Running"}
    await world.tick()
    assert world.status["rejected"][0]["reason"] == "OutOfMemory"


@asynchronous
async def test_a_pod_that_terminates_while_the_routers_are_read_is_seen_as_replaced() -> None:
    """Its failures are in these counts: the pods must be read after them."""
    world = World()
    await world.serve("v1")
    await world.apply_model("v2")
    await world.run(lambda: world.weight() == 5)
    await world.tick(100)
    pod = f"fraud{world.revision('candidate')}-pod-0"
    page = world.page

    def evicted() -> Body:
        body = world.api.objects[PODS, "bank", pod]
        deleted = {"deletionTimestamp": "2027-01-15T08:01:00Z", "resourceVersion": "1000000"}
        world.api.objects[PODS, "bank", pod] = {**body, "metadata": {**body["metadata"], **deleted}}
        world.watch()
        return page()

    world.page = evicted  # type: ignore[method-assign]
    await world.reconcile()
    state = json.loads(world.status["candidate"]["evidence"]["state"])
    assert state["pods"][pod] > world.clock.now()
