"""A model in a store: an init container fetches it, and its failures are reported like those of the server."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest

from mlmodel_operator import resources
from mlmodel_operator.names import TEMPLATE_ANNOTATION
from mlmodel_operator.runtime.resource import DEPLOYMENTS, Body
from tests.unit.operator.controller.world import World
from tests.unit.operator.runtime.support import asynchronous

SHA = "9f2c" * 16
INITIALIZING: Body = {"name": "server", "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}
DENIED = "127.0.0.1 rejected the credentials: check AWS_ACCESS_KEY_ID"
DIFFERS = f"mlmodel.json has sha256 {SHA}, but another is required"


def model(version: str, sha256: str = SHA) -> dict[str, Any]:
    return {"model": {"uri": f"s3://models/{version}", "sha256": sha256, "version": version}}


def fetching(state: Body, restarts: int = 0, last: Body | None = None) -> Body:
    """Return the status of a pod whose init container is in this state."""
    item = {
        "name": "fetch",
        "restartCount": restarts,
        "state": state,
        "lastState": {"terminated": last} if last else {},
    }
    return {"phase": "Pending", "initContainerStatuses": [item], "containerStatuses": [INITIALIZING]}


def exited(code: int, message: str) -> Body:
    return {"exitCode": code, "reason": "Error", "message": message}


async def candidate(status: Body) -> World:
    """Return a world in which v2 is the candidate and its pods have this status."""
    world = World()
    await world.serve("v1", **model("v1"))
    await world.apply_model("v2", **model("v2"))
    await world.reconcile()
    world.waiting[f"fraud{world.revision('candidate')}"] = status
    for _ in range(2):
        await world.tick()
    return world


@asynchronous
async def test_a_model_that_is_not_the_required_one_is_rejected_at_once() -> None:
    world = await candidate(fetching({"terminated": exited(3, DIFFERS)}))
    rejected = world.status["rejected"][0]
    assert (rejected["version"], rejected["reason"], rejected["message"]) == ("v2", "ModelRejected", DIFFERS)


@asynchronous
async def test_a_store_that_rejects_the_credentials_is_reported_and_rejects_no_model() -> None:
    last = exited(4, DENIED)
    states: list[Body] = [{"terminated": last}, {"waiting": {"reason": "CrashLoopBackOff"}}, {"running": {}}]
    for state in states:
        world = await candidate(fetching(state, restarts=5, last=last))
        assert "rejected" not in world.status
        assert DENIED in world.condition("Ready")["message"]
        assert world.condition("Ready")["status"] != "False", "v1 serves"


@pytest.mark.parametrize(
    ("state", "last", "reason"),
    [
        ({"waiting": {"reason": "CrashLoopBackOff"}}, exited(1, "internal error: KeyError"), "CrashLoop"),
        ({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, None, "OutOfMemory"),
        ({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}, None, "ImageFailed"),
    ],
)
@asynchronous
async def test_other_failures_of_the_init_container_are_those_of_the_pod(
    state: Body, last: Body | None, reason: str
) -> None:
    world = await candidate(fetching(state, restarts=2 if last else 0, last=last))
    assert world.status["rejected"][0]["reason"] == reason


@asynchronous
async def test_a_download_in_progress_is_called_so() -> None:
    world = await candidate(fetching({"running": {}}))
    assert " downloads the model" in world.condition("Ready")["message"]


@asynchronous
async def test_an_init_container_that_has_succeeded_after_failures_fails_nothing() -> None:
    done = fetching({"terminated": {"exitCode": 0, "reason": "Completed"}}, restarts=4, last=exited(1, "no"))
    server = {"name": "server", "restartCount": 0, "started": True, "state": {"running": {}}}
    ready = {"type": "Ready", "status": "True"}
    world = await candidate(done | {"phase": "Running", "containerStatuses": [server], "conditions": [ready]})
    assert "rejected" not in world.status
    assert world.status["candidate"]["readyReplicas"] == 1


def of_the_release_before(template: Body) -> Body:
    """Return the template that the release before this one built: the server itself downloaded the model."""
    former = copy.deepcopy(template)
    spec, (server,) = former["spec"], former["spec"]["containers"]
    former["metadata"].pop("annotations")
    spec.pop("initContainers")
    at = server["args"].index("--fetched")
    del server["args"][at : at + 2]
    server["env"] = [{"name": "MLMODEL_STORAGE_CREDENTIALS", "value": "/etc/mlmodel/storage"}]
    mount = {"name": "storage", "mountPath": "/etc/mlmodel/storage", "readOnly": True}
    server["volumeMounts"] = [item for item in server["volumeMounts"] if item["name"] != "model"] + [mount]
    spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] != "model"]
    return former


@asynchronous
async def test_pods_of_the_release_before_keep_their_template_and_the_next_revision_has_an_init_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    build = resources.deployment

    def as_before(*args: Any, **options: Any) -> Body:
        body = build(*args, **options)
        body["spec"]["template"] = of_the_release_before(body["spec"]["template"])
        digest = hashlib.sha256(json.dumps(body["spec"]["template"], sort_keys=True).encode()).hexdigest()[:16]
        body["metadata"]["annotations"][TEMPLATE_ANNOTATION] = digest
        return body

    with monkeypatch.context() as release_before:
        release_before.setattr(resources, "deployment", as_before)
        await world.serve("v1", **model("v1"))
    stable = world.revision("stable")
    deployment = world.child(DEPLOYMENTS, stable)
    assert deployment is not None
    former = deployment["spec"]["template"]
    world.restart()
    for _ in range(3):
        await world.tick()
        assert world.writes() == []
    assert world.is_ready()
    kept = world.child(DEPLOYMENTS, stable)
    assert kept is not None
    assert kept["spec"]["template"] == former
    await world.apply_model("v2", **model("v2"))
    await world.tick()
    following = world.child(DEPLOYMENTS, world.revision("candidate"))
    assert following is not None
    assert [item["name"] for item in following["spec"]["template"]["spec"]["initContainers"]] == ["fetch"]
    kept = world.child(DEPLOYMENTS, stable)
    assert kept is not None
    assert kept["spec"]["template"] == former
