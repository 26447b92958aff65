"""Steps with ``pause: true``, which somebody approves, and steps of weight 0."""

from __future__ import annotations

import re

import pytest

from mlmodel_operator.api.types import Rollout, Serving, Step
from tests.unit.operator.rollout.world import Behaviour, World, identity, serving, spec

APPROVE = "mlmodel.dev/approve"
PAUSED = Rollout(steps=(Step(5), Step(25, pause=True), Step(50)), bake_seconds=5, max_seconds=60)


def ready(world: World) -> tuple[str, str]:
    """Return reason and message of the condition Ready."""
    (found,) = [item for item in world.status.conditions if item.type == "Ready"]
    return found.reason, found.message


def command(world: World) -> str:
    """Return the value of the annotation in the command that the message of Ready shows."""
    _, message = ready(world)
    found = re.search(rf"`kubectl annotate mlm fraud -n default {APPROVE}=(\S+) --overwrite`", message)
    assert found, message
    return found[1]


def waiting(rollout: Rollout = PAUSED) -> World:
    """Return a world in which the step of 25 has its proof and waits for an approval."""
    world = serving("v1", requests_per_second=200)
    world.change(spec("v2", rollout=rollout))
    world.run(lambda w: ready(w)[0] == "AwaitingApproval")
    return world


