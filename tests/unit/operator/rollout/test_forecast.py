"""What the message of Ready says about the next step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.types import ErrorGate, Gates, Rollout
from tests.unit.operator.rollout.world import Behaviour, World, serving, spec, steps

pytestmark = pytest.mark.simulation


def message(world: World) -> str:
    """Return the message of Ready."""
    return next(item.message for item in world.status.conditions if item.type == "Ready")


def canary(rate: float = 0.0, rollout: Rollout | None = None, requests_per_second: int = 50) -> World:
    """Return a world in which v2 has its first weight, and both versions fail the same share of their requests."""
    world = serving("v1", requests_per_second=requests_per_second)
    world.behaviours |= {"v1": Behaviour(error_rate=rate), "v2": Behaviour(error_rate=rate)}
    world.change(spec("v2", rollout=rollout or Rollout(bake_seconds=5)))
    world.run(lambda w: w.status.phase == "Canary")
    return world


def wait(world: World, seconds: int) -> None:
    for _ in range(seconds):
        world.tick()


@pytest.mark.parametrize(("rate", "per_second"), [(0.0, 50), (0.0, 10), (0.02, 50)])
def test_the_estimate_is_close_to_the_time_that_the_step_takes(rate: float, per_second: int) -> None:
    """Within a factor of four, in which the time of a step differs from one rollout to the next."""
    world = canary(rate, Rollout(steps=steps(25), bake_seconds=5), requests_per_second=per_second)
    wait(world, 30)
    text = message(world)
    assert "Next: 100 % in about " in text
    number, unit = text.split("in about ")[1].split(" at the present traffic")[0].split(" ")
    expected = float(number) * {"min": 60, "h": 3600}[unit]
    since = world.now
    world.run(lambda w: w.status.phase != "Canary", limit=20_000)
    assert expected / 4 <= world.now - since <= 4 * expected


def test_the_estimate_changes_rarely() -> None:
    world = canary(0.02, Rollout(steps=steps(25), bake_seconds=5))
    texts = []
    for _ in range(150):
        world.tick()
        if world.status.phase == "Canary":
            texts.append(message(world).split("failed. ")[1].split(";")[0])
    assert len(set(texts)) <= 6


def test_without_requests_the_message_says_so() -> None:
    world = canary(requests_per_second=0)
    wait(world, 30)
    assert "no requests come" not in message(world), "not before a minute has passed"
    wait(world, 40)
    assert "Next: 25 %; no requests come: send some" in message(world)
    writes = world.status_writes
    wait(world, 60)
    assert world.status_writes == writes
    world.requests_per_second = 50
    wait(world, 30)
    assert "no requests come" not in message(world)


def test_traffic_that_stops_is_noticed_and_rare_traffic_is_not_taken_for_none() -> None:
    world = canary(requests_per_second=50, rollout=Rollout(steps=steps(1), bake_seconds=5))
    wait(world, 30)
    world.requests_per_second = 0
    wait(world, 75)
    assert "no requests come" in message(world)
    world = canary(requests_per_second=0)
    for _ in range(6):
        world.requests_per_second = 1
        world.tick()
        world.requests_per_second = 0
        wait(world, 50)
    assert "no requests come" not in message(world)


def test_a_proof_that_takes_longer_than_max_seconds_is_called_so_with_what_to_do() -> None:
    world = canary(0.05, Rollout(steps=steps(5), bake_seconds=5, max_seconds=600), requests_per_second=5)
    wait(world, 60)
    assert "which cannot be proven at this traffic: it would take about" in message(world)
    assert "Send more requests, raise gates.errors.maxPercent, or set onNoEvidence" in message(world)
    world.change(
        spec("v2", rollout=Rollout(steps=steps(5), max_seconds=600, bake_seconds=5, gates=Gates(ErrorGate(50))))
    )
    world.tick()
    assert "cannot be proven" not in message(world)


def test_a_candidate_that_is_worse_than_the_limit_cannot_be_proven() -> None:
    world = canary(0.0, Rollout(steps=steps(50), bake_seconds=5, gates=Gates(ErrorGate(3))))
    world.behaviours["v2"] = Behaviour(error_rate=0.05)
    world.run(lambda w: "while v2 fails more" in message(w), limit=60)
    assert world.status.phase == "Canary"
    assert "cannot be proven at this traffic while v2 fails more than stable: correct the model" in message(world)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("large", "they have more than 23 KiB or are chunked: send smaller requests"),
        ("chosen", "their client chooses the version: leave out"),
        ("sticky", "they have the header of spec.rollout.sticky"),
        ("matched", "they have a value of spec.rollout.match, which sends them to the candidate: send others"),
        ("crowd", "one client sends far more than all others"),
        ("other", "their outcome is not known"),
    ],
)
def test_most_requests_that_cannot_count_are_reported_with_what_to_do(kind: str, words: str) -> None:
    world = canary(requests_per_second=1, rollout=Rollout(steps=steps(5), bake_seconds=5))
    for _ in range(30):
        world.uncounted = {"large": 0, "chosen": 0, kind: world.uncounted.get(kind, 0) + 20}
        world.tick()
    assert f"most requests do not count, because {words}" in message(world)


def test_some_requests_that_cannot_count_are_not_reported() -> None:
    world = canary(rollout=Rollout(steps=steps(5), bake_seconds=5))
    for _ in range(30):
        world.uncounted = {"large": world.uncounted.get("large", 0) + 20}
        world.tick()
    assert "do not count" not in message(world)


def test_what_could_not_count_before_the_rollout_is_not_reported() -> None:
    world = serving("v1")
    world.uncounted = {"large": 10_000}
    world.change(spec("v2", rollout=Rollout(steps=steps(5), bake_seconds=5)))
    world.run(lambda w: w.status.phase == "Canary")
    wait(world, 10)
    assert "do not count" not in message(world)


@pytest.mark.parametrize("rate", [0.4, 1.0])
def test_a_candidate_whose_requests_have_no_outcome_is_not_promoted_and_the_message_says_why(rate: float) -> None:
    """It answers 404, or hangs until its clients give up. Only the requests of stable are counted then."""
    world = canary()
    world.behaviours["v2"] = Behaviour(unknown_rate=rate)
    wait(world, 300)
    assert (world.status.phase, world.routes and world.routes.weight) == ("Canary", 5)
    assert "Next: 25 %; only " in message(world)
    assert "requests to v2 have an outcome, unlike those to stable: find out whether its clients give up" in message(
        world
    )
    world.behaviours |= {"v1": Behaviour(unknown_rate=rate), "v2": Behaviour(unknown_rate=rate)}
    if rate < 1:
        wait(world, 900)
        assert "have an outcome" not in message(world)


def test_requests_of_both_versions_without_an_outcome_are_no_obstacle() -> None:
    world = canary()
    world.behaviours |= {"v1": Behaviour(unknown_rate=0.5), "v2": Behaviour(unknown_rate=0.5)}
    world.run(World.settled, limit=600)
    assert world.status.stable is not None
    assert world.status.stable.version == "v2"


def test_a_promotion_without_proof_is_called_so() -> None:
    rollout = Rollout(bake_seconds=5, max_seconds=60, on_no_evidence="Promote")
    world = canary(rollout=rollout, requests_per_second=0)
    world.notices.clear()
    world.run(World.settled)
    texts = [notice.message for notice in world.notices]
    assert not any("has passed all steps" in text for text in texts)
    without = "v2 has taken a step without proof, because onNoEvidence is Promote: 0 of 0 requests failed"
    assert any(text.startswith(without) for text in texts)
    promoted = next(notice.message for notice in world.notices if notice.reason == Reason.PROMOTED)
    assert "is promoted without proof, because onNoEvidence is Promote: 0 of 0 requests failed" in promoted
    assert world.status.history[0].message == promoted


def test_a_promotion_with_proof_is_not_called_unproven() -> None:
    world = canary(rollout=Rollout(bake_seconds=5, on_no_evidence="Promote"))
    world.run(World.settled)
    assert "without proof" not in world.status.history[0].message


def test_a_candidate_that_stands_in_is_promoted_with_proof() -> None:
    world = canary()
    world.behaviours["v1"] = replace(Behaviour(), never_ready=True)
    wait(world, 8)
    assert "v2 gets all requests, because v1 has no ready pod" in message(world)
    assert message(world).endswith(" %"), "no forecast from a weight that does not apply"
    world.run(lambda w: w.status.candidate is None, limit=200)
    assert "is promoted: " in world.status.history[0].message


def test_a_candidate_that_stands_in_without_requests_is_promoted_only_by_on_no_evidence() -> None:
    world = canary(rollout=Rollout(bake_seconds=5, max_seconds=100, on_no_evidence="Promote"), requests_per_second=0)
    world.behaviours["v1"] = replace(Behaviour(), never_ready=True)
    wait(world, 70)
    assert "no requests come" in message(world)
    world.run(lambda w: w.status.candidate is None, limit=400)
    assert "without proof, because onNoEvidence is Promote" in world.status.history[0].message
