"""A lost status: the version that serves goes on, no user sees an error, and nothing unproven becomes stable."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from mlmodel_operator.api.revision import desired_revision
from mlmodel_operator.api.schema import Time
from mlmodel_operator.api.status import HistoryEntry, Rejected, Status
from mlmodel_operator.api.types import MLModel, Rollout, Serving
from mlmodel_operator.rollout.decide import decide
from mlmodel_operator.rollout.observed import Observed, Pod, RevisionState
from mlmodel_operator.rollout.recovery import Decisions, Known, Recovery, is_lost, recover
from mlmodel_operator.rollout.routes import Routes, read_routes, routes_for
from tests.unit.operator.rollout.test_invariants import check
from tests.unit.operator.rollout.world import IMAGE, OWNER, Behaviour, World, identity, serving, spec, steps

pytestmark = pytest.mark.simulation

SEED = 20260111
NOW = 1_800_000_000.0
V1, V2, V3 = (identity(version) for version in ("v1", "v2", "v3"))
Moment = Callable[[World], bool]


def at_weight(weight: int) -> Moment:
    return lambda w: w.status.candidate is not None and w.status.candidate.weight == weight


def in_phase(phase: str) -> Moment:
    return lambda w: w.status.phase == phase


MOMENTS: dict[str, tuple[float, Moment]] = {
    # error rate of v2, and when its rollout is in the state in which the status is lost
    "preparing": (0.0, in_phase("Preparing")),
    "canary 5": (0.0, at_weight(5)),
    "canary 25": (0.0, at_weight(25)),
    "canary 50": (0.0, at_weight(50)),
    "promoting": (0.0, in_phase("Promoting")),
    "baking": (0.0, in_phase("Baking")),
    "draining the former stable": (0.0, in_phase("Draining")),
    "settled": (0.0, lambda w: w.settled() and w.generation == w.status.observed_generation and w.now > NOW + 30),
    "rolling back": (1.0, in_phase("RollingBack")),
    "draining the bad version": (1.0, in_phase("Draining")),
    "settled after the rollback": (1.0, lambda w: w.settled() and bool(w.status.rejected)),
}


def pods(world: World, revision: str) -> set[str]:
    return set(world.revisions[revision].pods) if revision in world.revisions else set()


def reported(world: World) -> list[str]:
    return [notice.message for notice in world.notices if notice.reason == "StatusRebuilt"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_status_lost_in_any_phase_costs_no_user_an_error(moment: str) -> None:
    rate, condition = MOMENTS[moment]
    world = serving("v1", requests_per_second=100)
    world.check = check
    world.behaviours["v2"] = Behaviour(error_rate=rate, seconds_to_ready=5.0)
    world.change(spec("v2", serving=Serving(replicas=2)))
    world.run(condition)
    good = world.status.stable
    rejected, history = world.status.rejected, world.status.history
    assert good is not None
    serving_pods, candidate_pods = pods(world, good.revision), pods(world, V2)
    world.lose_status()
    for _ in range(5):
        world.tick()
        assert world.status.stable is not None
        assert world.status.stable.revision == good.revision
        assert serving_pods <= pods(world, good.revision), "a pod that serves is not replaced"
        if not rejected:
            assert candidate_pods <= pods(world, V2), "the pods of a candidate run on"
    # Before this, the routers followed the last routes from before the loss for a tick.
    answered = world.answered.get("v2", 0)
    assert len(reported(world)) == 1
    if rate or not world.status.history:
        assert (world.status.rejected, world.status.history) == (rejected, history)
    world.run(lambda w: w.settled() and not w.status.draining)
    assert world.status.stable is not None
    assert world.status.stable.version == ("v1" if rate else "v2")
    assert world.condition("RolledBack") == ("True" if rate else "False")
    if rejected:
        assert world.answered.get("v2", 0) == answered, "a rejected version gets no request"
    assert world.user_errors == 0


def test_the_first_revision_keeps_its_routes_until_it_is_stable() -> None:
    world = World(random.Random(SEED), spec("v1"), check=check)
    world.run(in_phase("Promoting"), 60)
    before = pods(world, V1)
    world.lose_status()
    for _ in range(10):
        world.tick()
    assert world.status.stable is not None
    assert world.status.stable.revision == V1
    assert pods(world, V1) == before
    assert world.user_errors == 0
    assert "no record says that it is good" in reported(world)[0]


def test_a_new_model_has_nothing_to_rebuild() -> None:
    world = World(random.Random(SEED), spec("v1"), check=check)
    world.run(lambda w: in_phase("Preparing")(w) and bool(pods(w, V1)), 60)
    before = pods(world, V1)
    world.lose_status()
    world.run(lambda w: w.settled(), 60)
    assert pods(world, V1) == before
    assert reported(world) == []


def test_a_paused_rollout_stays_paused() -> None:
    world = serving("v1", requests_per_second=100)
    rollout = Rollout(steps=steps(5, 50), bake_seconds=5)
    world.change(spec("v2", rollout=rollout))
    world.run(at_weight(5))
    world.change(spec("v2", rollout=replace(rollout, paused=True)))
    world.tick()
    world.lose_status()
    for _ in range(60):
        world.tick()
    assert world.status.candidate is not None
    assert (world.status.candidate.revision, world.status.candidate.weight) == (V2, 0)
    assert world.condition("Paused") == "True"
    world.change(spec("v2", rollout=rollout))
    world.run(lambda w: w.settled())
    assert world.user_errors == 0


@pytest.mark.parametrize("retry", ["", "again"])
def test_a_rejected_version_is_retried_only_if_retry_has_changed(retry: str) -> None:
    world = serving("v1", requests_per_second=100)
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    world.change(spec("v2"))
    world.run(lambda w: w.settled() and bool(w.status.rejected))
    del world.behaviours["v2"]
    world.change(spec("v2", rollout=Rollout(bake_seconds=5, retry=retry)))
    world.lose_status()
    for _ in range(30):
        world.tick()
    assert (world.status.candidate is not None) == bool(retry)


def test_a_version_that_is_retried_goes_on_as_candidate() -> None:
    world = serving("v1", requests_per_second=100)
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    world.change(spec("v2"))
    world.run(lambda w: w.settled() and bool(w.status.rejected))
    del world.behaviours["v2"]
    world.change(spec("v2", rollout=Rollout(bake_seconds=5, retry="again")))
    world.run(at_weight(5))
    before = pods(world, V2)
    world.lose_status()
    world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.revision == V2)
    assert before <= pods(world, V2)
    assert world.user_errors == 0


def test_the_spec_that_changed_with_the_loss_does_not_reuse_a_slot_before_it_drained() -> None:
    world = serving("v1", requests_per_second=100)
    world.check = check
    world.change(spec("v2"))
    world.run(at_weight(25))
    assert world.status.candidate is not None
    slot = world.status.candidate.slot
    world.lose_status()
    world.change(spec("v3"))
    while V2 in world.revisions:
        world.tick()
        assert world.status.candidate is None or world.status.candidate.slot != slot
    world.run(lambda w: w.settled())
    assert world.status.stable is not None
    assert world.status.stable.revision == V3
    assert world.user_errors == 0


def test_a_candidate_that_is_withdrawn_after_the_loss_drains_first() -> None:
    world = serving("v1", requests_per_second=100)
    world.check = check
    world.change(spec("v2"))
    world.run(at_weight(25))
    world.lose_status()
    world.tick()
    assert world.status.phase == "Preparing"
    lost_at = world.now
    world.change(spec("v3"))
    world.run(lambda w: V2 not in w.revisions)
    assert world.now - lost_at >= 10.0, "its requests in flight are finished"


def test_a_candidate_that_answers_alone_keeps_its_requests() -> None:
    world = serving("v1", requests_per_second=100)
    world.change(spec("v2"))
    world.run(in_phase("Baking"))
    world.behaviours["v1"] = Behaviour(never_ready=True)
    world.tick()
    world.lose_status()
    for _ in range(5):
        world.tick()
        assert world.routes is not None
        assert (world.routes.weight, world.status.stable and world.status.stable.revision) == (100, V1)
    assert world.user_errors == 0
    del world.behaviours["v1"]
    world.run(lambda w: w.settled())
    assert world.user_errors == 0


@pytest.mark.parametrize("number", range(12))
def test_a_status_lost_at_random_moments_again_and_again(number: int) -> None:
    """With crashes of the operator between its writes, and good and bad versions in turn."""
    rng = random.Random(SEED + number)
    world = serving("v1", seed=SEED + number, requests_per_second=100)
    world.check = check
    good, last = "v1", "v1"
    for turn in range(4):
        last = f"w{turn}"
        is_bad = rng.random() < 0.5
        world.behaviours[last] = Behaviour(error_rate=1.0 if is_bad else 0.0, seconds_to_ready=rng.uniform(0.0, 8.0))
        good = good if is_bad else last
        world.change(spec(last, serving=Serving(replicas=rng.randint(1, 4))))
        for _ in range(rng.randint(3, 40)):
            if rng.random() < 0.15:
                world.lose_status()
            world.tick(dies_after=rng.choice([0, 1, 2, 3, 4, 5, 6, 99, 99, 99]))
        world.run(lambda w: w.settled() and not w.status.draining and w.status.observed_generation == w.generation)
        assert world.status.stable is not None
        assert world.status.stable.version == good
        assert set(world.revisions) == {world.status.stable.revision}
    assert world.user_errors == 0


# ------------------------------------------------------------------------------------------- the function on its own


def state(address: str, *, ready: bool = True, created: float = NOW - 100.0) -> RevisionState:
    return RevisionState((Pod(f"pod-{address}", created, ready=ready),), address, 1)


def routed(stable: str = "", candidate: str = "", weight: int = 0) -> Routes:
    return Routes(
        {slot: address for slot, address in (("a", stable), ("b", candidate)) if address},  # type: ignore[misc]
        "a" if stable else None,
        "b" if candidate else None,
        weight,
    )


def recovered(
    version: str, known: Known, revisions: dict[str, RevisionState], followed: Routes | None = None
) -> Recovery:
    model = MLModel(OWNER, 1, spec(version))
    return recover(model, Observed(revisions, followed=followed), known, IMAGE, NOW)


def known(stable: str = "", *versions: str, **decisions: object) -> Known:
    snapshots = {identity(version): desired_revision(spec(version), IMAGE).snapshot for version in versions}
    return Known(Decisions(stable, **decisions), snapshots)  # type: ignore[arg-type]


REJECTED = Rejected(V2, "v2", "ErrorRate", "failed", Time(NOW - 500.0), 5)


def test_records_win_over_the_routes() -> None:
    """A tenant has made the ConfigMap call the rejected version stable."""
    revisions = {V1: state("10.0.0.1"), V2: state("10.0.0.2")}
    memory = known(V1, "v1", "v2", rejected=(REJECTED,))
    status = recovered("v2", memory, revisions, routed("10.0.0.2", "10.0.0.1", 100)).status
    assert status is not None
    assert status.stable is not None
    assert (status.stable.revision, status.stable.slot) == (V1, "b")
    assert [(item.revision, item.outcome, item.slot) for item in status.draining] == [(V2, "RolledBack", "a")]
    assert status.candidate is None


def test_a_rejected_version_is_not_served_although_nothing_is_known_to_be_good() -> None:
    status = recovered("v2", known("", "v2", rejected=(REJECTED,)), {V2: state("10.0.0.2")}, routed("10.0.0.2")).status
    assert status is not None
    assert (status.stable, status.candidate) == (None, None)


def test_the_newest_promoted_revision_that_still_runs_is_stable() -> None:
    history = tuple(HistoryEntry(name, "", "Promoted", Time(1.0), Time(2.0)) for name in (V2, V1))
    status = recovered("v3", known(V2, "v1", "v2", history=history), {V1: state("10.0.0.1")}).status
    assert status is not None
    assert status.stable is not None
    assert status.stable.revision == V1


@pytest.mark.parametrize("paused", [False, True])
def test_a_candidate_that_stands_in_goes_on_and_leaves_when_stable_is_ready(paused: bool) -> None:
    world = serving("v1", requests_per_second=50)
    rollout = Rollout(bake_seconds=5, paused=paused)
    world.change(spec("v2"))
    world.run(at_weight(5), 60)
    world.change(spec("v2", rollout=replace(rollout, paused=True)))
    world.behaviours["v1"] = Behaviour(never_ready=True)
    world.run(lambda w: w.routes is not None and w.routes.weight == 100, 10)
    world.tick()
    errors, world.check = world.user_errors, check
    world.change(spec("v2", rollout=rollout))
    world.lose_status()
    for _ in range(5):
        world.tick()
        assert world.routes is not None
        assert (world.routes.weight, world.routes.limit_ms) == (100, 60_000)
    assert world.status.stable is not None
    assert world.status.stable.revision == V1
    assert world.user_errors == errors
    world.behaviours["v1"] = Behaviour()
    world.run(lambda w: w.routes is not None and w.routes.weight < 100, 10)
    if not paused:
        world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.revision == V2)
    assert world.user_errors == errors


def test_a_stable_whose_objects_are_gone_is_started_again_from_its_record() -> None:
    status = recovered("v2", known(V1, "v1"), {V2: state("10.0.0.2")}, routed("10.0.0.1", "10.0.0.2", 5)).status
    assert status is not None
    assert status.stable is not None
    assert status.stable.snapshot == desired_revision(spec("v1"), IMAGE).snapshot
    # Its address is gone, and the candidate is the only one that answers.
    assert status.candidate is not None
    assert (status.candidate.phase, status.candidate.slot, status.candidate.stands_in_since) == ("Preparing", "b", NOW)
    assert status.candidate.attempt_limit_ms == 60_000


@pytest.mark.parametrize("records", [True, False])
def test_without_a_known_good_one_the_version_that_serves_goes_on(records: bool) -> None:
    revisions = {V1: state("10.0.0.1"), V2: state("10.0.0.2")}
    found = recovered("v2", known("", *(["v1"] if records else [])), revisions, routed("10.0.0.1", "10.0.0.2", 5))
    if not records:
        # Nothing describes v1: to guess could stop the only version that serves.
        assert found.status is None
        assert found.notice is not None
        assert V1 in found.notice.message
        return
    assert found.status is not None
    assert found.status.stable is None
    assert found.status.candidate is not None
    assert (found.status.candidate.revision, found.status.candidate.slot) == (V1, "a")
    assert routes_for(found.status, Observed(revisions)) == replace(routed("10.0.0.1"), labels={"a": "v1"})
    assert [(item.revision, item.slot) for item in found.status.draining] == [(V2, "b")]


def test_addresses_that_changed_in_a_restore_take_free_slots() -> None:
    revisions = {V1: state("10.9.0.1"), V2: state("10.9.0.2")}
    status = recovered("v2", known(V1, "v1", "v2"), revisions, routed("10.0.0.1", "10.0.0.2", 5)).status
    assert status is not None
    assert status.stable is not None
    assert status.candidate is not None
    assert (status.stable.slot, status.candidate.slot, status.candidate.weight) == ("a", None, 0)


@pytest.mark.parametrize(
    ("status", "recorded", "lost"),
    [
        (Status(), "", True),
        (Status(observed_generation=1), "", False),
        (Status(observed_generation=7), V1, True),
        (serving("v1").status, V1, False),
    ],
    ids=["never written", "first revision not allowed", "stable removed", "whole"],
)
def test_when_a_status_is_lost(status: Status, recorded: str, lost: bool) -> None:
    assert is_lost(status, recorded_stable=recorded) is lost


def test_no_plan_empties_routes_that_have_a_stable() -> None:
    observed = Observed({V1: state("10.0.0.1")}, followed=routed("10.0.0.1"))
    assert decide(MLModel(OWNER, 1, spec("v1")), observed, Status(), IMAGE, NOW).routes is None
    assert decide(MLModel(OWNER, 1, spec("v1")), replace(observed, followed=None), Status(), IMAGE, NOW).routes


@pytest.mark.parametrize(
    "routes",
    [
        Routes(),
        routed("10.0.0.1"),
        replace(
            routed("10.0.0.1", "fd00::2", 25),
            revision=V2,
            limit_ms=1036,
            patience_ms=136,
            labels={"a": "v1", "b": "v2 of May"},
        ),
    ],
)
def test_routes_are_read_as_they_are_written(routes: Routes) -> None:
    assert read_routes(routes.text()) == routes


def test_routes_of_the_release_before_are_read() -> None:
    text = "id 0123456789abcdef\nslot a 10.0.0.1 8080\nslot b 10.0.0.2 8080\nstable a\ncandidate b 25\n"
    assert read_routes(text) == routed("10.0.0.1", "10.0.0.2", 25)


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00",
        "slot c 1 2\nstable c\n",
        "candidate a ²\n",
        "candidate a -5\n",
        "stable\nslot a\n",
        "candidate a " + "9" * 9999,
        "candidate a 5 r -1 9\n",
        "candidate a 5 r 9 ²\n",
        "candidate a 5 r 9\n",
        "slot a 1 2\n" * 100_000,
        "candidate a 5 r " + "9" * 9999 + " " + "9" * 9999,
    ],
)
def test_routes_that_a_tenant_wrote_raise_nothing(text: str) -> None:
    assert read_routes(text).weight in (0, 5, 100)
