"""The chain of failures: each check alone, and which of several failures is reported."""

from __future__ import annotations

from dataclasses import replace

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.types import MLModel, Rollout
from mlmodel_operator.rollout import failures
from mlmodel_operator.rollout.context import Context, context_of
from mlmodel_operator.rollout.observed import Pod
from mlmodel_operator.rollout.pod_failures import Failure
from tests.unit.operator.rollout.world import IMAGE, OWNER, Behaviour, World, identity, serving, spec


def reason(failure: Failure | None) -> Reason | None:
    return failure.reason if failure else None


def canary() -> World:
    """Return a world in which v2 has just got its first weight, and fails every request from now on."""
    world = serving("v1", requests_per_second=40)
    world.change(spec("v2"))
    world.run(lambda w: w.status.phase == "Canary")
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    return world


def context(world: World, *pods: Pod) -> Context:
    """Return the context of this world; ``pods`` replace those of v2."""
    observed = world.observed()
    if pods:
        state = replace(observed.revision(identity("v2")), pods=pods)
        observed = replace(observed, revisions={**observed.revisions, identity("v2"): state})
    return context_of(MLModel(OWNER, world.generation, world.spec), observed, world.status, IMAGE, world.now)


def test_pods_that_fail_come_before_the_statistics_and_these_before_the_deadline() -> None:
    world = canary()
    world.now += 1
    world.followed = world.routes
    world._requests(400)  # decisive, but before the next reconcile
    candidate = world.status.candidate
    assert candidate is not None
    late = replace(candidate, down_since=Time(world.now - 1000))
    current = context(world)
    assert reason(failures.with_requests(current, candidate)) == Reason.ERROR_RATE
    assert reason(failures.with_requests(current, late)) == Reason.ERROR_RATE
    assert reason(failures.lost_all_pods(current, late)) == Reason.NOT_READY
    (pod,) = current.observed.revision(identity("v2")).pods
    crashed = context(world, Pod(pod.name, world.now, exit_reason="OOMKilled"))
    assert reason(failures.failed_too_often(crashed, candidate)) == Reason.ERROR_RATE
    assert reason(failures.with_requests(crashed, late)) == Reason.OUT_OF_MEMORY


def test_a_failure_that_a_pod_reports_comes_before_the_preparing_deadline() -> None:
    world = serving("v1")
    world.behaviours["v2"] = Behaviour(never_ready=True)
    world.change(spec("v2", rollout=Rollout(preparing_deadline_seconds=300)))
    world.run(lambda w: w.status.phase == "Preparing")
    candidate = world.status.candidate
    assert candidate is not None
    assert failures.before_requests(context(world), candidate) is None
    world.now += 301
    assert reason(failures.before_requests(context(world), candidate)) == Reason.NEVER_READY
    rejected = context(world, Pod("p", world.now, exit_code=3))
    assert reason(failures.before_requests(rejected, candidate)) == Reason.MODEL_REJECTED


def test_a_candidate_without_failures_is_not_rolled_back() -> None:
    world = serving("v1")
    world.change(spec("v2"))
    world.run(lambda w: w.status.phase == "Canary")
    candidate = world.status.candidate
    assert candidate is not None
    assert failures.with_requests(context(world), candidate) is None
    assert failures.failed_too_often(replace(context(world), evidence=None), candidate) is None
    assert failures.lost_all_pods(context(world), replace(candidate, down_since=Time(world.now))) is None
