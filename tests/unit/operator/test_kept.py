"""What the store keeps of objects: all that decisions read, and nothing that others repeat."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mlmodel_operator.kept import MAX_SPEC, MODELS, OVERSIZED, VIEWS, keep_deployment, keep_pod
from mlmodel_operator.names import FILES_OPTION
from mlmodel_operator.observe import MAX_TEXT, clean, read_pod, read_workload
from mlmodel_operator.rollout.observed import Pod
from mlmodel_operator.runtime.resource import (
    EVENTS,
    Body,
    Resource,
    controller_of,
    uid,
)
from tests.unit.operator.controller.world import World
from tests.unit.operator.runtime.support import asynchronous

OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": "rs", "controller": True}
META: Body = {
    "name": "p",
    "namespace": "bank",
    "uid": "u",
    "resourceVersion": "7",
    "creationTimestamp": "2027-01-15T08:00:00Z",
    "labels": {"mlmodel.dev/model": "fraud"},
    "annotations": {"mlmodel.dev/routes": "5f1c", "cni/status": "long"},
    "ownerReferences": [OWNER],
    "managedFields": [{}],
}


def pod(state: Body, *, restarts: int = 0, last: Body | None = None, started: bool = False, **status: Any) -> Body:
    container = {
        "name": "server",
        "containerID": "containerd://1",
        "restartCount": restarts,
        "started": started,
        "state": state,
        "lastState": {"terminated": last} if last else {},
    }
    sidecar = {"name": "istio-proxy", "restartCount": 9, "state": {"running": {}}}
    return {
        "metadata": META,
        "spec": {"nodeName": "n"},
        "status": {"containerStatuses": [sidecar, container], **status},
    }


def waits(reason: str, message: str = "") -> Body:
    return {"waiting": {"reason": reason, "message": message}}


STATES = {
    "creating": pod(waits("ContainerCreating")),
    "pull": pod(waits("ErrImagePull", "429")),
    "back-off": pod(waits("ImagePullBackOff", "Back-off")),
    "rejected": pod({"terminated": {"exitCode": 3, "message": "digest differs", "finishedAt": "now"}}),
    "killed": pod({"running": {}}, restarts=1, last={"exitCode": 137, "reason": "OOMKilled"}),
    "unready": pod({"running": {}}, started=True),
    "ready": pod({"running": {}}, started=True, podIP="10.0.0.1"),
    "no node": pod({}, conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]),
}


def fetches(state: Body, server: Body, **more: Any) -> Body:
    """Return a pod whose init container is in this state."""
    mesh = {"name": "istio-init", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}
    item = {"name": "fetch", "restartCount": 0, "state": state, "containerID": "containerd://2", **more}
    return pod(server, initContainerStatuses=[mesh, item])


DENIED: Body = {"exitCode": 4, "reason": "Error", "message": "wrong credentials"}
STATES |= {
    "mounting": fetches(waits("PodInitializing"), waits("PodInitializing")),
    "fetching": fetches({"running": {}}, waits("PodInitializing"), started=True),
    "denied": fetches(waits("CrashLoopBackOff"), waits("PodInitializing"), lastState={"terminated": DENIED}),
    "fetched": fetches({"terminated": {"exitCode": 0}}, {"running": {}}, restartCount=5, started=False),
}
READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2027-01-15T08:00:05Z"}
STATES["ready"]["status"]["conditions"] = [READY, {"type": "Initialized", "status": "True"}]


def read(body: Body) -> Pod:
    return read_pod(body)


@pytest.mark.parametrize("state", STATES)
def test_a_decision_reads_the_same_from_a_kept_pod(state: str) -> None:
    body = STATES[state]
    slim = keep_pod(body, None)
    assert read(slim) == read(body)
    assert keep_pod(slim, slim) == slim
    assert (uid(slim), controller_of(slim)) == ("u", OWNER)
    assert "spec" not in slim
    assert slim["metadata"]["annotations"] == {"mlmodel.dev/routes": "5f1c"}


def test_what_is_read_of_a_ready_and_of_a_started_pod() -> None:
    assert (read(STATES["ready"]).ready, read(STATES["ready"]).since) == (True, 1_800_000_005.0)
    assert (read(STATES["unready"]).ready, read(STATES["unready"]).started) == (False, True)
    assert read({}) == Pod("", 0.0)


def test_until_the_model_is_fetched_the_pod_is_in_the_state_of_its_init_container() -> None:
    mounting, fetching, denied, fetched = (read(STATES[name]) for name in ("mounting", "fetching", "denied", "fetched"))
    assert mounting.waiting == "ContainerCreating", "it waits for its volumes, as a pod without init containers does"
    assert (fetching.fetching, fetching.started, fetching.waiting) == (True, False, "")
    assert (denied.waiting, denied.exit_code, denied.exit_message) == ("CrashLoopBackOff", 4, "wrong credentials")
    assert (fetched.fetching, fetched.restarts, fetched.exit_code) == (False, 0, None)


def test_a_crash_loop_of_the_init_container_is_one_state() -> None:
    waiting = waits("PodInitializing")
    last = {"lastState": {"terminated": DENIED}}
    found = series(
        fetches(waits("CrashLoopBackOff", "20s"), waiting, restartCount=2, **last),
        fetches({"running": {}}, waiting, restartCount=3, started=True, **last),
        fetches({"terminated": DENIED}, waiting, restartCount=3, **last),
        fetches({"terminated": {"exitCode": 0}}, waiting, restartCount=4, **last),
        fetches({"terminated": {"exitCode": 0}}, {"running": {}}, restartCount=4, **last),
    )
    assert found[:3] == [found[0]] * 3
    assert (found[0].waiting, found[0].exit_message) == ("CrashLoopBackOff", "wrong credentials")
    assert [(item.waiting, item.exit_code, item.restarts) for item in found[3:]] == [
        ("PodInitializing", None, 0),
        ("", None, 0),
    ]


def series(*bodies: Body) -> list[Pod]:
    """Return what is read after each of these events."""
    known, found = None, []
    for body in bodies:
        known = keep_pod(body, known)
        found.append(read(known))
    return found


def test_kubelets_alternating_reasons_for_a_pull_are_one_state_with_the_first_message() -> None:
    first, *later = series(
        pod(waits("ErrImagePull", "429 Too Many Requests")),
        pod(waits("ImagePullBackOff", "Back-off pulling image")),
        pod(waits("ErrImagePull", "429 Too Many Requests, again")),
        pod(waits("ImagePullBackOff", "Back-off pulling image")),
    )
    assert (first.waiting, first.waiting_message) == ("ErrImagePull", "429 Too Many Requests")
    assert [(found.waiting, found.waiting_message) for found in later] == [
        ("ImagePullBackOff", "429 Too Many Requests")
    ] * 3
    assert (
        series(pod(waits("ErrImagePull", "429")), STATES["ready"], pod(waits("ErrImagePull", "404")))[
            -1
        ].waiting_message
        == "404"
    ), "a pod that ran in between starts anew"


def test_a_crash_loop_is_one_state_while_it_waits_runs_and_exits() -> None:
    exited = {"exitCode": 1, "reason": "Error", "message": "no such file"}
    found = series(
        pod(waits("CrashLoopBackOff", "back-off 20s"), restarts=2, last=exited),
        pod({"running": {}}, restarts=3, last=exited),
        pod({"terminated": exited}, restarts=3, last=exited),
        pod(waits("CrashLoopBackOff", "back-off 40s"), restarts=4, last=exited),
    )
    assert found == [found[0]] * 4
    assert (found[0].waiting, found[0].exit_message) == ("CrashLoopBackOff", "no such file")
    (recovered,) = series(pod({"running": {}}, restarts=5, last=exited, started=True))
    assert recovered.waiting == ""


def test_a_restart_of_a_container_that_had_started_is_counted() -> None:
    """A verdict is held while containers of stable restart."""
    runs: Body = {"running": {}}
    exited: Body = {"exitCode": 1, "reason": "Error"}
    found = series(
        pod(runs, restarts=5, started=True),
        pod({"terminated": exited}, restarts=5, last=exited),
        pod(runs, restarts=6, last=exited, started=True),
        pod(waits("CrashLoopBackOff"), restarts=7, last=exited),
        pod(waits("CrashLoopBackOff"), restarts=8, last=exited),
        pod(runs, restarts=9, last=exited, started=True),
    )
    assert [item.restarts for item in found] == [5, 5, 6, 7, 7, 9]


def test_another_number_of_nodes_is_no_news_and_another_cause_is() -> None:
    def unscheduled(message: str) -> Body:
        return pod({}, conditions=[{"type": "PodScheduled", "status": "False", "message": message}])

    texts = [found.unschedulable for found in series(*map(unscheduled, ("0/3 nodes: cpu", "0/4 nodes: cpu", "taint")))]
    assert texts == ["0/3 nodes: cpu", "0/3 nodes: cpu", "taint"]


DIGEST = "9f2c" * 16


def deployment(**spec: Any) -> Body:
    """Return a Deployment of a revision as the API server has it."""
    server = {"name": "server", "args": ["--uri", "x", FILES_OPTION, DIGEST], "ports": [{"name": "rehearsal"}]}
    template = {"spec": {"containers": [{"name": "mesh", "args": ["y" * 100_000]}, server]}}
    return {"metadata": META, "spec": {"replicas": 3, "template": template, **spec}}


def test_of_a_deployment_decisions_read_the_same_and_its_size_does_not_matter() -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: used: 3", "lastUpdateTime": "1"}
    body = deployment() | {
        "status": {"readyReplicas": 2, "conditions": [{"type": "Progressing", "status": "True"}, failure]},
    }
    kept = keep_deployment(body, None)
    assert read_workload(kept, ()) == read_workload(body, ())
    assert read_workload(kept, ()).files_sha256 == DIGEST
    assert size(kept) < 1500
    later = {**failure, "message": "exceeded quota: used: 4", "lastUpdateTime": "2"}
    assert keep_deployment({**body, "status": {"conditions": [later]}}, kept) == kept
    assert read_workload(keep_deployment({**body, "status": {}}, kept), ()).replica_failure == ""


def test_a_change_of_a_spec_is_seen_whether_it_is_small_or_large() -> None:
    for template in ({}, {"large": "z" * 100_000}):
        kept = [keep_deployment(deployment(revisionHistoryLimit=limit, template=template), None) for limit in (1, 1, 2)]
        assert kept[0] == kept[1] != kept[2]


# ---------------------------------------------------------------------------------------------------- sizes by tenants

FAT = {f"example.org/{number}": "x" * 1000 for number in range(250)}
OURS = {"mlmodel.dev/model": "fraud", "mlmodel.dev/revision": "5f1c2e9a"}
FAT_META: Body = META | {
    "labels": OURS | {f"example.org/{number}": "x" for number in range(5000)},
    "annotations": FAT | {"mlmodel.dev/approve": "5f1c2e9a" * 10_000},
    "ownerReferences": [OWNER | {"uid": f"{number}", "controller": False} for number in range(2000)] + [OWNER],
    "managedFields": [{"fieldsV1": {f"f:{number}": {} for number in range(50_000)}}],
    "finalizers": [f"example.org/{number}" for number in range(5000)],
}
FAT_BODY: Body = {
    "metadata": FAT_META,
    "data": {"routes": "x" * 900_000},
    "spec": {"fat": "x" * 900_000, "clusterIP": "10.0.0.1"},
    "status": {"fat": "x" * 900_000, "containerStatuses": STATES["pull"]["status"]["containerStatuses"]},
}


def size(body: Body) -> int:
    return len(msgspec.json.encode(body))


@pytest.mark.parametrize("r", VIEWS, ids=lambda r: r.plural)
def test_what_is_kept_of_an_object_is_small_whatever_its_size(r: Resource) -> None:
    view = VIEWS[r]
    for kept in (view.decode(msgspec.json.encode(FAT_BODY), r), view.keep(FAT_BODY, None)):
        assert size(kept) < 2000
        assert kept["metadata"]["labels"] == OURS
        assert controller_of(kept) == OWNER
        assert len(kept["metadata"]["annotations"]["mlmodel.dev/approve"]) == 256
        assert view.keep(kept, kept) == kept


@pytest.mark.parametrize("field", ["spec", "status"])
def test_a_model_that_is_too_large_is_not_kept(field: str) -> None:
    body: Body = {"metadata": META, "spec": {"model": {"uri": "builtin://iris"}}, "status": {"url": "x"}}
    kept = VIEWS[MODELS].decode(msgspec.json.encode(body), MODELS)
    assert (kept["spec"], kept["status"]) == (body["spec"], body["status"])
    body[field] = {"text": "x" * (4 * MAX_SPEC)}
    kept = VIEWS[MODELS].decode(msgspec.json.encode(body), MODELS)
    assert kept[OVERSIZED]["field"] == field
    assert "spec" not in kept
    assert "status" not in kept
    assert VIEWS[MODELS].keep(kept, None) == kept


@asynchronous
async def test_a_model_that_is_too_large_is_reported_once_and_goes_on_serving() -> None:
    world = World()
    await world.serve()
    before = {key: body for key, body in world.api.objects.items() if key[0] not in (MODELS, EVENTS)}
    await world.edit(MODELS, "fraud", {"spec": {"model": {"uri": "builtin://v2"}, "fat": "x" * MAX_SPEC}})
    for _ in range(3):
        assert await world.reconcile() is None
        assert set(world.api.writes()) <= {"create"}
    assert world.reasons().count("TooLarge") == 1
    assert {key: body for key, body in world.api.objects.items() if key[0] not in (MODELS, EVENTS)} == before
    await world.edit(MODELS, "fraud", {"spec": {"fat": None}})
    await world.run(lambda: world.status["phase"] == "Canary")


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("digest differs\n", "digest differs"),
        ("a\r\n\tb", "a b"),
        ("\x1b[31mred\x1b[0m\x07", "[31mred [0m"),
        ("right\u202eleft\u2066", "right left"),
        ("line\u2028paragraph\u2029", "line paragraph"),
        ("naïve — 模型", "naïve — 模型"),
        (None, ""),
        ("", ""),
    ],
)
def test_texts_of_others_are_one_line_without_control_characters(text: str | None, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_texts_of_others_are_bounded() -> None:
    assert clean("x" * MAX_TEXT) == "x" * MAX_TEXT
    assert clean("x" * 100_000) == "x" * (MAX_TEXT - 1) + "…"
