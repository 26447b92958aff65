"""What the store keeps of objects: all that decisions read, and nothing that others repeat."""

from __future__ import annotations

from typing import Any

import pytest

from mlmodel_operator.observe import MAX_TEXT, SLIMS, clean, read_pod, read_workload, slim_deployment, slim_pod
from mlmodel_operator.rollout.observed import Pod
from mlmodel_operator.runtime.resource import (
    AUTOSCALERS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
    Body,
    controller_of,
    uid,
)

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
def test_a_decision_reads_the_same_from_a_slim_pod(state: str) -> None:
    body = STATES[state]
    slim = slim_pod(body, None)
    assert read(slim) == read(body)
    assert slim_pod(slim, slim) == slim
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
        known = slim_pod(body, known)
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


def test_a_slim_deployment_has_its_spec_and_the_failure() -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: used: 3", "lastUpdateTime": "1"}
    body = {
        "metadata": {**META, "annotations": {"mlmodel.dev/applied": "a"}},
        "spec": {"replicas": 3},
        "status": {"readyReplicas": 2, "conditions": [{"type": "Progressing", "status": "True"}, failure]},
    }
    slim = slim_deployment(body, None)
    assert slim["spec"] == body["spec"]
    assert slim["metadata"]["annotations"] == {"mlmodel.dev/applied": "a"}
    assert read_workload(slim, ()) == read_workload(body, ())
    later = {**failure, "message": "exceeded quota: used: 4", "lastUpdateTime": "2"}
    assert slim_deployment({**body, "status": {"conditions": [later]}}, slim) == slim
    assert read_workload(slim_deployment({**body, "status": {}}, slim), ()).replica_failure == ""


def test_other_kinds_keep_what_is_compared_or_read() -> None:
    body = {"metadata": META, "spec": {"minReplicas": 2}, "status": {"currentMetrics": [1]}}
    for r in (AUTOSCALERS, DISRUPTION_BUDGETS):
        assert SLIMS[r](body, None)["spec"] == body["spec"]
        assert "status" not in SLIMS[r](body, None)
    slim = SLIMS[REPLICA_SETS](body, None)
    assert set(slim) == {"metadata"}
    assert (uid(slim), controller_of(slim), slim["metadata"]["labels"]) == ("u", OWNER, META["labels"])
    assert SLIMS[PODS] is slim_pod
    assert SLIMS[DEPLOYMENTS] is slim_deployment


@pytest.mark.attack(held=True)
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


@pytest.mark.attack(held=True)
def test_texts_of_others_are_bounded() -> None:
    assert clean("x" * MAX_TEXT) == "x" * MAX_TEXT
    assert clean("x" * 100_000) == "x" * (MAX_TEXT - 1) + "…"
