"""Stable has no ready pod: the candidate answers, and the rollout decides about it as before."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from mlmodel_operator.api.types import Rollout, Serving
from mlmodel_operator.rollout.context import STABLE_DOWN_SECONDS
from mlmodel_operator.rollout.needs import answering_side, needs_services
from tests.unit.operator.rollout.world import Behaviour, World, identity, serving, spec

pytestmark = pytest.mark.simulation

DOWN = Behaviour(never_ready=True)


def weight(world: World) -> int:
    """Return the weight of the candidate in the routes."""
    return world.routes.weight if world.routes else 0


def message(world: World, kind: str = "Ready") -> str:
    return next(item.message for item in world.status.conditions if item.type == kind)


def reasons(world: World) -> list[str]:
    return [notice.reason for notice in world.notices]


def rolling_out(phase: str = "Canary", *, requests: int = 0, **rollout: object) -> World:
    """Return a world in which v2 is in this phase, with all its pods ready."""
    world = serving("v1", requests_per_second=requests)
    world.change(spec("v2", rollout=Rollout(bake_seconds=5, **rollout)))  # type: ignore[arg-type]
    world.run(lambda w: w.status.phase == phase and w.status.candidate is not None)
    world.run(lambda w: w.status.candidate is not None and w.status.candidate.ready_replicas > 0, limit=10)
    world.tick()
    return world


@pytest.mark.parametrize(("phase", "paused"), [("Preparing", True), ("Canary", False), ("Canary", True)])
def test_a_ready_candidate_serves_within_seconds_and_keeps_its_place_in_the_rollout(phase: str, paused: bool) -> None:
    world = rolling_out(phase, paused=paused and phase == "Preparing")
    world.change(spec("v2", rollout=Rollout(bake_seconds=5, paused=paused)))
    world.tick()
    before = world.status.candidate
    assert before is not None
    world.behaviours["v1"] = DOWN
    since = world.now
    world.run(lambda w: weight(w) == 100, limit=10)
    assert STABLE_DOWN_SECONDS <= world.now - since <= STABLE_DOWN_SECONDS + 2
    world.tick()
    candidate = world.status.candidate
    assert candidate is not None
    assert (candidate.phase, candidate.weight, candidate.step) == (phase, before.weight, before.step)
    assert world.condition("Available") == "True"
    assert "v2 gets all requests, because v1 has no ready pod" in message(world)
    assert reasons(world).count("StableDown") == 1
    for _ in range(300):
        world.tick()
    assert world.status.stable is not None
    assert world.status.stable.version == "v1", "it does not become stable without evidence"
    world.behaviours["v1"] = Behaviour()
    world.run(lambda w: weight(w) == before.weight, limit=5)
    assert reasons(world).count("StableBack") == 1
    assert world.status.candidate is not None
    assert world.status.candidate.phase == phase
    world.requests_per_second = 50
    world.change(spec("v2"))
    world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.version == "v2")
    assert not world.status.rejected


def test_stable_gets_requests_again_only_after_its_service_answers() -> None:
    world = rolling_out()
    world.behaviours["v1"] = DOWN
    world.run(lambda w: weight(w) == 100, limit=10)
    world.silent["v1"] = world.now
    world.behaviours["v1"] = Behaviour()
    for _ in range(8):
        world.tick()
        assert weight(world) == 100
    world.silent.clear()
    world.tick()
    assert weight(world) == 5
    world.behaviours["v1"] = DOWN
    world.run(lambda w: weight(w) == 100, limit=10)
    world.silent["v1"] = world.now
    world.behaviours["v1"] = Behaviour()
    world.run(lambda w: weight(w) == 5, limit=15)  # the operator cannot reach it, the routers may


def test_a_short_outage_of_stable_changes_nothing() -> None:
    world = rolling_out()
    world.behaviours["v1"] = DOWN
    for _ in range(2):
        world.tick()
    world.behaviours["v1"] = Behaviour()
    for _ in range(5):
        world.tick()
        assert weight(world) == 5
    assert "StableDown" not in reasons(world)


def test_evidence_promotes_a_candidate_that_stands_in() -> None:
    world = rolling_out(requests=50)
    world.behaviours["v1"] = DOWN
    world.run(lambda w: w.status.candidate is None and w.status.stable is not None and w.status.stable.version == "v2")
    assert world.status.history[0].outcome == "Promoted"


def test_a_candidate_that_fails_while_it_stands_in_is_rolled_back_once_stable_answers() -> None:
    world = rolling_out(requests=50)
    world.behaviours["v1"] = DOWN
    world.behaviours["v2"] = Behaviour(error_rate=0.5)
    for _ in range(60):
        world.tick()
    assert not world.status.rejected, "half of the answers are better than none"
    assert world.status.stable is not None
    assert world.status.stable.version == "v1"
    world.behaviours["v1"] = Behaviour()
    world.run(lambda w: "StableUnwell" in reasons(w), limit=15)
    assert weight(world) == 0, "held, because stable was down a moment ago"
    world.run(lambda w: bool(w.status.rejected), limit=90)


def test_a_verdict_is_not_held_for_a_stable_that_never_comes_back() -> None:
    world = rolling_out(requests=50)
    held = replace(world.status.candidate, phase="Preparing", weight=0, step=0, holds=1, evidence=None)  # type: ignore[type-var]
    world.status = replace(world.status, candidate=held)
    world.behaviours["v1"] = DOWN
    world.run(lambda w: weight(w) == 100, limit=10)
    world.run(lambda w: w.status.stable is not None and w.status.stable.version == "v2")


def test_a_candidate_that_stands_in_has_all_the_time_of_the_model_for_a_request() -> None:
    """Nothing is left to retry on. Before its first weight it has no other limit either."""
    for phase in ("Preparing", "Canary"):
        world = rolling_out(phase, paused=phase == "Preparing")
        before = world.routes.limit_ms if world.routes and phase == "Canary" else 0
        world.behaviours["v1"] = DOWN
        world.run(lambda w: weight(w) == 100, limit=10)
        assert world.routes is not None
        assert world.routes.limit_ms == 60_000
        assert world.routes.revision == identity("v2")
        world.behaviours["v1"] = Behaviour()
        world.run(lambda w: weight(w) != 100, limit=10)
        assert world.routes.limit_ms == before or phase == "Preparing"


def test_a_client_that_gives_up_shows_something_only_after_far_longer_than_stable_takes() -> None:
    world = rolling_out("Canary")
    assert world.routes is not None
    assert (world.routes.limit_ms, world.routes.patience_ms) == (1000 + 3 * 12, 3 * 12 + 100)
    world = serving("v1", requests_per_second=50, stable_ms=0)
    world.change(spec("v2"))
    world.run(lambda w: w.status.phase == "Canary")
    assert world.routes is not None
    assert world.routes.limit_ms == world.routes.patience_ms == 60_000, "it is unknown what stable takes"
    world = serving("v1", requests_per_second=50, stable_ms=50_000)
    world.change(spec("v2"))
    world.run(lambda w: w.status.phase == "Canary")
    assert world.routes is not None
    assert world.routes.limit_ms == world.routes.patience_ms == 60_000


def test_a_stable_without_a_ready_pod_sets_no_limit_for_an_attempt() -> None:
    world = serving("v1", requests_per_second=0, stable_ms=1)
    world.change(spec("v2"))
    world.behaviours["v1"] = DOWN
    world.run(lambda w: w.status.phase == "Canary")
    candidate = world.status.candidate
    assert candidate is not None
    assert (candidate.stable_ms, candidate.attempt_limit_ms) == (0, 60_000)


def test_a_rejected_version_never_stands_in() -> None:
    world = serving("v1", requests_per_second=50)
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    world.change(spec("v2"))
    world.run(lambda w: bool(w.status.rejected))
    world.behaviours["v1"] = DOWN
    for _ in range(60):
        world.tick()
        assert world.routes is not None
        assert world.routes.candidate is None


def test_a_reverted_candidate_serves_until_stable_answers() -> None:
    world = rolling_out()
    world.behaviours["v1"] = DOWN
    world.run(lambda w: weight(w) == 100, limit=10)
    world.change(spec("v1"))
    for _ in range(20):
        world.tick()
        assert weight(world) == 100
    world.behaviours["v1"] = Behaviour()
    world.run(lambda w: w.status.candidate is None, limit=5)
    world.run(World.settled, limit=30)
    assert world.condition("Ready") == "True"


def superseded(phase: str, **rollout: object) -> World:
    """Return a world in which v1 is down for good, v2 stands in, and the spec asks for v3."""
    world = rolling_out(phase, paused=phase == "Preparing")
    world.behaviours["v1"] = DOWN
    world.run(lambda w: weight(w) == 100, limit=10)
    world.change(spec("v3", rollout=Rollout(bake_seconds=5, preparing_deadline_seconds=60, **rollout)))  # type: ignore[arg-type]
    world.tick()
    return world


@pytest.mark.parametrize("phase", ["Preparing", "Canary"])
def test_a_stable_that_is_down_for_good_does_not_block_the_next_revision(phase: str) -> None:
    world = superseded(phase)
    assert "v3 waits until v1 has a ready pod, or v2 is proven, or v1 has had no ready pod for 60 s" in message(
        world
    ), message(world)
    for _ in range(50):
        world.tick()
    assert world.status.stable is not None
    assert world.status.stable.version == "v1"
    world.run(lambda w: w.status.stable is not None and w.status.stable.version == "v2", limit=12)
    entry = world.status.history[0]
    why = "is promoted without proof: v1 has had no ready pod for 60 s and the spec asks for v3"
    assert (entry.version, entry.outcome) == ("v2", "Promoted")
    assert why in entry.message
    assert any(notice.reason == "Promoted" and why in notice.message for notice in world.notices)
    world.requests_per_second = 50
    world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.version == "v3")
    assert world.condition("Ready") == "True"


def test_a_broken_next_revision_falls_back_to_the_one_that_stood_in() -> None:
    world = superseded("Canary")
    world.behaviours["v3"] = Behaviour(error_rate=1.0)
    world.run(lambda w: w.status.phase == "Canary" and w.status.stable is not None and w.status.stable.version == "v2")
    world.requests_per_second = 50
    world.run(lambda w: [item.version for item in w.status.rejected] == ["v3"], limit=60)
    assert world.status.stable is not None
    assert world.status.stable.version == "v2"


@pytest.mark.parametrize("paused", [False, True])
def test_a_stable_that_comes_back_in_time_stays_stable(paused: bool) -> None:
    world = superseded("Canary", paused=paused)
    for _ in range(200 if paused else 40):
        world.tick()
    world.behaviours["v1"] = Behaviour()
    world.run(lambda w: w.status.candidate is not None and w.status.candidate.version == "v3", limit=30)
    assert world.status.stable is not None
    assert world.status.stable.version == "v1"
    assert world.status.history[0].outcome == "Superseded"


def test_a_candidate_that_the_tests_condemn_never_becomes_stable_because_it_stood_in() -> None:
    world = superseded("Canary")
    candidate = world.status.candidate
    assert candidate is not None
    assert candidate.evidence is not None
    condemned = replace(candidate.evidence, state=replace(candidate.evidence.state, hard=(20.0,) * 6))
    world.status = replace(world.status, candidate=replace(candidate, evidence=condemned))
    for _ in range(200):
        world.tick()
        assert world.status.stable is not None
        assert world.status.stable.version == "v1"
    assert "v3 waits for a ready pod of v1" in message(world)
    world.behaviours["v1"], world.requests_per_second = Behaviour(), 50
    world.run(lambda w: w.status.stable is not None and w.status.stable.version == "v3")


def test_a_version_that_was_rejected_and_is_retried_becomes_stable_by_proof_only() -> None:
    world = serving("v1", requests_per_second=50)
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    world.change(spec("v2"))
    world.run(lambda w: bool(w.status.rejected) and w.status.candidate is None)
    world.behaviours["v2"], world.requests_per_second = Behaviour(), 0
    world.change(spec("v2", rollout=Rollout(retry="again")))
    world.run(lambda w: w.status.phase == "Canary", limit=60)
    world.behaviours["v1"] = DOWN
    world.run(lambda w: weight(w) == 100, limit=10)
    world.change(spec("v3", rollout=Rollout(preparing_deadline_seconds=60)))
    for _ in range(200):
        world.tick()
        assert world.status.stable is not None
        assert world.status.stable.version == "v1"
    assert "v3 waits for a ready pod of v1" in message(world)


def test_a_candidate_that_stands_in_gets_all_its_pods() -> None:
    world = serving("v1", requests_per_second=0)
    four = Serving(replicas=4)
    world.change(spec("v1", serving=four))
    world.run(lambda w: w.status.replicas == "4/4")
    world.change(spec("v2", serving=four))
    world.run(lambda w: w.status.phase == "Canary")
    world.behaviours["v1"] = DOWN
    world.run(lambda w: w.status.candidate is not None and w.status.candidate.ready_replicas == 4, limit=15)


def test_a_candidate_without_a_ready_pod_does_not_stand_in() -> None:
    world = serving("v1", requests_per_second=0)
    world.behaviours["v2"] = DOWN
    world.change(spec("v2"))
    world.run(lambda w: w.status.phase == "Preparing")
    world.behaviours["v1"] = DOWN
    for _ in range(10):
        world.tick()
        assert weight(world) == 0
    assert world.condition("Available") == "False"
    world.behaviours["v2"] = Behaviour()
    world.run(lambda w: w.condition("Available") == "True", limit=5)


def test_the_operator_asks_the_side_that_serves() -> None:
    world = rolling_out()
    assert answering_side(world.status, world.observed()) == "stable"
    world.behaviours["v1"] = DOWN
    world.run(lambda w: weight(w) == 100, limit=10)
    assert answering_side(world.status, world.observed()) == "candidate"
    assert needs_services(world.status, world.observed()) == ()
    world.behaviours["v1"] = Behaviour()
    assert needs_services(world.status, world.observed()) == (identity("v1"),)
    assert answering_side(world.status, world.observed()) == "stable"


def test_no_weight_before_the_service_of_the_candidate_answers() -> None:
    world = serving("v1", requests_per_second=0)
    world.silent["v2"] = world.now
    world.change(spec("v2"))
    for _ in range(8):
        world.tick()
    assert world.status.phase == "Preparing"
    assert "the pods are ready; the Service of the revision does not answer yet" in message(world)
    plan = world.tick()
    assert plan.requeue_after is not None
    assert plan.requeue_after < 1
    world.tick(10)
    assert "Service fraud-" in message(world)
    assert world.condition("Stalled") == "True"
    assert world.tick().requeue_after == 5.0, "a blocked address is asked less often"
    world.silent.clear()
    world.run(lambda w: w.status.phase == "Canary", limit=2)


def test_one_scrape_that_fails_writes_no_status() -> None:
    world = World(random.Random(1), spec("v1"), requests_per_second=0)
    world.run(lambda w: w.settled() and w.condition("Ready") == "True", 60)
    world.change(spec("v2"))
    world.run(lambda w: w.status.phase == "Canary")
    for _ in range(12):
        world.tick()
    world.status_writes = 0
    for _ in range(3):
        world.unread = True
        world.tick()
        world.unread = False
        world.tick()
    assert world.status_writes == 0
    assert weight(world) == 5
