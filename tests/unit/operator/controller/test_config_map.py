"""A model in a ConfigMap without a digest in the spec: each pod of a revision serves the files that it started with."""

from __future__ import annotations

from typing import Any

import pytest

from mlmodel_operator.config_maps import READ_SECONDS
from mlmodel_operator.controller import MODELS
from mlmodel_operator.observe import files_digest
from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.resource import CONFIG_MAPS, CONTROLLER_REVISIONS, DEPLOYMENTS, PODS, Body
from tests.unit.operator.controller.world import DOWN, KEY, QUOTA, World
from tests.unit.operator.runtime.support import asynchronous

READ = ("get", "configmaps", "fraud-v1")
FILES = {"mlmodel.json": '{"schema": 1}', "model.onnx": "a"}
CHANGED = {**FILES, "model.onnx": "b"}
REJECTED: Body = {
    "phase": "Running",
    "containerStatuses": [
        {
            "name": "server",
            "restartCount": 1,
            "state": {"terminated": {"exitCode": 3, "message": "ConfigMap fraud-v1 was changed after …"}},
        }
    ],
}


def model(version: str = "v1", **more: Any) -> dict[str, Any]:
    return {"model": {"uri": f"configmap://fraud-{version}", **more}}


def digest(files: dict[str, str]) -> str:
    return files_digest({"data": files})


def required(world: World, revision: str) -> str:
    """Return the digest that the pods of a revision require; empty if they require none."""
    deployment = world.child(DEPLOYMENTS, revision)
    assert deployment is not None
    args = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    return str(args[args.index("--files-sha256") + 1]) if "--files-sha256" in args else ""


async def edit(world: World, files: dict[str, str], name: str = "fraud-v1") -> None:
    await world.edit(CONFIG_MAPS, name, {"data": files})


async def serving(**spec: Any) -> World:
    world = World()
    await world.create_config_map("fraud-v1", FILES)
    await world.serve("v1", **model(), **spec)
    return world


@asynchronous
async def test_the_config_map_is_read_once_and_its_digest_is_kept() -> None:
    world = World()
    await world.create_config_map("fraud-v1", FILES)
    await world.apply_model("v1", **model())
    reads = 0
    for _ in range(20):
        await world.tick()
        reads += world.api.calls.count(READ)
    assert world.is_ready()
    assert reads == 1
    assert required(world, world.revision("stable")) == digest(FILES)
    assert world.status["stable"]["digest"] == f"sha256:{digest(FILES)}"
    assert world.status["stable"]["snapshot"]["filesSha256"] == digest(FILES)


@asynchronous
async def test_the_digest_is_no_part_of_the_revision() -> None:
    one, other = await serving(), World()
    await other.create_config_map("fraud-v1", CHANGED)
    await other.serve("v1", **model())
    assert one.revision("stable") == other.revision("stable")
    assert one.status["stable"]["digest"] != other.status["stable"]["digest"]


@asynchronous
async def test_an_edited_config_map_changes_no_pod_and_a_deleted_deployment_gets_the_first_digest() -> None:
    world = await serving()
    stable = world.revision("stable")
    await edit(world, CHANGED)
    world.restart()
    await world.apply_model("v1", **model(), serving={"replicas": 3})
    await world.run(world.is_ready)
    assert required(world, stable) == digest(FILES)
    del world.api.objects[DEPLOYMENTS, KEY[0], f"fraud{stable}"]
    await world.run(lambda: world.child(DEPLOYMENTS, stable) is not None)
    assert required(world, stable) == digest(FILES)


@asynchronous
async def test_no_deployment_exists_before_the_config_map_which_is_polled_slowly() -> None:
    world = World()
    await world.apply_model("v1", **model())
    await world.reconcile()
    suffix = world.revision("candidate")
    reads, started = 0, world.clock.now()
    for _ in range(40):
        requeue_after = await world.tick()
        reads += world.api.calls.count(READ)
        assert world.child(DEPLOYMENTS, suffix) is None
        assert requeue_after is not None
        assert requeue_after >= READ_SECONDS
    assert 2 < reads <= (world.clock.now() - started) / READ_SECONDS + 1
    assert "ConfigMap fraud-v1 not found in namespace bank: apply it" in world.condition("Ready")["message"]
    await world.create_config_map("fraud-v1", FILES)
    await world.run(world.is_ready, limit=12)
    assert required(world, suffix) == digest(FILES)


@asynchronous
async def test_a_config_map_that_is_applied_right_after_its_model_is_not_reported() -> None:
    world = World()
    await world.apply_model("v1", **model())
    for _ in range(3):
        await world.tick()
    await world.create_config_map("fraud-v1", FILES)
    await world.run(world.is_ready, limit=12)
    assert "ConfigMapMissing" not in world.reasons()


@asynchronous
async def test_a_settled_model_reads_no_config_map() -> None:
    world = await serving()
    await edit(world, CHANGED)
    for _ in range(3):
        assert await world.tick() is None
        assert world.api.calls == []


@asynchronous
async def test_a_digest_in_the_spec_needs_no_other() -> None:
    world = World()
    await world.create_config_map("fraud-v1", FILES)
    await world.apply_model("v1", **model(sha256="9f2c" * 16))
    await world.run(world.is_ready)
    assert required(world, world.revision("stable")) == ""
    assert world.status["stable"]["digest"] == "sha256:" + "9f2c" * 16
    assert "filesSha256" not in world.status["stable"]["snapshot"]


