"""Troubles of any child, from the objects of the cluster to conditions and Events."""

from __future__ import annotations

from typing import Any

import pytest

from mlmodel_operator.runtime.resource import DEPLOYMENTS, PODS, SERVICES, Body
from tests.unit.operator.controller.world import KEY, World
from tests.unit.operator.runtime.support import asynchronous

FAILURE = {"type": "ReplicaFailure", "status": "True", "message": 'admission webhook "policy" denied the request'}


def unready(name: str, **container: Any) -> Body:
    """Return the status of a pod that is not ready."""
    since = {"type": "Ready", "status": "False", "lastTransitionTime": "2027-01-15T08:00:01Z"}
    item = {"name": name, "restartCount": 0, "state": {"running": {}}, **container}
    return {"phase": "Running", "podIP": "10.0.0.9", "conditions": [since], "containerStatuses": [item]}


def state(world: World) -> tuple[str, str, str]:
    """Return the status of Ready and Stalled, and their reason, which is the same."""
    ready, stalled = world.condition("Ready"), world.condition("Stalled")
    assert world.condition("Reconciling")["status"] == "False" or stalled["status"] == "False", "kstatus: not both"
    return ready["status"], stalled["status"], ready["reason"]


@pytest.mark.parametrize("child", ["router", "stable"])
@asynchronous
async def test_a_rejected_pod_of_what_serves_is_reported_once_and_until_it_passes(child: str) -> None:
    world = World()
    await world.serve("v1", serving={"replicas": 2})
    name = "fraud-router" if child == "router" else f"fraud{world.revision('stable')}"
    if child == "stable":
        world.waiting[name] = {**unready("server"), "phase": "Pending"}
        await world.edit(PODS, f"{name}-pod-1", {"status": world.waiting[name]}, "status")
        world.waiting.clear()
    await world.edit(DEPLOYMENTS, name, {"status": {"conditions": [FAILURE]}}, "status")
    for _ in range(5):
        await world.reconcile()
    assert state(world) == ("False", "True", "PodsNotCreated")
    assert FAILURE["message"] in world.condition("Ready")["message"]
    assert world.condition("Available")["status"] == "True"
    assert world.reasons().count("PodsNotCreated") == 1
    await world.edit(DEPLOYMENTS, name, {"status": {"conditions": None}}, "status")
    if child == "stable":
        await world.edit(
            PODS, f"{name}-pod-1", {"status": world.api.objects[PODS, KEY[0], f"{name}-pod-0"]["status"]}, "status"
        )
    await world.reconcile()
    assert state(world) == ("True", "False", "Serving")


@asynchronous
async def test_a_first_version_without_a_router_says_why() -> None:
    world = World()
    world.waiting["fraud-router"] = {
        "phase": "Pending",
        "containerStatuses": [
            {
                "name": "router",
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": 'pull "haproxy:3.2": not found'}},
            }
        ],
    }
    await world.apply_model("v1")
    for _ in range(8):
        requeue_after = await world.tick()
    assert state(world) == ("False", "True", "ImageFailed")
    assert 'no router pod is ready: pull "haproxy:3.2": not found' in world.condition("Ready")["message"]
    assert requeue_after is None, "nothing changes until the pod does"
    world.waiting.clear()
    await world.edit(PODS, "fraud-router-pod-0", {"status": None}, "status")
    await world.run(world.is_ready)


@asynchronous
async def test_routers_that_fail_their_probe_are_not_called_starting() -> None:
    world = World()
    await world.serve("v1")
    world.waiting["fraud-router"] = unready("router", started=True)
    await world.tick()
    message = (
        "no router pod is ready: pod fraud-router-pod-0 runs and is not ready since"
        " 2027-01-15T08:00:01Z: read its log if this lasts"
    )
    assert world.condition("Ready")["message"] == world.condition("Available")["message"] == message
    assert state(world) == ("False", "False", "NotAvailable")


@asynchronous
async def test_no_reason_is_invented_for_pods_that_do_not_exist_yet() -> None:
    world = World()
    await world.serve("v1", serving={"replicas": 2})
    await world.apply_model("v1", serving={"replicas": 3})
    await world.reconcile()
    await world.reconcile()
    assert world.condition("Ready")["message"] == (
        "2 of 3 pods of v1 are ready: Kubernetes has not created the other pods yet"
    )
    await world.run(world.is_ready)


