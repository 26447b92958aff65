"""Bad days: what fails both versions condemns neither, is not recorded, and is tried again."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.types import ErrorGate, Gates, Rollout, Serving
from mlmodel_operator.rollout import hold
from tests.unit.operator.rollout.world import Behaviour, World, identity, serving, spec, steps

pytestmark = pytest.mark.simulation

SLOW = Rollout(steps=steps(25, min_seconds=600), bake_seconds=5)


def candidate_weight(world: World) -> int:
    return world.status.candidate.weight if world.status.candidate else 0


def held(world: World) -> int:
    """Return how many verdicts were held, by their Events."""
    return sum(notice.reason == Reason.STABLE_UNWELL for notice in world.notices)


def canary(seed: int = 1, rollout: Rollout = SLOW, *, replicas: int = 1, per_second: int = 50) -> World:
    """Return a world in which v2 has got some good requests."""
    world = serving("v1", seed, requests_per_second=per_second)
    one = Serving(replicas=replicas)
    world.change(spec("v1", serving=one))
    world.run(lambda w: w.status.replicas == f"{replicas}/{replicas}")
    world.change(spec("v2", rollout=rollout, serving=one))
    world.run(lambda w: w.status.phase == "Canary" and w.answered.get("v2", 0) > 50)
    world.notices.clear()
    return world


def starve(world: World, slow: float) -> None:
    """Make both versions slow: the candidate's single pod is hit three times as hard."""
    world.stable_ms = 240
    world.behaviours["v1"] = Behaviour(slow_rate=slow)
    world.behaviours["v2"] = Behaviour(slow_rate=min(1.0, 3 * slow))


@pytest.mark.parametrize("when", ["from the start", "during the canary", "while it bakes"])
def test_a_healthy_candidate_on_a_starved_node_is_never_condemned(when: str) -> None:
    every = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
    for run, slow in enumerate(every if when == "from the start" else every[::4]):
        rollout = Rollout(steps=steps(5, 50), bake_seconds=30, gates=Gates(ErrorGate(2)))
        world = serving("v1", seed=run)
        if when == "from the start":
            starve(world, slow)
        world.change(spec("v2", rollout=rollout))
        if when == "during the canary":
            world.run(lambda w: candidate_weight(w) == 50)
            starve(world, slow)
        if when == "while it bakes":
            world.run(lambda w: w.status.phase == "Baking")
            starve(world, slow)
        for _ in range(100):
            world.tick()
            assert not world.status.rejected, (slow, world.status.rejected)
    assert held(world) >= 1 or when == "while it bakes"  # stable is as slow with what it gets from the candidate
    world.behaviours |= {"v1": Behaviour(), "v2": Behaviour()}
    world.stable_ms = 12
    world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.version == "v2")
    assert not world.status.rejected


def test_a_held_candidate_gets_no_request_keeps_its_pods_and_starts_again_with_fresh_evidence() -> None:
    world = canary()
    pods = list(world.revisions[identity("v2")].pods)
    starve(world, 0.3)
    world.run(lambda w: held(w) == 1, limit=30)
    candidate = world.status.candidate
    assert candidate is not None
    assert (candidate.phase, candidate.weight, candidate.holds, candidate.evidence) == ("Preparing", 0, 1, None)
    ready = next(item for item in world.status.conditions if item.type == "Ready")
    assert (ready.status, ready.reason) == ("Unknown", Reason.STABLE_UNWELL)
    assert "held, not rolled back" in world.notices[-1].message
    assert "failed" in world.notices[-1].message
    assert "v1 gets all requests" in world.notices[-1].message
    world.behaviours |= {"v1": Behaviour(), "v2": Behaviour()}
    since = world.now
    world.tick()
    answered = world.answered["v2"]
    world.run(lambda w: candidate_weight(w) > 0, limit=30)
    assert 14 <= world.now - since <= 18
    assert world.answered["v2"] == answered
    assert list(world.revisions[identity("v2")].pods) == pods
    for _ in range(3):
        world.tick()
    candidate = world.status.candidate
    assert candidate is not None
    assert candidate.evidence is not None
    assert candidate.evidence.candidate.failed == 0, "what was counted before the hold does not count"
    assert candidate.evidence.candidate.requests <= world.answered["v2"] - answered


def test_a_candidate_that_starves_stable_returns_less_and_less_often() -> None:
    world = canary()
    starts, weight = [], candidate_weight(world)
    for _ in range(900):
        starve(world, 0.3 if candidate_weight(world) else 0.0)
        world.tick()
        if candidate_weight(world) and not weight:
            starts.append(world.now)
        weight = candidate_weight(world)
    waits = [later - earlier for earlier, later in pairwise(starts)]
    assert len(starts) >= 4
    assert waits == sorted(waits)
    assert max(waits) <= hold.LONGEST_BACKOFF_SECONDS + 30
    assert not world.status.rejected


def test_a_bad_candidate_that_was_held_is_rolled_back_once_stable_is_well() -> None:
    world = canary()
    world.behaviours |= {"v1": Behaviour(error_rate=0.3), "v2": Behaviour(error_rate=1.0)}
    world.run(lambda w: held(w) == 1, limit=30)
    world.behaviours["v1"] = Behaviour()
    world.run(lambda w: bool(w.status.rejected), limit=40)
    assert world.status.rejected[0].reason == Reason.ERROR_RATE


