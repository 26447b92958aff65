"""What the controller writes and reads for a rehearsal."""

from __future__ import annotations

from mlmodel_operator.controller import MODELS
from mlmodel_operator.names import ACCEPT_ANNOTATION, REHEARSAL_ANNOTATION
from mlmodel_operator.runtime.resource import CONFIG_MAPS, DEPLOYMENTS, PODS, Body
from tests.unit.operator.controller.world import DOWN, World
from tests.unit.operator.runtime.support import asynchronous


def data(world: World) -> Body:
    """Return what the ConfigMap with the routes has."""
    body = world.child(CONFIG_MAPS, "-routes")
    assert body is not None
    return dict(body["data"])


def annotation(world: World, role: str) -> str | None:
    """Return the annotation of the pod of one side."""
    pod = world.child(PODS, f"{world.revision(role)}-pod-0")
    assert pod is not None
    found: str | None = (pod["metadata"].get("annotations") or {}).get(REHEARSAL_ANNOTATION)
    return found


async def in_validating(world: World) -> None:
    """Bring a world to Validating, with the file written."""
    await world.serve("v1")
    await world.apply_model("v2")
    await world.run(lambda: world.status.get("phase") == "Validating")
    await world.reconcile()


@asynchronous
async def test_the_file_is_beside_the_routes_and_the_pods_of_both_sides_refresh_it() -> None:
    world = World()
    await world.serve("v1")
    assert data(world)["rehearsal"] == ""
    assert annotation(world, "stable") is None
    await world.apply_model("v2")
    await world.run(lambda: world.status.get("phase") == "Validating")
    assert data(world)["rehearsal"] == "", "first the status, then the file"
    await world.reconcile()
    file = data(world)["rehearsal"]
    candidate = world.revision("candidate").removeprefix("-")
    assert file.split()[:2] == ["candidate", candidate]
    assert file.endswith(" none\n")
    assert annotation(world, "stable") == annotation(world, "candidate") == file
    await world.reconcile()
    assert {name for _, plural, name in world.writes() if plural == "pods"} <= {"fraud-router-pod-0"}, "once"
    await world.run(world.is_ready, requests=2000, limit=100)
    assert data(world)["rehearsal"] == ""
    assert annotation(world, "stable") is None


@asynchronous
async def test_a_candidate_that_somebody_else_names_is_removed() -> None:
    world = World()
    await world.serve("v1")
    await world.edit(CONFIG_MAPS, "fraud-routes", {"data": {"rehearsal": f"candidate evil {'0' * 64} none\n"}})
    await world.reconcile()
    assert data(world)["rehearsal"] == ""


@asynchronous
async def test_a_pod_that_cannot_be_annotated_rehearses_nothing_and_the_rollout_goes_on() -> None:
    world = World()
    await world.serve("v1")
    world.api.refusals["patch", "pods", f"fraud{world.revision('stable')}-pod-0"] = DOWN
    await world.apply_model("v2")
    await world.run(lambda: world.weight() == 5, limit=150)


@asynchronous
async def test_only_pods_that_the_deployments_own_are_read() -> None:
    world = World()
    await world.serve("v1")
    pod = world.child(PODS, f"{world.revision('stable')}-pod-0")
    assert pod is not None
    meta = {"namespace": "bank", "name": "stranger", "labels": pod["metadata"]["labels"]}
    status = {**pod["status"], "podIP": "10.9.9.9"}
    await world.api.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": status})
    await in_validating(world)
    candidate = world.child(PODS, f"{world.revision('candidate')}-pod-0")
    assert candidate is not None
    read = {address for address, port in world.http.requests if port == 8090}
    assert read == {pod["status"]["podIP"], candidate["status"]["podIP"]}


@asynchronous
async def test_nothing_is_read_or_written_without_a_rehearsal() -> None:
    rollout = {"bakeSeconds": 5, "rehearsal": {"requests": 0}}
    world = World()
    await world.serve("v1", rollout=rollout)
    deployment = world.child(DEPLOYMENTS, world.revision("stable"))
    assert deployment is not None
    assert "/etc/mlmodel/rehearsal', 'readOnly'" not in str(deployment["spec"]), "no volume"
    await world.apply_model("v2", rollout={"bakeSeconds": 5})
    await world.run(lambda: world.weight() == 5)
    await world.tick()
    assert 8090 not in [port for _, port in world.http.requests]
    assert data(world)["rehearsal"] == ""
    assert "No rehearsal: the pods of v1 were started without one" in world.condition("Ready")["message"]


@asynchronous
async def test_a_page_of_another_revision_is_not_that_of_the_pod() -> None:
    """As when the address of a pod that has gone is that of another pod now."""
    world = World()
    await in_validating(world)
    world.page_revision = "deadbeef"
    for _ in range(5):
        await world.tick()
    assert world.status["phase"] == "Validating"
    assert world.status["candidate"]["rehearsal"]["requests"] == 0
    world.page_revision = ""
    await world.run(lambda: world.weight() == 5)


@asynchronous
async def test_pages_that_do_not_answer_are_named_in_ready() -> None:
    world = World()
    await world.serve("v1")
    pod = world.child(PODS, f"{world.revision('stable')}-pod-0")
    assert pod is not None
    world.silent.add(pod["status"]["podIP"])
    await world.apply_model("v2")
    await world.run(lambda: world.weight() == 5, limit=50)
    await world.tick()
    assert "1 of 1 pods of v1 do not answer the operator on port 8090" in world.condition("Ready")["message"]


@asynchronous
async def test_the_status_shows_what_was_repeated() -> None:
    world = World()
    world.kept = 1000
    await in_validating(world)
    await world.run(lambda: world.weight() == 5)
    found = world.status["candidate"]["rehearsal"]
    assert (found["requests"], found["failedOnlyOnCandidate"], found["left"]) == (1000, 0, 0)
    assert found["certifiedPercent"] < 1
    assert found["message"].startswith("1000 different requests of v1 were repeated")


@asynchronous
async def test_an_annotation_of_the_model_is_read() -> None:
    world = World()
    await world.serve("v1")
    await world.edit(MODELS, "fraud", {"metadata": {"annotations": {ACCEPT_ANNOTATION: "x", "other": "y"}}})
    await world.apply_model("v2")
    await world.run(lambda: world.weight() == 5)
    revision = world.revision("candidate").removeprefix("-")
    await world.edit(MODELS, "fraud", {"metadata": {"annotations": {ACCEPT_ANNOTATION: revision}}})
    await world.run(world.is_ready, requests=2000, limit=100)
    assert f"The annotation {ACCEPT_ANNOTATION} accepted" in world.status["history"][0]["message"]