@asynchronous
async def test_routers_that_the_operator_cannot_reach_are_reported_and_asked_less_often() -> None:
    """As behind a NetworkPolicy: the pods are ready, and every request of the operator times out."""
    world = World()
    await world.serve("v1")
    router = world.child(PODS, "-router-pod-0")
    assert router is not None
    world.silent.add(router["status"]["podIP"])
    await world.apply_model("v2")
    for _ in range(9):
        await world.tick()
        assert world.condition("Stalled")["status"] == "False"
    for _ in range(8):
        requeue_after = await world.tick()
    assert requeue_after == 5.0
    assert state(world) == ("Unknown", "True", "NoAnswer")
    assert (
        "outer pod fraud-router-pod-0 does not answer the operator on port 9090" in world.condition("Ready")["message"]
    )
    assert world.reasons().count("NoAnswer") == 1
    world.silent.clear()
    await world.run(lambda: world.weight() == 5, limit=10)
    assert state(world)[1] == "False"


@asynchronous
async def test_a_candidate_gets_no_weight_before_its_service_answers() -> None:
    world = World()
    await world.serve("v1")
    await world.apply_model("v2")
    await world.tick()
    service = world.child(SERVICES, world.revision("candidate"))
    assert service is not None
    address = service["spec"]["clusterIP"]
    world.silent.add(address)
    for _ in range(5):
        await world.tick(20)
        assert world.weight() == 0
    assert "the Service of the revision does not answer yet" in world.condition("Ready")["message"]
    assert (address, 8080) in world.http.requests
    world.silent.clear()
    await world.run(lambda: world.weight() == 5, limit=4)
    await world.tick()
    assert (address, 8080) not in world.http.requests, "one response is enough"


@asynchronous
async def test_a_candidate_stands_in_for_stable_and_the_address_is_asked_for_it() -> None:
    world = World()
    await world.serve("v1")
    await world.apply_model("v2")
    await world.run(lambda: world.weight() == 5)
    name = f"fraud{world.revision('stable')}"
    world.waiting[name] = unready("server", started=True)
    await world.run(lambda: world.weight() == 100, limit=6)
    await world.tick()
    assert world.condition("Available")["status"] == "True"
    assert world.condition("Available")["message"].startswith("v2 answers at")
    assert world.reasons().count("StableDown") == 1
    assert world.status["stable"]["version"] == "v1"


@pytest.mark.parametrize("source", ["container", "kubelet", "webhook"])
@asynchronous
async def test_control_characters_of_others_reach_no_condition(source: str) -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07 digest\r\ndiffers \u202e\u2028" + "x" * 5000
    world = World()
    await world.apply_model("v1")
    await world.reconcile()
    name = f"fraud{world.revision('candidate')}"
    terminated = {"exitCode": 3, "message": hostile}
    if source == "container":
        world.waiting[name] = unready("server", state={"terminated": terminated})
    elif source == "kubelet":
        world.waiting[name] = unready("server", state={"waiting": {"reason": "ImagePullBackOff", "message": hostile}})
    else:
        await world.edit(DEPLOYMENTS, name, {"status": {"conditions": [{**FAILURE, "message": hostile}]}}, "status")
        world.waiting[name] = unready("server", state={"waiting": {"reason": "ContainerCreating"}})
    await world.tick()
    await world.tick()
    texts = [item["message"] for item in world.status["conditions"]]
    texts += [body["note"] for body in world.api.objects.values() if body.get("kind") == "Event"]
    assert any("[2J ]0;owned digest differs xxx" in text for text in texts)
    for text in texts:
        assert text.isprintable()
        assert len(text) < 800


@asynchronous
async def test_a_first_version_is_routed_before_it_serves() -> None:
    world = World()
    await world.apply_model("v1")
    await world.reconcile()
    assert world.condition("Available")["reason"] == "NotServing"
    await world.run(lambda: world.condition("Ready").get("reason") == "Routing")
    assert state(world) == ("False", "False", "Routing")
    await world.run(world.is_ready)
    assert world.condition("Available")["reason"] == "Serving"
