"""The rehearsal: stable's requests are repeated on the candidate before a user meets it, and while it is rolled out."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.status import Rejected
from mlmodel_operator.api.types import ApiKeys, Rehearsal, Rollout, Serving, Step
from mlmodel_operator.names import ACCEPT_ANNOTATION
from tests.unit.operator.rollout.world import Behaviour, World, candidate, identity, serving, spec

DEFAULT = Rollout()


def rehearsing(version: str = "v1", **how: Any) -> World:
    """Return a world in which a version serves whose pods keep a sample of their requests."""
    return serving(version, rehearses=True, **how)


def ready_message(world: World) -> str:
    return next(item.message for item in world.status.conditions if item.type == "Ready")


def in_phase(phase: str, weight: int | None = None) -> object:
    """Return whether a world is in this phase, as a function."""
    return lambda world: world.status.phase == phase and (weight is None or candidate(world).weight == weight)


def until(world: World, phase: str, weight: int | None = None, limit: float = 300.0) -> None:
    world.run(in_phase(phase, weight), limit)  # type: ignore[arg-type]


def rejected(world: World) -> Rejected:
    world.run(lambda w: w.condition("RolledBack") == "True", 300)
    return world.status.rejected[0]


def seconds_to_stable(world: World, version: str, rollout: Rollout = DEFAULT) -> float:
    """Return the time from ``kubectl apply`` until the model is Stable."""
    start = world.now
    world.change(spec(version, rollout=rollout))
    world.run(lambda w: w.settled() and w.status.stable.version == version and w.status.phase == "Stable", 3000)  # type: ignore[union-attr]
    return world.now - start


# ---------------------------------------------------------------------------------------------------- how long it takes


@pytest.mark.simulation
@pytest.mark.parametrize(
    ("per_second", "pairs_per_second", "limit"),
    [(1.0, 20, 180.0), (0.1, 20, 180.0), (0.0, 20, 180.0), (100.0, 50, 120.0)],
)
def test_a_healthy_version_is_certified_at_any_traffic(per_second: float, pairs_per_second: int, limit: float) -> None:
    world = rehearsing(requests_per_second=per_second, pairs_per_second=pairs_per_second, kept_before=1000)
    start = world.now
    world.change(spec("v2", rollout=DEFAULT))
    until(world, "Baking")
    assert candidate(world).rehearsal is not None
    certified = candidate(world).rehearsal.certified_percent  # type: ignore[union-attr]
    assert certified is not None
    assert certified < 1.0
    world.run(lambda w: w.settled())
    seconds = world.now - start
    print(f"{per_second} requests per second: {seconds:.0f} s from apply to Stable")
    assert seconds <= limit
    assert world.user_errors == 0
    assert "without proof" not in world.status.history[0].message


def test_a_model_without_any_request_is_rolled_out_and_called_unproven() -> None:
    world = rehearsing(requests_per_second=0)
    start = world.now
    world.change(spec("v2", rollout=DEFAULT))
    until(world, "Baking")
    assert candidate(world).unproven == Reason.NO_TRAFFIC
    world.run(lambda w: w.settled())
    print(f"no request: {world.now - start:.0f} s from apply to Stable")
    assert world.now - start <= 180
    assert "without proof, because no request came" in world.status.history[0].message
    (promoted,) = [notice for notice in world.notices if notice.reason == Reason.PROMOTED]
    assert "without proof, because no request came" in promoted.message


# --------------------------------------------------------------------------------------------- rejected before any user


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Behaviour(slower=2.0), Reason.SLOWER_THAN_STABLE),
        (Behaviour(agrees=0.1), Reason.OTHER_ANSWERS),
        (Behaviour(client_error_rate=1.0), Reason.REHEARSAL_ERRORS),
        (Behaviour(error_rate=0.2), Reason.REHEARSAL_ERRORS),
    ],
    ids=["twice as slow", "swapped labels", "other columns", "20 % errors"],
)
def test_a_bad_version_is_rejected_before_a_user_meets_it(behaviour: Behaviour, reason: Reason) -> None:
    world = rehearsing(requests_per_second=1, kept_before=1000)
    world.behaviours["v2"] = behaviour
    world.change(spec("v2"))
    until(world, "Validating")
    start = world.now
    verdict = rejected(world)
    assert (verdict.reason, verdict.weight) == (reason, 0)
    print(f"{reason}: {world.now - start:.0f} s after the pods were ready; {verdict.message}")
    assert world.now - start <= 30
    assert world.answered.get("v2", 0) == 0
    assert "was rejected before its first request" in ready_message(world)
    assert verdict.message in ready_message(world)
    world.run(lambda w: w.settled())
    assert set(world.revisions) == {identity("v1")}


def test_copies_of_live_requests_go_on_in_the_canary() -> None:
    world = rehearsing(requests_per_second=0, kept_before=20)
    world.change(spec("v2"))
    until(world, "Canary")
    world.requests_per_second = 20
    world.behaviours["v2"] = Behaviour(slower=3.0)
    verdict = rejected(world)
    assert (verdict.reason, verdict.weight > 0) == (Reason.SLOWER_THAN_STABLE, True)


def test_a_model_that_gets_one_request_again_and_again_is_promoted_by_its_live_requests() -> None:
    """Each pod repeats it once. It is not "no request", so nothing is called unproven."""
    world = rehearsing(requests_per_second=50, different=1)
    for _ in range(20):
        world.tick()
    world.change(spec("v2", rollout=DEFAULT))
    until(world, "Canary")
    assert candidate(world).rehearsal.requests == 1  # type: ignore[union-attr]
    until(world, "Baking", limit=900)
    assert candidate(world).unproven == ""
    assert candidate(world).rehearsal.requests == 1  # type: ignore[union-attr]
    world.run(lambda w: w.settled() and w.status.stable.version == "v2", 900)  # type: ignore[union-attr]
    assert "without proof" not in world.status.history[0].message


def test_one_bad_answer_to_one_request_is_found_with_the_first_users() -> None:
    world = rehearsing(requests_per_second=50, different=1)
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    for _ in range(20):
        world.tick()
    world.change(spec("v2", rollout=DEFAULT))
    assert rejected(world).weight <= 5
    assert world.user_errors == 0


def test_a_version_that_turns_slow_after_a_thousand_pairs_is_found_within_two_minutes() -> None:
    world = rehearsing(requests_per_second=10, kept_before=1000, pairs_per_second=100)
    world.change(spec("v2", rollout=Rollout(steps=(Step(50, min_seconds=3000),))))
    until(world, "Canary")
    world.behaviours["v2"] = Behaviour(slower=2.0)
    start = world.now
    verdict = rejected(world)
    assert verdict.reason == Reason.SLOWER_THAN_STABLE
    assert "of the last" in verdict.message
    assert world.now - start < 120


# ----------------------------------------------------------------------------------------------- what Validating awaits


def test_validating_gives_no_weight_and_needs_no_slot() -> None:
    world = rehearsing(kept_before=1000)
    world.change(spec("v2"))
    until(world, "Validating")
    world.tick()
    found = candidate(world)
    assert (found.weight, found.slot) == (0, None)
    assert world.routes is not None
    assert world.routes.candidate is None
    assert world.file.startswith(f"candidate {identity('v2')} ")
    assert len(world.file.split()[2]) == 64
    for _ in range(10):
        world.tick()
    assert "repeated" in ready_message(world)
    assert "left" in ready_message(world)


def test_the_file_is_removed_when_the_rollout_has_ended() -> None:
    world = rehearsing(kept_before=1000, requests_per_second=0)
    assert world.file == ""
    world.change(spec("v2"))
    until(world, "Validating")
    assert world.file == "", "only once the status has the phase"
    world.tick()
    assert world.file
    until(world, "Baking")
    assert world.file
    world.run(lambda w: w.settled())
    assert world.file == ""


def test_a_paused_rollout_stays_in_validating() -> None:
    world = rehearsing(kept_before=10)
    world.change(spec("v2"))
    until(world, "Validating")
    world.change(spec("v2", rollout=Rollout(paused=True)))
    for _ in range(200):
        world.tick()
    assert world.status.phase == "Validating"
    world.change(spec("v2"))
    until(world, "Canary")


def test_the_rest_is_not_awaited_once_the_others_prove_all_steps() -> None:
    world = rehearsing(kept_before=1000, pairs_per_second=30, requests_per_second=50)
    world.change(spec("v2"))
    until(world, "Validating")
    start = world.now
    until(world, "Canary")
    assert 20 <= world.now - start <= 30


def test_a_slow_rehearsal_ends_after_two_minutes_with_what_there_is() -> None:
    world = rehearsing(kept_before=1000, pairs_per_second=1)
    world.change(spec("v2"))
    until(world, "Validating")
    start = world.now
    until(world, "Canary")
    assert 120 <= world.now - start <= 122
    assert "could not be repeated within 120 s" in world.notices[-1].message


def test_pages_that_stay_unreadable_end_the_rehearsal_after_half_a_minute_and_say_what_to_do() -> None:
    world = rehearsing(kept_before=1000)
    world.silent_pages = dict.fromkeys(world.samples, world.now)
    world.change(spec("v2"))
    until(world, "Validating")
    world.silent_pages = dict.fromkeys(world.samples, world.now)
    start = world.now
    until(world, "Canary")
    assert 30 <= world.now - start <= 32
    assert "do not answer the operator on port 8090" in world.notices[-1].message
    assert "NetworkPolicy" in world.notices[-1].message


def test_a_rehearsal_of_few_requests_lasts_until_times_can_be_judged() -> None:
    world = rehearsing(kept_before=40, requests_per_second=0)
    world.behaviours["v2"] = Behaviour(slower=3.0)
    world.change(spec("v2"))
    verdict = rejected(world)
    assert (verdict.reason, verdict.weight) == (Reason.SLOWER_THAN_STABLE, 0)
    world = rehearsing(kept_before=40, requests_per_second=0)
    world.change(spec("v2"))
    until(world, "Validating")
    start = world.now
    until(world, "Canary")
    assert world.now - start <= 10, "nothing speaks against it"


def test_a_file_that_no_pod_reads_ends_the_rehearsal_after_two_minutes() -> None:
    world = rehearsing(kept_before=1000)
    world.change(spec("v2"))
    until(world, "Validating")
    start = world.now
    while world.status.phase == "Validating":
        world.file = ""  # kubelet does not refresh it
        world.tick()
    assert 120 <= world.now - start <= 122
    assert world.status.phase == "Canary"
    assert "The rehearsal ended early: the pods of v1 have not read yet which version" in world.notices[-1].message


@pytest.mark.parametrize(
    ("rehearses", "serving_v2", "rollout", "why"),
    [
        (True, Serving(api_keys=ApiKeys("other")), Rollout(bake_seconds=5), "use different Secrets with API keys"),
        (False, Serving(), Rollout(bake_seconds=5), "the pods of v1 were started without one"),
        (True, Serving(), Rollout(rehearsal=Rehearsal(0)), ""),
    ],
    ids=["other keys", "older pods", "off"],
)
def test_without_a_rehearsal_the_usual_canary_decides(
    rehearses: bool, serving_v2: Serving, rollout: Rollout, why: str
) -> None:
    world = serving("v1", rehearses=rehearses, kept_before=1000)
    world.change(spec("v2", rollout=rollout, serving=serving_v2))
    while world.status.phase != "Canary":
        world.tick()
        assert world.status.phase in ("Preparing", "Canary")
        assert world.file == ""
    assert candidate(world).rehearsal is None
    assert (f"No rehearsal: v1 and v2 {why}" in ready_message(world)) or why in ready_message(world)
    assert ("No rehearsal" in ready_message(world)) == bool(why)
    until(world, "Baking", limit=900)


def test_a_rehearsal_that_is_turned_off_ends() -> None:
    world = rehearsing(kept_before=1000)
    world.change(spec("v2"))
    until(world, "Validating")
    world.tick()
    world.change(spec("v2", rollout=Rollout(rehearsal=Rehearsal(0))))
    world.tick()
    assert world.status.phase == "Canary"
    assert world.file == ""


# ---------------------------------------------------------------------------------------------------- steps by pairs


def test_a_step_that_pairs_have_proven_takes_a_few_live_requests_and_seconds() -> None:
    world = rehearsing(requests_per_second=0.0, kept_before=1000)
    world.change(spec("v2", rollout=DEFAULT))
    until(world, "Canary", 5)
    start = world.now
    world.tick()
    proven = r"Next: 25 %, proven by \d{3} repeated requests; the step waits for 3 requests to v2, at most 15 s"
    assert re.search(proven, ready_message(world))
    until(world, "Canary", 25)
    assert 15 <= world.now - start <= 16, "without live requests"
    world.requests_per_second = 50
    start = world.now
    until(world, "Canary", 50)
    assert 5 <= world.now - start <= 6, "with live requests"
    assert "3 requests" not in ready_message(world)


def test_minimums_of_a_step_hold_for_one_that_pairs_have_proven() -> None:
    rollout = Rollout(steps=(Step(50, min_seconds=40), Step(60, min_requests=500)), bake_seconds=5)
    world = rehearsing(requests_per_second=10, kept_before=1000)
    world.change(spec("v2", rollout=rollout))
    until(world, "Canary", 50)
    start = world.now
    until(world, "Canary", 60)
    assert world.now - start >= 40
    start = world.now
    until(world, "Promoting")
    assert world.now - start >= 80


def test_a_first_request_ends_the_steps_without_proof() -> None:
    world = rehearsing(requests_per_second=0)
    world.change(spec("v2", rollout=DEFAULT))
    until(world, "Canary", 25)
    assert candidate(world).unproven == Reason.NO_TRAFFIC
    assert "without proof, because no request came" in world.notices[-1].message
    world.requests_per_second = 1
    world.tick()
    world.tick()
    world.requests_per_second = 0
    for _ in range(100):
        world.tick()
    assert candidate(world).weight == 25, "the usual proof is required"


@pytest.mark.simulation
@pytest.mark.parametrize(
    "how", ["hold", "no rehearsal", "unread router", "unread page", "seen before", "counted", "chosen", "minimum"]
)
def test_no_request_must_be_certain(how: str) -> None:
    world = rehearsing(requests_per_second=0)
    rollout = replace(DEFAULT, on_no_evidence="Hold") if how == "hold" else DEFAULT
    if how == "no rehearsal":
        rollout = replace(DEFAULT, rehearsal=Rehearsal(0))
    if how == "minimum":
        rollout = replace(DEFAULT, steps=(Step(5, min_requests=1),))
    if how == "seen before":
        for sample in world.samples.values():
            sample.seen = 1
    world.change(spec("v2", rollout=rollout))
    until(world, "Canary", 5)
    for _ in range(60):
        world.unread = how == "unread router"
        world.requests_per_second = 1 if how == "counted" else 0
        world.uncounted = {"chosen": 1} if how == "chosen" else {}
        world.silent_pages = dict.fromkeys(world.samples, world.now) if how == "unread page" else {}
        world.tick()
        for sample in world.samples.values() if how == "counted" else ():
            sample.seen = sample.kept = sample.left = 0
    assert candidate(world).weight == 5
    assert candidate(world).unproven == ""


# ------------------------------------------------------------------------------------------------- an intended change


def test_an_intended_change_is_let_through_by_an_annotation_of_that_revision() -> None:
    world = rehearsing(kept_before=1000, requests_per_second=100)
    world.behaviours["v2"] = Behaviour(agrees=0.1)
    world.change(spec("v2"))
    assert rejected(world).reason == Reason.OTHER_ANSWERS
    command = f"kubectl annotate mlm fraud {ACCEPT_ANNOTATION}={identity('v2')}"
    assert command in ready_message(world)
    assert "spec.rollout.retry" in ready_message(world)
    (notice,) = [notice for notice in world.notices if notice.reason == Reason.ROLLED_BACK]
    assert command in notice.message
    world.run(lambda w: w.settled())

    world.annotations[ACCEPT_ANNOTATION] = identity("v3")
    world.change(spec("v2", rollout=Rollout(retry="1", bake_seconds=5)))
    world.run(lambda w: len(w.status.history) == 2 and w.settled())
    assert world.status.history[0].outcome == "RolledBack", "the annotation names another revision"

    world.annotations[ACCEPT_ANNOTATION] = identity("v2")
    world.change(spec("v2", rollout=Rollout(retry="2", bake_seconds=5)))
    world.run(lambda w: w.settled() and w.status.stable.version == "v2")  # type: ignore[union-attr]
    assert "accept" in world.status.history[0].message
    (promoted,) = [notice for notice in world.notices if notice.reason == Reason.PROMOTED]
    assert ACCEPT_ANNOTATION in promoted.message


def test_an_accepted_change_is_still_too_slow() -> None:
    world = rehearsing(kept_before=1000)
    world.behaviours["v2"] = Behaviour(agrees=0.1, slower=3.0)
    world.annotations[ACCEPT_ANNOTATION] = identity("v2")
    world.change(spec("v2"))
    assert rejected(world).reason == Reason.SLOWER_THAN_STABLE
    assert "kubectl annotate" not in ready_message(world)


# ------------------------------------------------------------------------------------------------------ what may happen


@pytest.mark.parametrize("names_sessions", [True, False], ids=["", "older release"])
def test_a_retry_is_not_judged_by_the_pairs_of_the_rehearsal_before(names_sessions: bool) -> None:
    world = rehearsing(kept_before=1000, names_sessions=names_sessions)
    world.behaviours["v2"] = Behaviour(error_rate=0.5)
    world.change(spec("v2"))
    assert rejected(world).reason == Reason.REHEARSAL_ERRORS
    world.behaviours["v2"] = Behaviour()
    world.reads_file = False  # until it does, a pod shows the pairs of the rehearsal before
    world.run(lambda w: w.settled())
    world.change(spec("v2", rollout=Rollout(retry="again", bake_seconds=5)))
    until(world, "Validating")
    for _ in range(10):
        world.tick()
    assert (world.status.phase, len(world.status.history)) == ("Validating", 1)
    assert "have not read yet which version to rehearse" in ready_message(world)
    world.reads_file = True
    until(world, "Canary")
    assert candidate(world).rehearsal.failed_only_on_candidate == 0  # type: ignore[union-attr]


def test_a_page_that_cannot_be_read_delays_no_rehearsal() -> None:
    started = []
    for silent in (False, True):
        world = rehearsing(kept_before=500)
        start = world.now
        world.silent_pages = dict.fromkeys(world.samples, world.now) if silent else {}
        world.change(spec("v2"))
        until(world, "Validating")
        started.append(world.now - start)
    assert started[0] == started[1]


@pytest.mark.parametrize("names_sessions", [True, False], ids=["", "older release"])
def test_a_page_that_cannot_be_read_at_first_counts_once_it_is_of_this_rehearsal(names_sessions: bool) -> None:
    world = rehearsing(kept_before=500, names_sessions=names_sessions)
    world.reads_file = False
    world.silent_pages = dict.fromkeys(world.samples, world.now)
    world.change(spec("v2"))
    until(world, "Validating")
    world.silent_pages.clear()
    world.tick()
    world.reads_file = True
    until(world, "Canary")
    assert candidate(world).rehearsal.requests >= 500  # type: ignore[union-attr]


def test_pairs_of_a_pod_that_is_gone_or_starts_again_count_once() -> None:
    world = rehearsing(kept_before=800, requests_per_second=0)
    world.change(spec("v2", serving=Serving(replicas=2)))
    until(world, "Validating")
    for _ in range(15):
        world.tick()
    first, second = world.revisions[identity("v1")].pods
    asked = world.samples[first].pairs.asked
    assert asked
    world.samples[first].boot += 1
    world.samples[first].pairs = type(world.samples[first].pairs)()
    for _ in range(15):
        world.tick()
    again = world.samples[first].pairs.asked
    assert again
    del world.revisions[identity("v1")].pods[first]
    for _ in range(12):
        world.tick()
    found = candidate(world).evidence
    assert found is not None
    total = asked + again + world.samples[second].pairs.asked
    assert found.state.pairs.asked <= total
    assert found.state.pairs.asked >= total - 100, "what it counted since the last write of the status is lost"
    assert first not in found.state.pages


def test_failures_while_a_pod_of_the_candidate_is_replaced_do_not_count() -> None:
    world = rehearsing(kept_before=1000, pairs_per_second=5)
    world.change(spec("v2", serving=Serving(replicas=2), rollout=Rollout(steps=(Step(50),))))
    until(world, "Validating")
    for _ in range(5):
        world.tick()
    revision = world.revisions[identity("v2")]
    del revision.pods[next(iter(revision.pods))]
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    for _ in range(2):
        world.tick()
    world.behaviours["v2"] = Behaviour()
    for _ in range(60):
        world.tick()
    assert world.status.rejected == ()
    assert candidate(world).rehearsal.failed_only_on_candidate == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("version", ["v1", "v3"], ids=["reverted", "superseded"])
def test_a_candidate_that_is_withdrawn_in_validating_is_removed_at_once(version: str) -> None:
    world = rehearsing(kept_before=1000)
    world.change(spec("v2"))
    until(world, "Validating")
    world.tick()
    world.change(spec(version))
    world.tick()
    world.tick()
    assert identity("v2") not in world.revisions
    assert world.status.history[0].outcome == ("Reverted" if version == "v1" else "Superseded")
    world.run(lambda w: w.settled() and w.status.stable.version == version)  # type: ignore[union-attr]
    assert world.answered.get("v2", 0) == 0


def test_a_verdict_in_validating_is_held_while_stable_is_in_trouble() -> None:
    world = rehearsing(kept_before=1000, requests_per_second=5)
    world.change(spec("v2"))
    until(world, "Validating")
    world.tick()
    file = world.file
    world.behaviours["v2"] = Behaviour(error_rate=0.5)
    world.revisions[identity("v1")].restarts += 1
    world.run(lambda w: any(notice.reason == Reason.STABLE_UNWELL for notice in w.notices), 60)
    found = candidate(world)
    assert (found.phase, found.weight, found.holds, found.evidence) == ("Preparing", 0, 1, None)
    assert world.file == ""
    world.behaviours["v2"] = Behaviour()
    until(world, "Validating")
    world.tick()
    assert world.file.split()[1] == file.split()[1]
    assert world.file.split()[2] != file.split()[2], "another rehearsal of the same revision"
    until(world, "Canary")
    assert candidate(world).rehearsal.failed_only_on_candidate == 0, "it starts from zero"  # type: ignore[union-attr]
    assert world.status.rejected == ()


def test_other_answers_are_not_held() -> None:
    world = rehearsing(kept_before=1000, requests_per_second=5)
    world.behaviours["v2"] = Behaviour(agrees=0.1)
    world.change(spec("v2"))
    until(world, "Validating")
    world.revisions[identity("v1")].restarts += 1
    assert rejected(world).reason == Reason.OTHER_ANSWERS


def test_a_candidate_in_validating_stands_in_and_goes_on_to_the_canary() -> None:
    world = rehearsing(kept_before=1000, pairs_per_second=1)
    world.change(spec("v2"))
    until(world, "Validating")
    world.tick()
    world.behaviours["v1"] = Behaviour(never_ready=True)
    world.run(lambda w: candidate(w).stands_in_since is not None, 10)
    assert world.routes is not None
    assert world.routes.weight == 100
    until(world, "Canary", limit=10)
    world.behaviours["v1"] = Behaviour()
    world.run(lambda w: candidate(w).stands_in_since is None, 60)
    assert candidate(world).weight == 5
    world.run(lambda w: w.settled() and w.status.stable.version == "v2")  # type: ignore[union-attr]


def test_a_status_that_is_lost_in_validating_starts_the_rehearsal_again() -> None:
    world = rehearsing(kept_before=1000, requests_per_second=5)
    world.change(spec("v2"))
    until(world, "Validating")
    for _ in range(5):
        world.tick()
    file, started = world.file, candidate(world).started_at
    world.lose_status()
    world.tick()
    assert candidate(world).started_at > started
    assert candidate(world).rehearsal.requests == 0  # type: ignore[union-attr]
    world.run(lambda w: w.file not in ("", file), 10)
    world.run(lambda w: w.settled() and w.status.stable.version == "v2")  # type: ignore[union-attr]


@pytest.mark.simulation
@pytest.mark.parametrize("writes", range(7))
@pytest.mark.parametrize(
    "behaviour", [Behaviour(), Behaviour(slower=3.0), Behaviour(error_rate=0.5)], ids=["good", "slow", "bad"]
)
def test_an_operator_that_is_killed_in_validating_reaches_the_same_state(writes: int, behaviour: Behaviour) -> None:
    world = rehearsing(kept_before=1000, requests_per_second=20)
    world.behaviours["v2"] = behaviour
    world.change(spec("v2"))
    for turn in range(1000):
        world.tick(dies_after=99 if turn % 3 == 0 else writes)
        if world.settled() and world.status.observed_generation == 2 and turn % 3 == 0:
            break
    assert world.settled()
    assert world.status.stable is not None
    assert world.status.stable.version == ("v2" if behaviour == Behaviour() else "v1")
    assert world.user_errors == 0
    if behaviour != Behaviour():
        assert world.answered.get("v2", 0) == 0


@pytest.mark.parametrize("names_sessions", [True, False], ids=["", "older release"])
def test_a_page_of_an_earlier_rehearsal_that_cannot_be_read_at_first_does_not_count(names_sessions: bool) -> None:
    """The version failed because of something else, and is retried. Kubelet refreshes the file late, and a page is
    silent when the second rehearsal begins."""
    world = rehearsing(requests_per_second=5, kept_before=500, names_sessions=names_sessions)
    world.behaviours["v2"] = Behaviour(error_rate=1.0)
    world.change(spec("v2", rollout=Rollout(bake_seconds=3)))
    world.run(lambda w: bool(w.status.rejected))
    world.reads_file, world.behaviours["v2"] = False, Behaviour()
    world.change(spec("v2", rollout=Rollout(bake_seconds=3, retry="again")))
    world.silent_pages = dict.fromkeys(world.samples, world.now)
    for _ in range(8):
        world.tick()
    world.silent_pages.clear()
    for _ in range(20):
        world.tick()
    assert world.status.candidate is not None
    world.reads_file = True
    world.run(lambda w: w.settled())
    assert world.status.stable is not None
    assert world.status.stable.version == "v2"
