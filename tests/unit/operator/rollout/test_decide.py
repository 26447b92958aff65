"""The state machine, transition by transition, in a simulated cluster with users."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from mlmodel_operator import resources
from mlmodel_operator.api.status import MAX_RETRIES, rejection
from mlmodel_operator.api.types import Autoscaling, ErrorGate, Gates, Rollout, Serving
from mlmodel_operator.rollout.needs import needs_address
from mlmodel_operator.rollout.requeue import QUICK_POLL_SECONDS
from tests.unit.operator.rollout.world import OWNER, Behaviour, World, identity, serving, spec, steps


def phases(world: World, limit: float = 1000.0) -> list[str]:
    """Return the phases of a rollout until it is finished."""
    seen: list[str] = [world.status.phase]
    end = world.now + limit
    while True:
        world.tick()
        if world.status.phase != seen[-1]:
            seen.append(world.status.phase)
        if world.settled():
            return seen
        assert world.now < end, f"still {world.status.phase}: {world.status.conditions[0]}"


def written(world: World) -> float:
    """Return the time at which the evidence in status was written; 0 without evidence."""
    evidence = world.status.candidate.evidence if world.status.candidate else None
    return evidence.at or 0.0 if evidence else 0.0


def reasons(world: World) -> list[str]:
    return [notice.reason for notice in world.notices]


def test_the_first_version_serves_as_soon_as_it_is_ready_and_routed() -> None:
    world = serving("v1")
    assert world.status.stable is not None
    assert world.status.stable.version == "v1"
    assert reasons(world) == ["Preparing", "Serving"]
    assert world.condition("Available") == "True"


def test_a_good_version_goes_through_all_phases_without_an_error() -> None:
    world = serving("v1")
    world.notices.clear()
    world.change(spec("v2"))
    assert phases(world) == ["Stable", "Preparing", "Canary", "Promoting", "Baking", "Draining", "Stable"]
    assert reasons(world) == ["Preparing", "CanaryStep", "CanaryStep", "CanaryStep", "Promoting", "Baking", "Promoted"]
    assert world.status.stable is not None
    assert world.status.stable.version == "v2"
    assert world.user_errors == 0
    assert list(world.revisions) == [identity("v2")]
    assert world.condition("Ready") == "True"


def test_a_broken_version_is_rolled_back_after_few_requests_and_not_retried() -> None:
    world = serving("v1", requests_per_second=10)
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    world.change(spec("v2"))
    world.run(lambda w: bool(w.status.rejected))
    assert world.answered["v2"] <= 10
    assert world.user_errors == 0
    world.run(World.settled)
    answered = world.answered["v2"]
    for _ in range(100):
        world.tick()
    assert world.answered["v2"] == answered
    assert world.status.rejected[0].reason == "ErrorRate"
    assert [world.condition(kind) for kind in ("Ready", "Stalled", "RolledBack", "Available")] == [
        "False",
        "True",
        "True",
        "True",
    ]
    assert "requests failed" in world.status.conditions[0].message


def test_another_retry_text_retries_a_rejected_version() -> None:
    world = serving("v1")
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    world.change(spec("v2"))
    world.run(lambda w: bool(w.status.rejected) and w.settled())
    world.behaviours["v2"] = Behaviour()
    world.change(spec("v2", rollout=Rollout(bake_seconds=5, retry="again")))
    world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.version == "v2")
    assert not world.status.rejected


def rejected_with(world: World, retry: str) -> None:
    """Roll out v2 with this text, and wait until it is rejected."""
    world.change(spec("v2", rollout=Rollout(bake_seconds=5, retry=retry)))
    world.run(lambda w: any(item.retry == retry for item in w.status.rejected) and w.settled(), limit=200)


def test_a_retry_text_that_was_used_before_retries_nothing() -> None:
    """As when Git goes back and forth between two commits."""
    world = serving("v1")
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    for retry in ("a", "b", ""):
        rejected_with(world, retry)
    for retry in ("a", "b", "", "a"):
        world.change(spec("v2", rollout=Rollout(bake_seconds=5, retry=retry)))
        for _ in range(30):
            world.tick()
        assert world.status.candidate is None
        assert (world.condition("RolledBack"), world.condition("Stalled")) == ("True", "True")
    assert len(world.status.history) == 3
    assert world.status.rejected[0].retries == ("", "b", "a")
    rejected_with(world, "c")


def test_a_retry_text_that_changed_during_the_rollout_counts_as_used() -> None:
    world = serving("v1", requests_per_second=0)
    world.change(spec("v2", rollout=Rollout(bake_seconds=5, retry="a")))
    world.run(lambda w: w.status.phase == "Canary")
    world.change(spec("v2", rollout=Rollout(bake_seconds=5, retry="b")))
    world.tick()
    world.behaviours["v2"] = Behaviour(broken={"exit_code": 3})
    world.run(lambda w: w.settled() and bool(w.status.rejected))
    for retry in ("a", "b"):
        world.change(spec("v2", rollout=Rollout(bake_seconds=5, retry=retry)))
        for _ in range(10):
            world.tick()
        assert world.status.candidate is None


def test_the_remembered_retry_texts_are_bounded_and_those_of_the_release_before_count() -> None:
    world = serving("v1")
    world.behaviours["v2"] = Behaviour(broken={"exit_code": 3})
    for number in range(MAX_RETRIES + 3):
        rejected_with(world, str(number))
    assert world.status.rejected[0].retries == tuple(str(MAX_RETRIES + 2 - number) for number in range(MAX_RETRIES))
    old = replace(world.status, rejected=(replace(world.status.rejected[0], retries=(), retry="old"),))
    assert rejection(old, identity("v2"), "old") is not None
    assert rejection(old, identity("v2"), "new") is None


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"exit_code": 3, "exit_message": "refused global os.system in model.joblib"}, "ModelRejected"),
        ({"exit_code": 137, "exit_reason": "OOMKilled"}, "OutOfMemory"),
        ({"waiting": "ImagePullBackOff", "waiting_message": "no such image"}, "ImageFailed"),
        ({"waiting": "CrashLoopBackOff", "restarts": 2, "exit_code": 1}, "CrashLoop"),
    ],
)
def test_a_version_that_cannot_start_is_rejected_at_once_without_a_request(
    broken: dict[str, object], reason: str
) -> None:
    world = serving("v1")
    world.behaviours["v2"] = Behaviour(broken=broken)
    world.change(spec("v2"))
    world.run(lambda w: bool(w.status.rejected), limit=5)
    assert world.status.rejected[0].reason == reason
    assert "v2" not in world.answered
    world.run(World.settled, limit=5)
    assert list(world.revisions) == [identity("v1")]


def test_a_rollback_is_one_event_with_its_cause_named_once() -> None:
    world = serving("v1")
    world.notices.clear()
    world.behaviours["v2"] = Behaviour(broken={"waiting": "ImagePullBackOff", "waiting_message": "no such image"})
    world.change(spec("v2"))
    world.run(lambda w: bool(w.status.rejected) and w.settled())
    assert reasons(world) == ["Preparing", "RolledBack"]
    assert ready_condition(world)[2].count("no such image") == 1


def test_a_late_first_version_is_stalled_and_not_reconciling() -> None:
    """kstatus reads a model with both as one in progress."""
    world = World(random.Random(1), spec("v1", rollout=Rollout(preparing_deadline_seconds=30)))
    world.behaviours["v1"] = Behaviour(never_ready=True)
    for _ in range(29):
        world.tick()
        assert (world.condition("Stalled"), world.condition("Reconciling")) == ("False", "True")
    plan = world.tick(1.3)
    assert (world.condition("Stalled"), world.condition("Reconciling")) == ("False", "True")
    assert plan.requeue_after is not None
    world.tick(plan.requeue_after)
    assert ready_condition(world)[1] == "NeverReady"
    assert (world.condition("Stalled"), world.condition("Reconciling")) == ("True", "False")
    assert reasons(world) == ["Preparing", "NeverReady"]
    for _ in range(5):
        assert world.tick().requeue_after is None
    assert reasons(world) == ["Preparing", "NeverReady"], "one Event for each trouble"


def test_a_router_that_cannot_be_read_confirms_only_what_it_confirmed_last() -> None:
    world = serving("v1", requests_per_second=0)
    assert world.routes is not None
    confirmed = world.status.routes
    assert confirmed == world.routes.id()
    world.change(spec("v2"))
    world.run(lambda w: w.status.phase == "Canary")
    assert world.status.routes == "", "the routes have changed"
    world.unread = True
    world.change(spec("v1"))
    for _ in range(30):
        world.tick()
        assert world.routes.id() == confirmed
        assert world.status.routes == "", "the router may still follow the routes in between"
        assert identity("v2") in world.revisions
    world.unread = False
    world.run(World.settled, limit=30)


def test_a_source_that_cannot_be_reached_is_rejected_only_at_the_deadline() -> None:
    world = serving("v1")
    world.behaviours["v2"] = Behaviour(
        broken={"waiting": "CrashLoopBackOff", "restarts": 5, "exit_code": 4, "exit_message": "no route to host"}
    )
    world.change(spec("v2", rollout=Rollout(preparing_deadline_seconds=30)))
    for _ in range(25):
        world.tick()
    assert world.status.phase == "Preparing"
    world.run(lambda w: bool(w.status.rejected), limit=10)
    assert world.status.rejected[0].reason == "NeverReady"
    assert "no route to host" in world.status.rejected[0].message


def test_a_first_version_that_cannot_serve_reports_why_and_can_be_replaced() -> None:
    world = World(random.Random(1), spec("v1"))
    world.behaviours["v1"] = Behaviour(broken={"exit_code": 3, "exit_message": "digest differs"})
    for _ in range(20):
        world.tick()
    assert [world.condition(kind) for kind in ("Ready", "Stalled", "Available")] == ["False", "True", "False"]
    assert "digest differs" in world.status.conditions[0].message
    world.change(spec("v2"))
    world.run(lambda w: w.settled() and w.condition("Ready") == "True", limit=60)
    assert list(world.revisions) == [identity("v2")]


@pytest.mark.parametrize("phase", ["Preparing", "Canary", "Promoting", "Baking"])
def test_a_revert_to_stable_is_ready_within_two_reconciles_and_changes_no_pod(phase: str) -> None:
    world = serving("v1")
    pods = dict(world.revisions[identity("v1")].pods)
    world.behaviours["v2"] = Behaviour(seconds_to_ready=10)
    world.change(spec("v2"))
    world.run(lambda w: w.status.phase == phase)
    world.change(spec("v1"))
    world.tick()
    world.tick()
    assert world.condition("Ready") == "True"
    assert world.status.history[0].outcome == "Reverted"
    assert not world.status.rejected
    world.run(World.settled, limit=30)
    assert set(world.revisions[identity("v1")].pods) == set(pods)
    assert world.user_errors == 0


def test_a_third_version_supersedes_the_second_and_starts_at_the_first_step() -> None:
    world = serving("v1")
    world.change(spec("v2"))
    world.run(lambda w: w.status.candidate is not None and w.status.candidate.weight == 50)
    world.change(spec("v3"))
    world.run(lambda w: w.status.candidate is not None and w.status.candidate.version == "v3", limit=5)
    world.run(lambda w: w.status.phase == "Canary" and w.status.candidate is not None, limit=60)
    assert world.status.candidate is not None
    assert world.status.candidate.weight == 5
    assert world.status.history[0].outcome == "Superseded"
    world.run(World.settled)
    assert world.status.stable is not None
    assert world.status.stable.version == "v3"
    assert world.user_errors == 0


def test_a_paused_rollout_prepares_and_rolls_back_but_raises_no_weight() -> None:
    world = serving("v1")
    paused = Rollout(bake_seconds=5, paused=True)
    world.change(spec("v2", rollout=paused))
    for _ in range(60):
        world.tick()
    assert world.status.phase == "Preparing"
    assert "paused" in world.status.conditions[0].message
    world.change(spec("v2"))
    world.run(lambda w: w.status.phase == "Canary")
    world.change(spec("v2", rollout=paused))
    for _ in range(120):
        world.tick()
    assert world.status.candidate is not None
    assert world.status.candidate.weight == 5
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    world.run(lambda w: bool(w.status.rejected), limit=30)


def test_edited_steps_never_restart_a_rollout() -> None:
    world = serving("v1")
    world.change(spec("v2"))
    world.run(lambda w: w.status.candidate is not None and w.status.candidate.weight == 25)
    world.change(spec("v2", rollout=Rollout(steps=steps(1, 10, 80), bake_seconds=5)))
    weights = set()
    while not world.settled():
        world.tick()
        if world.status.candidate is not None:
            weights.add(world.status.candidate.weight)
    assert weights == {25, 80, 100}
    assert "Preparing" not in reasons(world)[reasons(world).index("CanaryStep") :]


def test_min_seconds_and_min_requests_prolong_a_step() -> None:
    world = serving("v1", requests_per_second=500)
    world.change(spec("v2", rollout=Rollout(steps=steps(50, min_seconds=90), bake_seconds=0)))
    world.run(lambda w: w.status.phase == "Canary")
    since = world.now
    world.run(lambda w: w.status.phase != "Canary")
    assert 90 <= world.now - since <= 93
    world = serving("v1", requests_per_second=100)
    world.change(spec("v2", rollout=Rollout(steps=steps(50, min_requests=10_000), bake_seconds=0)))
    world.run(lambda w: w.status.phase == "Baking")
    assert world.answered["v2"] >= 10_000


@pytest.mark.simulation
@pytest.mark.parametrize(("what", "phase"), [("Hold", "Canary"), ("Promote", "Stable"), ("RollBack", "Stable")])
def test_without_requests_on_no_evidence_decides(what: str, phase: str) -> None:
    world = serving("v1", requests_per_second=0)
    world.change(spec("v2", rollout=Rollout(bake_seconds=5, max_seconds=60, on_no_evidence=what)))  # type: ignore[arg-type]
    for _ in range(400):
        world.tick()
    assert world.status.phase == phase
    assert world.status.stable is not None
    assert world.status.stable.version == ("v2" if what == "Promote" else "v1")
    if what == "Hold":
        assert world.status.conditions[0].reason == "InsufficientEvidence"
    if what == "RollBack":
        assert world.status.rejected[0].reason == "NoEvidence"


def test_a_failure_while_baking_rolls_back_to_stable() -> None:
    world = serving("v1")
    world.change(spec("v2", rollout=Rollout(bake_seconds=60)))
    world.run(lambda w: w.status.phase == "Baking")
    world.tick()
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    world.run(lambda w: bool(w.status.rejected), limit=10)
    world.run(World.settled)
    assert world.status.stable is not None
    assert world.status.stable.version == "v1"
    assert world.user_errors == 0


def test_ready_is_true_only_after_the_address_has_answered() -> None:
    world = World(random.Random(1), spec("v1"), reachable=False)
    world.run(lambda w: w.status.stable is not None and w.status.stable.ready_replicas == 1, limit=60)
    for _ in range(5):
        plan = world.tick()
        assert plan.requeue_after == QUICK_POLL_SECONDS, "the model is requeued, although no event will come"
        assert (world.condition("Ready"), world.condition("Available")) == ("False", "False")
    assert needs_address(world.status, world.observed())
    world.reachable = True
    world.run(lambda w: w.condition("Ready") == w.condition("Available") == "True", limit=5)
    assert not needs_address(world.status, world.observed()), "one response is enough"
    assert world.tick().requeue_after is None


def test_a_request_that_only_the_candidate_rejects_is_a_failure_that_no_user_sees() -> None:
    world = serving("v1")
    world.behaviours["v2"] = Behaviour(client_error_rate=1.0)
    world.change(spec("v2"))
    world.run(lambda w: bool(w.status.rejected), limit=120)
    assert world.status.rejected[0].reason == "ErrorRate"
    assert world.user_errors == 0
    counts = re.match(r"(\d+) of (\d+) requests failed; at most 1 % may fail", world.status.rejected[0].message)
    assert counts
    assert counts[1] == counts[2], "each request counts once"


def test_requests_that_no_version_accepts_do_not_count_against_the_candidate() -> None:
    world = serving("v1", invalid_rate=0.2)
    world.change(spec("v2", rollout=Rollout(bake_seconds=5)))
    world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.version == "v2")
    assert not world.status.rejected
    assert world.user_errors == 0


def test_failures_of_both_versions_do_not_count_against_the_candidate() -> None:
    world = serving("v1")
    world.behaviours |= {"v1": Behaviour(error_rate=0.1), "v2": Behaviour(error_rate=0.1)}
    world.change(spec("v2", rollout=Rollout(bake_seconds=5, gates=Gates(ErrorGate(5)))))
    world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.version == "v2")
    assert not world.status.rejected


def test_the_pods_for_a_weight_are_ready_before_the_weight() -> None:
    world = serving("v1")
    world.change(spec("v1", serving=Serving(replicas=4)))
    world.run(lambda w: w.status.replicas == "4/4")
    assert not world.status.history
    world.change(spec("v2", serving=Serving(replicas=4)))
    ready_at: dict[int, int] = {}
    while not world.settled() or not ready_at:
        plan = world.tick()
        candidate = world.status.candidate
        if candidate is not None and plan.routes is not None and plan.routes.weight:
            ready_at.setdefault(plan.routes.weight, candidate.ready_replicas)
    assert ready_at == {5: 1, 25: 2, 50: 4, 100: 4}


def test_an_autoscaled_stable_keeps_its_pods_while_a_candidate_gets_requests() -> None:
    scaled = Serving(autoscaling=Autoscaling(max_replicas=10, min_replicas=2))
    world = serving("v1")
    world.change(spec("v1", serving=scaled))
    world.run(lambda w: w.status.replicas == "2/2")
    world._scale(identity("v1"), "v1", 6)  # by the autoscaler
    world.change(spec("v2", serving=scaled))
    plan = world.tick()
    while world.status.phase != "Baking":
        plan = world.tick()
    assert [desired.replicas for desired in plan.desired] == [6, 6]
    world.run(World.settled)
    assert [desired.replicas for desired in world.tick().desired] == [2]


def test_an_evicted_candidate_has_no_weight_until_it_is_ready_and_is_not_rejected() -> None:
    world = serving("v1")
    world.change(spec("v2"))
    world.run(lambda w: w.status.phase == "Canary" and w.answered.get("v2", 0) > 5)
    world.revisions[identity("v2")].pods.clear()
    world.behaviours["v2"] = Behaviour(seconds_to_ready=5)
    plan = world.tick()
    assert plan.routes is not None
    assert (plan.routes.candidate, plan.routes.weight) == ("b", 0)
    world.run(lambda w: w.routes is not None and w.routes.weight == 5, limit=10)
    assert not world.status.rejected
    assert world.user_errors == 0


def test_a_candidate_that_stops_answering_is_rolled_back() -> None:
    world = serving("v1", requests_per_second=200)
    world.change(spec("v2"))
    world.run(lambda w: w.status.phase == "Canary" and w.answered.get("v2", 0) > 5)
    world.behaviours["v2"] = Behaviour(never_ready=True)
    world.run(lambda w: bool(w.status.rejected), limit=10)
    assert world.user_errors == 0


def test_an_unknown_revision_drains_and_is_removed() -> None:
    world = serving("v1")
    world._scale("deadbeef", "v0", 1)
    world.tick()
    assert world.status.draining[0].revision == "deadbeef"
    world.run(World.settled, limit=20)
    assert list(world.revisions) == [identity("v1")]


def test_a_settled_model_writes_nothing() -> None:
    world = serving("v1")
    world.status_writes = 0
    for _ in range(300):
        plan = world.tick()
        assert plan.requeue_after is None
        assert not plan.deletes
        assert not plan.notices
    assert world.status_writes == 0


def test_evidence_is_written_at_most_every_ten_seconds() -> None:
    world = serving("v1", requests_per_second=5)
    world.change(spec("v2"))
    world.run(lambda w: w.status.phase == "Canary")
    world.status_writes = 0
    for _ in range(100):
        world.tick()
    assert world.status.phase == "Canary"
    assert world.status_writes <= 11  # one of them for the routers' confirmation
    assert world.status.candidate is not None
    assert world.status.candidate.evidence is not None
    assert world.status.candidate.evidence.candidate.requests > 0


def test_every_request_of_the_rollout_counts_and_none_from_before() -> None:
    world = serving("v1", requests_per_second=200)
    for _ in range(30):
        world.tick()
    before = dict(world.answered)
    world.change(spec("v2", rollout=Rollout(steps=steps(10, min_seconds=3600))))
    world.run(lambda w: w.status.phase == "Canary")
    for _ in range(25):
        world.tick()
    world.run(lambda w: written(w) == w.now)
    assert world.status.candidate is not None
    evidence = world.status.candidate.evidence
    assert evidence is not None
    assert evidence.candidate.requests == world.answered["v2"]
    during = world.answered["v1"] - before["v1"]
    assert during - 800 <= evidence.stable.requests <= during  # without those of the 4 s of Preparing
    assert abs((world.status.candidate.observed_percent or 0) - 10) < 1.5


def test_gates_edited_during_a_rollout_apply_at_once() -> None:
    world = serving("v1")
    world.change(spec("v2", rollout=replace(Rollout(bake_seconds=5), gates=Gates(ErrorGate(0.1)))))
    world.run(lambda w: w.status.phase == "Canary")
    for _ in range(100):
        world.tick()
    assert world.status.phase == "Canary"
    assert world.status.candidate is not None
    weight = world.status.candidate.weight
    world.change(spec("v2", rollout=replace(Rollout(bake_seconds=5), gates=Gates(ErrorGate(5)))))
    world.tick()
    assert world.status.candidate.weight > weight


def taken_over() -> World:
    """Return a world in which v2 bakes, and v1 has lost its ready pod."""
    world = serving("v1")
    world.change(spec("v2", rollout=Rollout(bake_seconds=600)))
    world.run(lambda w: w.status.phase == "Baking")
    world.behaviours["v1"] = Behaviour(never_ready=True)
    world.tick()
    return world


def test_the_only_version_that_answers_keeps_its_requests() -> None:
    world = taken_over()
    assert world.condition("Available") == "True"
    before = world.user_errors
    world.behaviours["v2"] = Behaviour(error_rate=0.05)
    for _ in range(100):
        world.tick()
    assert not world.status.rejected
    assert world.user_errors - before < 0.1 * 100 * world.requests_per_second
    world.behaviours["v1"] = Behaviour()
    world.run(lambda w: bool(w.status.rejected), limit=300)  # after a hold: v1 has just been down


def test_a_third_version_is_compared_with_the_version_that_answers() -> None:
    world = taken_over()
    before = world.user_errors
    world.change(spec("v3"))
    world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.version == "v3")
    assert world.user_errors == before
    assert [entry.version for entry in world.status.history[:2]] == ["v3", "v2"]


def test_a_candidate_that_promotes_gets_all_requests_when_stable_is_down() -> None:
    world = serving("v1")
    world.change(spec("v2"))
    world.run(lambda w: w.status.phase == "Promoting")
    world.change(spec("v2", serving=Serving(replicas=4)))
    world.behaviours["v1"] = Behaviour(never_ready=True)
    world.behaviours["v2"] = Behaviour(seconds_to_ready=0.0)
    world.tick()
    late = world.revisions[identity("v2")].pods
    for pod in list(late)[1:]:
        late[pod] = world.now + 10_000  # never scheduled
    world.run(lambda w: w.status.phase == "Baking", limit=60)


@pytest.mark.parametrize("how", ["paused", "operator away"])
def test_a_ready_version_is_never_rejected_as_never_ready(how: str) -> None:
    world = serving("v1")
    rollout = Rollout(preparing_deadline_seconds=30, bake_seconds=5, paused=how == "paused")
    world.change(spec("v2", rollout=rollout))
    world.run(lambda w: w.status.phase == "Preparing")
    if how == "paused":
        for _ in range(100):
            world.tick()
    else:
        world.now += 360
    world.tick()
    assert not world.status.rejected


def test_an_incident_of_both_versions_rejects_neither() -> None:
    world = serving("v1", requests_per_second=100)
    world.change(spec("v2", rollout=Rollout(steps=steps(25, min_seconds=600))))
    world.run(lambda w: w.status.phase == "Canary" and w.answered.get("v2", 0) > 300)
    world.behaviours |= {"v1": Behaviour(error_rate=0.5), "v2": Behaviour(error_rate=0.5)}
    for _ in range(30):
        world.tick()
    assert not world.status.rejected
    world.behaviours |= {"v1": Behaviour(), "v2": Behaviour(error_rate=0.5)}
    world.run(lambda w: bool(w.status.rejected), limit=60)  # after a hold: v1 has just failed half of its requests


def test_promotion_without_evidence_creates_the_pods_for_the_weight() -> None:
    world = serving("v1", requests_per_second=0)
    four = Serving(replicas=4)
    world.change(spec("v1", serving=four))
    world.run(lambda w: w.status.replicas == "4/4")
    rollout = Rollout(bake_seconds=5, max_seconds=60, on_no_evidence="Promote")
    world.change(spec("v2", serving=four, rollout=rollout))
    world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.version == "v2", limit=400)


def test_a_step_within_min_seconds_does_not_lack_evidence() -> None:
    world = serving("v1", requests_per_second=500)
    rollout = Rollout(steps=steps(50, min_seconds=100), bake_seconds=0, max_seconds=60, on_no_evidence="RollBack")
    world.change(spec("v2", rollout=rollout))
    world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.version == "v2", limit=300)


def test_a_retry_starts_with_new_pods() -> None:
    world = serving("v1")
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    world.change(spec("v2"))
    world.run(lambda w: bool(w.status.rejected))
    old = set(world.revisions[identity("v2")].pods)
    world.behaviours["v2"] = Behaviour()
    world.change(spec("v2", rollout=Rollout(bake_seconds=5, retry="2")))
    plan = world.tick()
    assert plan.requeue_after is not None
    world.run(lambda w: w.status.candidate is not None, limit=30)
    assert not old & set(world.revisions.get(identity("v2"), world.revisions[identity("v1")]).pods)
    world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.version == "v2")


def test_failures_during_an_eviction_stay_excused() -> None:
    """Also when the new pod is ready before the next regular write of the evidence."""
    world = serving("v1", requests_per_second=200)
    world.change(spec("v2", rollout=Rollout(steps=steps(5, min_seconds=60), bake_seconds=5)))
    world.run(lambda w: w.status.phase == "Canary" and w.answered.get("v2", 0) > 45)
    world.revisions[identity("v2")].pods.clear()
    world.run(lambda w: w.settled() and w.status.stable is not None and w.status.stable.version == "v2")
    assert not world.status.rejected
    assert world.user_errors == 0


def test_without_a_verdict_the_only_version_that_answers_keeps_its_requests() -> None:
    world = serving("v1", requests_per_second=0)
    rollout = Rollout(bake_seconds=5, max_seconds=60, on_no_evidence="RollBack")
    world.change(spec("v2", rollout=rollout))
    world.run(lambda w: w.status.phase == "Canary")
    while world.status.candidate is not None and world.now < world.status.candidate.since + 58:
        world.tick()
    world.behaviours["v1"] = Behaviour(never_ready=True)
    for _ in range(10):
        world.tick()
    assert not world.status.rejected
    assert ready_condition(world)[2].endswith("; the rollback (NoEvidence) waits for a ready pod of v1")
    world.behaviours["v1"] = Behaviour()
    world.run(lambda w: bool(w.status.rejected), limit=5)
    assert world.status.rejected[0].reason == "NoEvidence"


def test_ready_says_what_a_rollout_waits_for() -> None:
    world = serving("v1", requests_per_second=5)
    world.change(spec("v2", rollout=Rollout(steps=steps(5, min_seconds=20), bake_seconds=5)))
    world.run(lambda w: w.status.phase == "Canary")
    world.reconcile()
    assert ready_condition(world)[2].endswith("; the routers have not confirmed the routes yet")
    world.tick()
    assert ready_condition(world)[2].endswith("; this step lasts at least 20 s")
    world.run(lambda w: "this step" not in ready_condition(w)[2], limit=30)
    assert re.fullmatch(
        r"v2 gets 5 % of the requests, v1 the rest\. 0 of \d+ requests to v2 failed\. No rehearsal: .+\."
        r" Next: 100 % in about 1 h at the present traffic",
        ready_condition(world)[2],
    )
    world.change(spec("v2", rollout=Rollout(steps=steps(5), bake_seconds=5, paused=True)))
    world.tick()
    assert ready_condition(world)[2].endswith("; spec.rollout.paused is true")


def test_every_condition_has_a_reason_in_camel_case() -> None:
    world = serving("v1")
    found = {condition.type: condition.reason for condition in world.status.conditions}
    assert found == {
        "Ready": "Serving",
        "Available": "Serving",
        "Reconciling": "Serving",
        "Stalled": "Serving",
        "RolledBack": "NotRolledBack",
        "Paused": "NotPaused",
        "OutdatedImage": "CurrentImage",
    }


def test_the_selector_finds_the_pods_of_stable() -> None:
    world = World(random.Random(1), spec("v1"))
    world.tick()
    assert world.status.selector == ""
    world.run(World.settled)
    (desired,) = world.tick().desired
    deployment = resources.deployment(OWNER, desired.revision, signing_keys="", allow_unsafe=False)
    selected = dict(label.split("=") for label in world.status.selector.split(","))
    assert selected == deployment["spec"]["selector"]["matchLabels"]


def ready_condition(world: World) -> tuple[str, str, str]:
    """Return status, reason and message of Ready."""
    ready = next(item for item in world.status.conditions if item.type == "Ready")
    return ready.status, ready.reason, ready.message


def test_a_first_version_whose_trust_is_not_allowed_gets_no_pod() -> None:
    world = World(random.Random(1), spec("v1"), denied="spec.model.trust is unsafe: ask")
    for _ in range(5):
        plan = world.tick()
    assert (plan.desired, plan.requeue_after, world.revisions) == ((), None, {})
    assert ready_condition(world) == (
        "False",
        "TrustNotAllowed",
        "spec.model.trust is unsafe: ask. No version has a ready pod",
    )
    assert world.condition("Stalled") == "True"
    assert world.condition("Reconciling") == "False"
    assert world.status_writes == 1
    world.denied = ""
    world.run(World.settled)
    assert world.condition("Ready") == "True"


def test_a_version_whose_trust_is_not_allowed_does_not_change_stable() -> None:
    world = serving("v1")
    world.change(spec("v2"))
    world.denied = "spec.model.trust is signed: ask"
    for _ in range(5):
        world.tick()
    assert list(world.revisions) == [identity("v1")]
    assert ready_condition(world) == (
        "False",
        "TrustNotAllowed",
        "spec.model.trust is signed: ask. v1 serves all requests",
    )
    assert world.condition("Available") == "True"
    assert world.condition("Stalled") == "True"
    assert not world.status.rejected, "it is rolled out as soon as the operator may serve it"
    world.denied = ""
    assert phases(world)[-1] == "Stable"
    assert world.status.stable is not None
    assert world.status.stable.version == "v2"


@pytest.mark.parametrize("phase", ["Preparing", "Canary", "Baking"])
def test_a_candidate_is_withdrawn_when_the_operator_loses_the_right_to_serve_it(phase: str) -> None:
    world = serving("v1")
    world.change(spec("v2"))
    world.run(lambda world: world.status.phase == phase)
    world.denied = "spec.model.trust is unsafe: ask"
    world.run(World.settled)
    assert list(world.revisions) == [identity("v1")]
    assert world.status.history[0].outcome == "Superseded"
    assert world.status.history[0].message == "spec.model.trust is unsafe: ask"
    assert ready_condition(world)[1] == "TrustNotAllowed"
    assert world.user_errors == 0


def test_stable_continues_to_serve_when_its_trust_is_no_longer_allowed_and_reports_it() -> None:
    world = serving("v1")
    world.denied = "spec.model.trust is unsafe: ask"
    for _ in range(5):
        world.tick()
    assert list(world.revisions) == [identity("v1")]
    assert ready_condition(world)[1:] == ("TrustNotAllowed", "spec.model.trust is unsafe: ask. v1 serves all requests")
    assert world.condition("Available") == "True"
    assert world.user_errors == 0


def test_a_version_whose_trust_is_not_allowed_supersedes_the_candidate() -> None:
    world = serving("v1")
    world.change(spec("v2"))
    world.run(lambda world: world.status.phase == "Canary")
    world.change(spec("v3"))
    world.denied = "spec.model.trust is unsafe: ask"
    world.run(World.settled)
    assert list(world.revisions) == [identity("v1")]
    assert "the spec now asks for v3" in world.status.history[0].message
