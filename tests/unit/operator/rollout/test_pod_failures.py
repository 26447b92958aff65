"""Failures that pods report: when they reject a revision, and what the messages say about pods that are not ready."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from mlmodel_operator.api.status import Status
from mlmodel_operator.api.types import Rollout, Serving
from mlmodel_operator.rollout.observed import Pod
from mlmodel_operator.rollout.pod_failures import failure_of, pod_failure, why_not_ready
from tests.unit.operator.rollout.world import Behaviour, World, identity, serving, spec, steps

NOW = 1_800_000_000.0
OLD = NOW - 15
FAILURES = {
    "ModelRejected": Pod("bad", OLD, exit_code=3, exit_message="digest differs"),
    "OutOfMemory": Pod("bad", OLD, exit_code=137, exit_reason="OOMKilled"),
    "ImageFailed": Pod("bad", OLD, waiting="ErrImagePull", waiting_message="429 Too Many Requests"),
    "CrashLoop": Pod("bad", OLD, restarts=2, exit_code=1),
}
READY = Pod("good", OLD, ready=True)
STARTING = Pod("starting", OLD)


@pytest.mark.parametrize("reason", FAILURES)
@pytest.mark.parametrize(
    ("failing", "starting", "ready", "is_rejected"),
    [
        (1, 0, 0, True),
        (2, 0, 0, True),
        (1, 1, 0, True),  # no pod serves
        (1, 0, 1, False),  # one of two: its node may be the cause
        (1, 0, 10, False),
        (2, 0, 10, False),
        (9, 0, 10, False),
        (2, 0, 2, True),  # every new pod, and as many as serve
        (2, 1, 2, False),  # one may still get ready
        (9, 0, 1, True),
        (10, 0, 10, True),
        (3, 0, 2, True),
    ],
)
def test_one_pods_trouble_does_not_outweigh_pods_that_serve(
    reason: str, failing: int, starting: int, ready: int, is_rejected: bool
) -> None:
    pods = [READY] * ready + [FAILURES[reason]] * failing + [STARTING] * starting
    random.Random(1).shuffle(pods)
    failure = pod_failure(pods, NOW)
    assert (failure.reason if failure else None) == (reason if is_rejected else None)


def test_a_terminating_or_ready_pod_does_not_fail_its_revision() -> None:
    for pod in FAILURES.values():
        assert pod_failure([replace(pod, terminating=True)], NOW) is None
        assert pod_failure([replace(pod, ready=True)], NOW) is None, "its last container failed, this one serves"
        assert pod_failure([pod, replace(READY, terminating=True)], NOW) is not None


def test_a_node_that_cannot_pull_is_no_failure_of_an_image_that_was_pulled_before() -> None:
    for reason, pod in FAILURES.items():
        failure = pod_failure([pod], NOW, has_served=True)
        assert (failure is None) == (reason == "ImageFailed")


def test_a_first_failure_to_pull_counts_after_ten_seconds_and_a_back_off_at_once() -> None:
    first = Pod("p", NOW, waiting="ErrImagePull")
    assert failure_of(first, NOW + 9.9) is None
    assert failure_of(first, NOW + 10) is not None
    assert failure_of(replace(first, waiting="ImagePullBackOff"), NOW) is not None


@pytest.mark.parametrize(
    ("pods", "why"),
    [
        ([], "no pod exists yet"),
        ([READY, READY], "Kubernetes has not created the other pods yet"),
        ([replace(READY, terminating=True)], "the pods terminate; Kubernetes has not created others yet"),
        ([READY, STARTING], "the pods are starting"),
        ([replace(STARTING, waiting="ContainerCreating")], "the pods are starting"),
        (
            [Pod("p", OLD, started=True, since=NOW)],
            "pod p runs and is not ready since 2027-01-15T08:00:00Z: read its log if this lasts",
        ),
        ([replace(READY, exit_message="an earlier container"), STARTING], "the pods are starting"),
        (
            [Pod("p", OLD, started=True, exit_message="earlier")],
            "pod p runs and is not ready: read its log if this lasts",
        ),
        ([Pod("p", OLD, unschedulable="0/3 nodes are available")], "0/3 nodes are available"),
        ([Pod("p", OLD, waiting="CrashLoopBackOff", exit_code=4, exit_message="no route to host")], "no route to host"),
        (
            [Pod("p", OLD, waiting="CrashLoopBackOff", exit_code=0)],
            "the container exits repeatedly (exit code 0): read its log",
        ),
        ([Pod("p", OLD, waiting="Odd")], "the container is waiting: Odd"),
        ([FAILURES["ImageFailed"]], "429 Too Many Requests"),
    ],
)
def test_why_pods_are_not_ready_is_what_the_pods_report(pods: list[Pod], why: str) -> None:
    assert why_not_ready(pods, "") == why
    assert why_not_ready(pods, "a quota") == "a quota"


def at_half(replicas: int = 10) -> World:
    """Return a world in which v2 gets half of the requests, with all its pods ready."""
    world = serving("v1")
    full = Serving(replicas=replicas)
    world.change(spec("v1", serving=full))
    world.run(lambda w: w.status.replicas == f"{replicas}/{replicas}")
    rollout = Rollout(steps=steps(50), bake_seconds=5, preparing_deadline_seconds=60)
    world.change(spec("v2", serving=full, rollout=rollout))
    world.run(lambda w: w.status.phase == "Canary")
    return world


@pytest.mark.parametrize("reason", FAILURES)
def test_an_eleventh_pod_in_trouble_does_not_roll_back_ten_that_serve(reason: str) -> None:
    world = at_half()
    world.more_pods["v2"] = (replace(FAILURES[reason], created=world.now - 15),)
    for _ in range(15):
        world.tick()
        assert not world.status.rejected
    ready = next(item for item in world.status.conditions if item.type == "Ready")
    assert ready.status == "Unknown"
    world.more_pods.clear()
    world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.version == "v2")


@pytest.mark.parametrize("reason", FAILURES)
def test_a_candidate_whose_two_pods_both_fail_falls_at_once(reason: str) -> None:
    world = at_half(2)
    fields = {name: getattr(FAILURES[reason], name) for name in ("waiting", "waiting_message", "restarts")}
    more = {name: getattr(FAILURES[reason], name) for name in ("exit_code", "exit_reason", "exit_message")}
    world.behaviours["v2"] = Behaviour(broken=fields | more)
    if reason == "ImageFailed":
        world.requests_per_second = 0  # the pods are new ones, so what fails in these seconds does not count
        world.run(lambda w: bool(w.status.rejected), limit=70)
        assert world.status.rejected[0].reason == "NotReady", "its image could be pulled before"
        assert "429" in world.status.rejected[0].message
    else:
        world.run(lambda w: bool(w.status.rejected), limit=5)
        assert world.status.rejected[0].reason == reason


@pytest.mark.simulation
@pytest.mark.parametrize("reason", FAILURES)
def test_a_rollout_whose_further_pods_all_fail_ends_at_the_deadline_with_the_reason(reason: str) -> None:
    world = serving("v1")
    full = Serving(replicas=2)
    world.change(spec("v1", serving=full))
    world.run(lambda w: w.status.replicas == "2/2")
    rollout = Rollout(steps=steps(25, 75), bake_seconds=5, preparing_deadline_seconds=60)
    world.change(spec("v2", serving=full, rollout=rollout))
    world.run(lambda w: w.status.phase == "Canary")
    world.behaviours["v2"] = Behaviour(seconds_to_ready=0.0)
    observed = world.observed

    def with_failing_pod(status: Status | None = None) -> object:
        """The second pod of v2 fails for ever."""
        current = observed(status)
        state = current.revision(identity("v2"))
        pods = tuple(
            pod if number == 0 else replace(FAILURES[reason], name=pod.name, created=pod.created)
            for number, pod in enumerate(state.pods)
        )
        return replace(current, revisions={**current.revisions, identity("v2"): replace(state, pods=pods)})

    world.observed = with_failing_pod  # type: ignore[method-assign,assignment]
    world.run(lambda w: w.status.candidate is not None and w.status.candidate.short_since is not None, limit=200)
    since = world.now
    world.run(lambda w: bool(w.status.rejected), limit=90)
    assert 59 <= world.now - since <= 63
    rejected = world.status.rejected[0]
    assert rejected.reason == "NeverReady"
    assert rejected.message.startswith("1 of 2 pods are ready after 60 s: ")
    text = {"OutOfMemory": "limit", "CrashLoop": "exit code 1"}
    expected = text.get(reason, FAILURES[reason].exit_message or FAILURES[reason].waiting_message)
    assert expected in rejected.message
    assert world.user_errors == 0


def test_a_pod_on_a_lost_node_does_not_end_a_rollout() -> None:
    """Kubernetes replaces it after five minutes; it was ready, so the version can run."""
    world = at_half()
    world.change(spec("v2", serving=Serving(replicas=10), rollout=Rollout(steps=steps(50, min_seconds=900))))
    name = next(iter(world.revisions[identity("v2")].pods))
    observed = world.observed

    def with_lost_pod(status: Status | None = None) -> object:
        current = observed(status)
        state = current.revision(identity("v2"))
        pods = tuple(replace(pod, ready=False, started=True) if pod.name == name else pod for pod in state.pods)
        return replace(current, revisions={**current.revisions, identity("v2"): replace(state, pods=pods)})

    world.observed = with_lost_pod  # type: ignore[method-assign,assignment]
    for _ in range(80):
        world.tick(5.0)
    assert not world.status.rejected