@pytest.mark.parametrize("error", [ApiError(403, "Forbidden", "the operator may not"), DOWN], ids=["forbidden", "down"])
@asynchronous
async def test_a_config_map_that_cannot_be_read_is_named_and_read_again(error: ApiError) -> None:
    world = World()
    await world.create_config_map("fraud-v1", FILES)
    world.api.refusals[READ] = error
    await world.apply_model("v1", **model())
    for _ in range(4):
        await world.tick()
    message = world.condition("Ready")["message"]
    assert f"the operator cannot read ConfigMap fraud-v1 in namespace bank ({error.message})" in message
    assert world.reasons()[-1] == "ConfigMapUnreadable"
    assert world.child(DEPLOYMENTS, world.revision("candidate")) is None
    world.api.refusals.clear()
    await world.run(world.is_ready, limit=12)


@asynchronous
async def test_the_deployment_decides_after_a_crash_between_two_writes() -> None:
    """Killed after the Deployment and before the status, while somebody edits the ConfigMap."""
    world = World()
    await world.create_config_map("fraud-v1", FILES)
    await world.apply_model("v1", **model())
    await world.reconcile()
    suffix = world.revision("candidate")
    world.api.refusals["update", "mlmodels", "fraud"] = DOWN
    with pytest.raises(ApiError):
        await world.reconcile()
    assert required(world, suffix) == digest(FILES)
    assert "digest" not in world.status["candidate"]
    world.api.refusals.clear()
    await edit(world, CHANGED)
    world.restart()
    await world.run(world.is_ready)
    assert required(world, suffix) == digest(FILES)
    assert world.status["stable"]["digest"] == f"sha256:{digest(FILES)}"


@asynchronous
async def test_a_deployment_that_is_rejected_keeps_the_digest() -> None:
    world = World()
    await world.create_config_map("fraud-v1", FILES)
    await world.apply_model("v1", **model())
    await world.reconcile()
    suffix = world.revision("candidate")
    world.api.refusals["apply", "deployments", f"fraud{suffix}"] = QUOTA
    await world.reconcile()
    await edit(world, CHANGED)
    world.api.refusals.clear()
    await world.run(world.is_ready)
    assert required(world, suffix) == digest(FILES)


@asynchronous
async def test_a_new_revision_gets_the_files_of_its_own_start() -> None:
    world = await serving()
    await edit(world, CHANGED)
    await world.apply_model("v1b", **model())
    await world.run(lambda: world.weight() == 5)
    assert required(world, world.revision("candidate")) == digest(CHANGED)
    assert required(world, world.revision("stable")) == digest(FILES)
    # A read of the hint, for pods that mount, must not be taken for the next revision.
    await edit(world, FILES)
    await world.apply_model("v1c", **model())
    await world.run(lambda: world.weight() == 5 and world.status["candidate"]["version"] == "v1c")
    assert required(world, world.revision("candidate")) == digest(FILES)


@asynchronous
async def test_a_revision_from_the_release_before_keeps_its_template_and_its_status() -> None:
    """Its Deployment requires no digest, and a restart of the operator adds none."""
    world = await serving()
    stable = world.revision("stable")
    name = f"fraud{stable}"
    body = world.child(DEPLOYMENTS, stable)
    assert body is not None
    (container,) = body["spec"]["template"]["spec"]["containers"]
    args = [item for item in container["args"] if item not in ("--files-sha256", digest(FILES))]
    template = {"spec": {"containers": [{**container, "args": args}]}}
    change = {"metadata": {"annotations": {"mlmodel.dev/template": "older"}}, "spec": {"template": template}}
    await world.edit(DEPLOYMENTS, name, change)
    for key in [key for key in world.api.objects if key[0] == CONTROLLER_REVISIONS]:
        del world.api.objects[key]
    snapshot = {**world.status["stable"]["snapshot"], "filesSha256": None}
    await world.edit(MODELS, "fraud", {"status": {"stable": {"snapshot": snapshot, "digest": None}}}, "status")
    world.restart()
    for _ in range(3):
        await world.tick()
    assert required(world, stable) == ""
    assert world.is_ready()
    assert "digest" not in world.status["stable"]


@asynchronous
async def test_stable_pods_that_reject_a_changed_model_are_reported_once() -> None:
    world = await serving(serving={"replicas": 2})
    stable = f"fraud{world.revision('stable')}"
    await edit(world, CHANGED)
    await world.edit(  # the second pod was evicted and started again
        PODS, f"{stable}-pod-1", {"status": {**REJECTED, "conditions": None}}, "status"
    )
    world.waiting.clear()
    for _ in range(5):
        await world.reconcile()
    ready = world.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ModelChanged")
    assert ready["message"] == (
        "new pods of v1 do not start: ConfigMap fraud-v1 was changed after …. v1 serves all requests"
    )
    assert world.condition("Stalled")["status"] == "True"
    assert world.condition("Available")["status"] == "True"
    assert world.condition("Available")["reason"] == "ModelChanged"
    assert world.reasons().count("ModelChanged") == 1
    assert await world.reconcile() is None, "no poll: only a change of the pods ends it"
