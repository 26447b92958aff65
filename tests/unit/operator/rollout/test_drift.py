"""What stable runs differs from what a new pod would run: a changed model, an outdated server image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlmodel_operator.api.revision import desired_revision
from mlmodel_operator.api.status import Condition
from mlmodel_operator.api.types import MLModel, Serving, Spec
from mlmodel_operator.rollout.decide import decide
from mlmodel_operator.rollout.observed import Observed, Pod
from mlmodel_operator.rollout.plan import Plan
from tests.unit.operator.rollout.world import IMAGE, OWNER, World, identity, serving, spec

NEWER = "mlmodel-server:newer"
WHY = "ConfigMap fraud-v1 was changed after this revision started"


def condition(world: World, kind: str) -> Condition:
    (found,) = [item for item in world.status.conditions if item.type == kind]
    return found


def refreshed(text: str) -> Spec:
    return spec("v1", serving=Serving(refresh=text))


# ------------------------------------------------------------------------------------------------------ changed models


def decided(world: World, *pods: Pod) -> Plan:
    """Return the decision with these further pods of v1."""
    observed = world.observed()
    state = observed.revision(identity("v1"))
    more = replace(state, pods=(*state.pods, *pods))
    seen: Observed = replace(observed, revisions={**observed.revisions, identity("v1"): more})
    plan = decide(MLModel(OWNER, world.generation, world.spec), seen, world.status, IMAGE, world.now)
    world.status = plan.status
    return plan


def rejecting(**more: Any) -> Pod:
    return Pod("late", 0.0, restarts=4, exit_code=3, exit_message=WHY, waiting="CrashLoopBackOff", **more)


def test_a_pod_of_stable_that_rejects_its_model_is_reported_and_stable_serves() -> None:
    world = serving("v1")
    plan = decided(world, rejecting())
    ready, available = condition(world, "Ready"), condition(world, "Available")
    assert (ready.status, ready.reason) == ("False", "ModelChanged")
    assert ready.message == f"new pods of v1 do not start: {WHY}. v1 serves all requests"
    assert condition(world, "Stalled").status == "True"
    assert (available.status, available.reason) == ("True", "ModelChanged")
    assert [(notice.type, notice.reason) for notice in plan.notices] == [("Warning", "ModelChanged")]
    assert plan.routes == world.routes
    assert plan.deletes == ()
    for _ in range(3):
        world.now += 1
        assert decided(world, rejecting()).notices == ()
    decided(world)
    assert condition(world, "Ready").status == "True"
    assert condition(world, "Available").reason == "Serving"


@pytest.mark.parametrize("pod", [rejecting(ready=True), rejecting(terminating=True), Pod("new", 0.0, exit_code=4)])
def test_a_pod_that_serves_or_terminates_or_failed_otherwise_shows_no_changed_model(pod: Pod) -> None:
    world = serving("v1")
    assert decided(world, pod).notices == ()
    assert condition(world, "Available").reason == "Serving"


def test_a_changed_model_of_stable_is_reported_during_a_rollout_which_goes_on() -> None:
    world = serving("v1")
    world.change(spec("v2"))
    world.run(lambda w: w.status.phase == "Canary")
    plan = decided(world, rejecting())
    assert condition(world, "Ready").reason == "Canary"
    assert condition(world, "Available").reason == "ModelChanged"
    assert WHY in condition(world, "Available").message
    assert [notice.reason for notice in plan.notices] == ["ModelChanged"]
    world.run(World.settled)
    assert world.status.history[0].outcome == "Promoted"


def test_a_candidate_whose_model_changes_is_rolled_back() -> None:
    world = serving("v1")
    world.change(spec("v2"))
    world.run(lambda w: w.status.phase == "Canary")
    world.behaviour("v2").broken = {"exit_code": 3, "exit_message": WHY}
    world.run(lambda w: bool(w.status.rejected), limit=5)
    assert (world.status.rejected[0].reason, world.status.rejected[0].message) == ("ModelRejected", WHY)


# ----------------------------------------------------------------------------------------------------- outdated images


def test_an_upgrade_of_the_operator_shows_the_outdated_image_and_starts_nothing() -> None:
    world = serving("v1")
    assert condition(world, "OutdatedImage").status == "False"
    pods = list(world.revisions[identity("v1")].pods)
    world.image = NEWER
    world.tick()
    outdated = condition(world, "OutdatedImage")
    assert (outdated.status, outdated.reason) == ("True", "OutdatedImage")
    assert outdated.message == (
        f"v1 runs the server image {IMAGE}, new revisions get {NEWER}: change spec.serving.refresh to any other text to"
        " roll it out by canary"
    )
    writes = world.status_writes
    for _ in range(20):
        world.tick()
    assert world.status_writes == writes, "reported once"
    assert world.condition("Ready") == "True"
    assert list(world.revisions[identity("v1")].pods) == pods, "no pod was restarted"


def test_another_refresh_rolls_the_same_model_out_with_the_new_image() -> None:
    world = serving("v1")
    world.image = NEWER
    world.change(refreshed("newer"))
    world.run(lambda w: w.status.phase == "Canary")
    candidate, stable = world.status.candidate, world.status.stable
    assert candidate is not None
    assert stable is not None
    assert (candidate.snapshot.image, candidate.weight) == (NEWER, 5)
    assert (candidate.snapshot.model, stable.snapshot.image) == (stable.snapshot.model, IMAGE)
    assert condition(world, "OutdatedImage").message == (
        f"v1 runs the server image {IMAGE}, new revisions get {NEWER}: v1 ({candidate.revision}) is being rolled out"
        " with it"
    )
    world.run(World.settled)
    assert world.status.history[0].outcome == "Promoted"
    assert world.status.stable is not None
    assert world.status.stable.snapshot.image == NEWER
    assert condition(world, "OutdatedImage").status == "False"


def test_a_newer_image_that_fails_is_rolled_back_and_stays_reported() -> None:
    world = serving("v1")
    world.image = NEWER
    world.change(refreshed("newer"))
    world.run(lambda w: w.status.phase == "Canary")
    world.behaviours["v1"].error_rate = 0.0
    name = desired_revision(world.spec, NEWER).id
    world.revisions[name].version = "bad"
    world.behaviour("bad").error_rate = 1.0
    world.run(World.settled)
    assert world.status.history[0].outcome == "RolledBack"
    assert condition(world, "OutdatedImage").status == "True"


def test_before_the_first_revision_serves_no_image_is_outdated() -> None:
    world = World(serving("v1").rng, spec("v1"), image=NEWER)
    world.tick()
    assert condition(world, "OutdatedImage").status == "False"


def test_the_default_of_refresh_changes_no_revision() -> None:
    assert desired_revision(refreshed(""), IMAGE).id == identity("v1")
    assert desired_revision(refreshed("a"), IMAGE).id not in (
        identity("v1"),
        desired_revision(refreshed("b"), IMAGE).id,
    )