def later(world: World, seconds: int) -> World:
    """Let some time pass, a long one in steps of five seconds."""
    step = 5 if seconds > 60 else 1
    for _ in range(seconds // step):
        world.tick(step)
    return world


def weight(world: World) -> int:
    assert world.status.candidate is not None
    return world.status.candidate.weight


def test_a_step_with_its_proof_waits_for_an_approval_and_says_what_to_type() -> None:
    world = waiting()
    assert weight(world) == 25
    assert re.fullmatch(rf"{identity('v2')}-25-\d+", command(world))
    assert weight(later(world, 100)) == 25, "an approval that is missing is not missing evidence"
    world.annotations[APPROVE] = command(world)
    world.run(lambda w: w.settled())
    assert world.status.stable is not None
    assert world.status.stable.version == "v2"
    assert world.status.history[0].approvals == (world.annotations[APPROVE],)


def test_the_event_of_the_step_says_that_it_requires_an_approval() -> None:
    (notice,) = [notice for notice in waiting().notices if notice.message.startswith("v2 gets 25 %")]
    assert notice.message.endswith("and somebody has approved it")


@pytest.mark.simulation
@pytest.mark.parametrize(
    "value",
    [
        "",
        "yes",
        "true",
        "{revision}",
        "{revision}-25",
        "{revision}-5-{start}",
        "{revision}-50-{start}",
        "{revision}-25-{start}0",
        " {revision}-25-{start}",
        "{revision}-25-1764420000",
        "{stable}-25-{start}",
        "{upper}",
    ],
)
def test_nothing_else_is_an_approval(value: str) -> None:
    world = waiting()
    revision, _, start = command(world).split("-")
    world.annotations[APPROVE] = value.format(
        revision=revision, start=start, upper=command(world).upper(), stable=identity("v1")
    )
    assert weight(later(world, 30)) == 25


def test_an_approval_replaces_no_proof() -> None:
    world = serving("v1", requests_per_second=1)
    world.change(spec("v2", rollout=Rollout(steps=(Step(5, pause=True), Step(25)), bake_seconds=5)))
    world.run(lambda w: w.status.phase == "Canary" and "approval" in ready(w)[1])
    assert ready(world)[0] == "Canary"
    world.annotations[APPROVE] = command(world)
    assert weight(later(world, 100)) == 5
    assert "approval" not in ready(world)[1]


def test_an_approval_is_not_one_of_the_same_step_after_a_hold() -> None:
    """The evidence that somebody looked at is gone."""
    world = waiting()
    approval = command(world)
    world.stable_ms, world.behaviours["v2"] = 5000, Behaviour(error_rate=1.0)
    world.run(lambda w: w.status.phase == "Preparing", limit=30)
    world.stable_ms, world.behaviours["v2"] = 12, Behaviour()
    world.annotations[APPROVE] = approval
    world.run(lambda w: ready(w)[0] == "AwaitingApproval")
    assert command(world) != approval
    assert weight(later(world, 30)) == 25


def test_a_version_that_turns_bad_while_it_waits_is_rolled_back() -> None:
    world = waiting()
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    world.run(lambda w: bool(w.status.rejected), limit=30)
    assert world.status.history[0].approvals == ()


def test_without_evidence_promote_needs_the_approval_too() -> None:
    rollout = Rollout(steps=(Step(5, pause=True), Step(25)), bake_seconds=5, max_seconds=60, on_no_evidence="Promote")
    world = serving("v1", requests_per_second=0)
    world.change(spec("v2", rollout=rollout))
    world.run(lambda w: ready(w)[0] == "AwaitingApproval")
    assert weight(later(world, 100)) == 5
    world.annotations[APPROVE] = command(world)
    world.run(lambda w: w.status.candidate is not None and weight(w) == 25, limit=5)


def test_pods_of_the_next_step_start_with_the_approval() -> None:
    world = serving("v1", requests_per_second=200)
    world.change(spec("v2", rollout=PAUSED, serving=Serving(replicas=8)))
    world.run(lambda w: ready(w)[0] == "AwaitingApproval")
    assert world.status.candidate is not None
    assert world.status.candidate.replicas == 3
    world.annotations[APPROVE] = command(world)
    world.run(lambda w: w.status.candidate is not None and weight(w) == 50)
    assert world.status.candidate.replicas == 8


def test_an_edit_that_removes_the_pause_takes_effect_at_once() -> None:
    world = waiting()
    world.change(spec("v2"))
    world.run(lambda w: w.status.candidate is not None and weight(w) == 50, limit=5)


def test_a_step_of_weight_0_gets_no_request_that_counts_and_needs_no_proof() -> None:
    world = serving("v1", requests_per_second=200)
    world.change(spec("v2", rollout=Rollout(steps=(Step(0, min_seconds=120), Step(25)), bake_seconds=5)))
    world.run(lambda w: w.status.phase == "Canary")
    since = world.now
    assert weight(world) == 0
    assert world.routes is not None
    assert (world.routes.candidate is not None, world.routes.weight, world.routes.sides.text()) == (True, 0, "open\n")
    world.tick()
    assert ready(world)[1].startswith("v1 gets all requests. 0 of 0 requests to v2 failed. ")
    assert "Next: 25 %; this step lasts at least" in ready(world)[1]
    world.run(lambda w: w.status.candidate is not None and weight(w) == 25)
    assert 120 <= world.now - since <= 123
    world.run(lambda w: w.settled())
    assert world.status.stable is not None
    assert world.status.stable.version == "v2"


def test_a_dark_launch_ends_with_an_approval() -> None:
    world = serving("v1", requests_per_second=0)
    world.change(spec("v2", rollout=Rollout(steps=(Step(0, pause=True), Step(5)), bake_seconds=5)))
    world.run(lambda w: ready(w)[0] == "AwaitingApproval")
    (notice,) = [notice for notice in world.notices if notice.reason == "CanaryStep"]
    assert notice.message.startswith("v1 gets all requests. Next: 5 % once somebody has approved it. No rehearsal: ")
    world.annotations[APPROVE] = command(world)
    world.run(lambda w: w.status.candidate is not None and weight(w) == 5, limit=5)


def test_no_version_gets_all_requests_after_a_dark_launch_alone() -> None:
    world = serving("v1", requests_per_second=50)
    world.change(spec("v2", rollout=Rollout(steps=(Step(0),), bake_seconds=5)))
    world.run(lambda w: w.status.phase == "Canary")
    assert weight(later(world, 600)) == 0


def test_pods_that_are_lost_in_a_dark_launch_close_the_routes() -> None:
    world = serving("v1", requests_per_second=50)
    world.change(spec("v2", rollout=Rollout(steps=(Step(0, pause=True), Step(5)), bake_seconds=5)))
    world.run(lambda w: w.status.phase == "Canary")
    world.kill("v2")
    world.behaviours["v2"] = Behaviour(never_ready=True)
    later(world, 3)
    assert world.routes is not None
    assert (world.routes.weight, world.routes.sides.text()) == (0, "")


def test_a_model_without_traffic_waits_for_its_approval_too() -> None:
    world = serving("v1", requests_per_second=0)
    world.change(spec("v2", rollout=Rollout(steps=(Step(5, pause=True), Step(25)), bake_seconds=5, max_seconds=60)))
    world.run(lambda w: w.status.phase == "Canary")
    assert weight(later(world, 200)) == 5
    assert command(world)


def test_a_model_that_never_got_a_request_waits_for_its_approval() -> None:
    world = serving("v1", requests_per_second=0, rehearses=True)
    world.change(spec("v2", rollout=Rollout(steps=(Step(5, pause=True),), bake_seconds=5)))
    world.run(lambda w: ready(w)[0] == "AwaitingApproval")
    for _ in range(30):
        world.tick()
    assert weight(world) == 5
    world.annotations[APPROVE] = command(world)
    world.run(lambda w: w.settled())
    assert world.status.history[0].outcome == "Promoted"
    assert "no request came" in world.status.history[0].message


def test_a_step_that_pairs_have_proven_waits_for_its_approval_too() -> None:
    world = serving("v1", requests_per_second=1, rehearses=True, kept_before=1000)
    world.change(spec("v2", rollout=Rollout(steps=(Step(0, pause=True), Step(5, pause=True)), bake_seconds=5)))
    world.run(lambda w: ready(w)[0] == "AwaitingApproval")
    assert weight(world) == 0
    world.annotations[APPROVE] = command(world)
    world.run(lambda w: w.status.candidate is not None and weight(w) == 5, limit=5)
    world.run(lambda w: ready(w)[0] == "AwaitingApproval", limit=30)
    assert weight(world) == 5


def test_no_request_is_no_proof_at_a_weight_of_0() -> None:
    world = serving("v1", requests_per_second=0, rehearses=True)
    world.change(spec("v2", rollout=Rollout(steps=(Step(0),), bake_seconds=5)))
    world.run(lambda w: w.status.phase == "Canary")
    for _ in range(60):
        world.tick()
    assert (world.status.phase, weight(world)) == ("Canary", 0)