@pytest.mark.parametrize("base", [0.0, 0.01, 0.05])
def test_a_bad_candidate_beside_a_normal_stable_falls_at_once(base: float) -> None:
    """Also if stable always fails some requests."""
    gates = Gates(ErrorGate(1))
    world = serving("v1", requests_per_second=50)
    world.behaviours |= {"v1": Behaviour(error_rate=base), "v2": Behaviour(error_rate=base)}
    world.change(spec("v2", rollout=replace(SLOW, gates=gates)))
    world.run(lambda w: w.status.phase == "Canary" and w.answered.get("v2", 0) > 500)
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    world.run(lambda w: bool(w.status.rejected), limit=3)
    assert not held(world)


def test_a_crash_loop_while_stable_restarts_too_is_held_and_only_later_crashes_count() -> None:
    world = canary()
    crashing = {"restarts": 2, "exit_code": 1, "waiting": "CrashLoopBackOff"}
    world.revisions[identity("v1")].restarts = 1
    world.behaviours["v2"] = Behaviour(broken=crashing)
    world.run(lambda w: held(w) == 1, limit=5)
    world.behaviours["v2"] = Behaviour(broken={**crashing, "restarts": 3})  # still during the hold
    for _ in range(10):
        world.tick()
    world.behaviours["v2"] = Behaviour(broken={"restarts": 3, "exit_code": 1, "ready": True})
    world.run(lambda w: candidate_weight(w) > 0, limit=60)
    for _ in range(20):
        world.tick()
    assert not world.status.rejected
    world.behaviours["v2"] = Behaviour(broken={**crashing, "restarts": 4})
    world.run(lambda w: bool(w.status.rejected), limit=3)
    assert world.status.rejected[0].reason == Reason.CRASH_LOOP


def test_a_crash_loop_beside_a_normal_stable_is_rolled_back_at_once() -> None:
    world = canary()
    world.behaviours["v2"] = Behaviour(broken={"restarts": 2, "exit_code": 1, "waiting": "CrashLoopBackOff"})
    world.run(lambda w: bool(w.status.rejected), limit=2)
    assert world.status.rejected[0].reason == Reason.CRASH_LOOP


def test_a_model_that_the_server_rejects_is_not_held() -> None:
    world = canary(replicas=2)
    world.revisions[identity("v1")].pods.popitem()
    world.behaviours["v2"] = Behaviour(broken={"exit_code": 3, "exit_message": "digest differs"})
    world.tick()
    assert world.status.rejected[0].reason == Reason.MODEL_REJECTED


def test_a_verdict_while_stable_lacks_a_pod_is_held_until_it_is_ready_again() -> None:
    world = canary(replicas=2)
    world.behaviours["v1"] = Behaviour(seconds_to_ready=60)
    lost = next(iter(world.revisions[identity("v1")].pods))
    del world.revisions[identity("v1")].pods[lost]
    for pod in world.revisions[identity("v1")].pods:
        world.revisions[identity("v1")].pods[pod] = world.now - 100
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    world.run(lambda w: held(w) == 1, limit=5)
    for _ in range(30):
        world.tick()
    ready = next(item for item in world.status.conditions if item.type == "Ready")
    assert "lacks ready pods that it had" in ready.message
    assert candidate_weight(world) == 0
    world.run(lambda w: bool(w.status.rejected), limit=120)
    assert held(world) == 1


def test_without_a_cause_in_common_a_candidate_that_is_never_ready_is_rejected() -> None:
    world = serving("v1")
    world.behaviours["v2"] = Behaviour(never_ready=True)
    world.change(spec("v2", rollout=Rollout(preparing_deadline_seconds=30)))
    world.run(lambda w: bool(w.status.rejected), limit=35)
    assert world.status.rejected[0].reason == Reason.NEVER_READY


def test_the_wait_of_a_held_candidate_is_not_part_of_its_preparing_deadline() -> None:
    world = canary(rollout=replace(SLOW, preparing_deadline_seconds=10))
    starve(world, 0.3)
    world.run(lambda w: held(w) == 1, limit=30)
    world.behaviours |= {"v1": Behaviour(), "v2": Behaviour(never_ready=True)}
    for _ in range(20):
        world.tick()
    assert not world.status.rejected
    world.run(lambda w: bool(w.status.rejected), limit=15)
    assert world.status.rejected[0].reason == Reason.NEVER_READY


def test_poison_condemns_nobody_and_a_good_version_is_promoted_in_spite_of_it() -> None:
    world = serving("v1", requests_per_second=200, poison_rate=0.2)
    world.change(spec("v2", rollout=Rollout(bake_seconds=30, gates=Gates(ErrorGate(2)))))
    world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.version == "v2", limit=3000)
    assert not world.status.rejected
    assert not held(world)


def test_poison_does_not_promote_a_version_that_fails() -> None:
    world = serving("v1", requests_per_second=100, poison_rate=0.2)
    world.behaviours["v2"] = Behaviour(error_rate=0.3)
    world.change(spec("v2", rollout=Rollout(bake_seconds=5)))
    for _ in range(600):
        world.tick()
        assert candidate_weight(world) <= 5
    assert world.status.stable is not None
    assert world.status.stable.version == "v1"


def test_a_settled_model_and_a_rollout_write_no_more_because_of_holds() -> None:
    world = canary()
    starve(world, 0.3)
    world.run(lambda w: held(w) == 1, limit=30)
    world.status_writes = 0
    for _ in range(13):
        world.tick()
    assert world.status_writes <= 2  # the routers' confirmation
