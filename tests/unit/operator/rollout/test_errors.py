"""The error gate: how often it is wrong with an evaluation every second, and how fast it decides.

``bench/decisions.py`` has the simulation, and a table of more runs than there is time for here.
"""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.decisions import Gate, rollout
from mlmodel_operator.api.evidence import Counts, Evidence, EvidenceState, Pairs, Segment, Sides
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.rollout.evidence import difference, errors, pairs

pytestmark = pytest.mark.simulation

SEED = 20260102


def gate(*seconds: tuple[int, Sides], max_percent: float = 1.0) -> Gate:
    """Return the gate after these seconds, each with its weight."""
    found = Gate(max_percent)
    for weight, sides in seconds:
        found.add(weight, sides)
    return found


def binomial(rng: random.Random, n: int, p: float) -> int:
    return sum(rng.random() < p for _ in range(n))


# ------------------------------------------------------------------------------------------------------- rollback


@pytest.mark.parametrize(("rate", "per_second"), [(0.0, 50), (0.01, 50), (0.05, 50), (0.05, 5), (0.2, 20)])
def test_a_candidate_as_good_as_stable_is_hardly_ever_rolled_back_with_an_evaluation_every_second(
    rate: float, per_second: int
) -> None:
    found = [
        rollout(random.Random(SEED + run), rate, rate, per_second=per_second, steps=(25,), horizon=60)
        for run in range(40)
    ]
    # At most 1/1000 for each of the two tests: one of 40 is improbable, two are a fault.
    assert sum(item.ending == "rolled back" for item in found) <= 1


@pytest.mark.parametrize(("weight", "rate"), [(99, 0.05), (95, 0.03), (90, 0.05)])
def test_a_first_step_that_leaves_stable_few_requests_condemns_no_candidate_as_good_as_stable(
    weight: int, rate: float
) -> None:
    found = [rollout(random.Random(SEED + run), rate, rate, steps=(weight,), horizon=90) for run in range(12)]
    assert "rolled back" not in {item.ending for item in found}


@pytest.mark.parametrize("weight", [5, 10, 25, 50, 90, 99])
def test_a_candidate_that_fails_all_requests_falls_at_once_at_any_first_weight(weight: int) -> None:
    for per_second in (1, 50):
        found = [
            rollout(random.Random(SEED + run), 1.0, 0.0, steps=(weight,), per_second=per_second) for run in range(5)
        ]
        assert {item.ending for item in found} == {"rolled back"}
        assert all(item.requests <= max(4, per_second) for item in found)


@pytest.mark.parametrize(("rate", "at_most"), [(1.0, 3), (0.5, 8), (0.2, 30), (0.05, 250)])
def test_a_bad_candidate_is_rolled_back_after_few_requests(rate: float, at_most: int) -> None:
    found = [rollout(random.Random(SEED + run), rate, 0.0, per_second=10, steps=(10,)) for run in range(21)]
    assert {item.ending for item in found} == {"rolled back"}
    median = statistics.median(item.requests for item in found)
    print(f"seed {SEED}: at {100 * rate:g} % failures the median is {median} requests")
    assert median <= at_most


@pytest.mark.parametrize("weight", [5, 25, 50, 100])
def test_two_failures_of_two_are_decisive_at_the_default_limit_and_one_is_not(weight: int) -> None:
    others = 0 if weight == 100 else 38
    assert gate((weight, Sides(Counts(2, 2), Counts(others)))).is_against()
    assert not gate((weight, Sides(Counts(1, 1), Counts(others)))).is_against()


@pytest.mark.parametrize("weight", [50, 100])
def test_a_candidate_that_turns_bad_after_many_good_requests_falls_at_once(weight: int) -> None:
    """A test without a memory of its successes: otherwise 10,000 of them pay for hundreds of failures."""
    others = 0 if weight == 100 else 50
    found = gate(*[(weight, Sides(Counts(50), Counts(others)))] * 200)
    found.add(weight, Sides(Counts(8, 8), Counts(0 if weight == 100 else 8)))
    assert found.is_against()


def test_a_certain_but_harmless_difference_does_not_roll_back() -> None:
    found = gate(*[(50, Sides(Counts(1000, 5), Counts(1000)))] * 300)
    assert not found.is_against()


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("weight", [10, 50, 100])
def test_an_incident_that_hits_both_versions_condemns_neither(weight: int) -> None:
    condemned = 0
    for run in range(40):
        rng, found = random.Random(SEED + run), Gate()
        for second in range(60):
            rate = 0.3 if 20 <= second < 40 else 0.0
            own = 40 * weight // 100
            failed, others = binomial(rng, own, rate), binomial(rng, 40 - own, rate)
            found.add(weight, Sides(Counts(own, failed, binomial(rng, failed, rate)), Counts(40 - own, others)))
            if found.is_against():
                condemned += 1
                break
    assert condemned <= 1


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("weight", [5, 50, 100])
def test_poison_that_fails_on_both_versions_condemns_nobody(weight: int) -> None:
    rng, found = random.Random(SEED), Gate()
    for _ in range(200):
        own = binomial(rng, 50, weight / 100)
        poison, others = binomial(rng, own, 0.3), binomial(rng, 50 - own, 0.3)
        found.add(weight, Sides(Counts(own, poison, poison), Counts(50 - own, others)))
        assert not found.is_against()


def test_the_reason_says_whether_the_candidate_fails_alone_or_more_than_stable() -> None:
    alone = gate((50, Sides(Counts(10, 10), Counts(10))))
    verdict = errors.judge(alone.evidence, max_percent=1)
    assert verdict.reason == Reason.ERROR_RATE
    assert verdict.message == "10 of 10 requests failed; at most 1 % may fail"
    more = gate(*[(50, Sides(Counts(100, 40, 25), Counts(100, 20)))] * 10)
    verdict = errors.judge(more.evidence, max_percent=1)
    assert (verdict.reason, verdict.is_decisive) == (Reason.ERROR_RATE_ABOVE_STABLE, True)
    assert verdict.message.startswith(
        "400 of 1000 requests failed, 250 of them on stable too; stable failed 200 of 1000"
    )


# ---------------------------------------------------------------------------------------------------- certification


@pytest.mark.parametrize(("weight", "target", "clean"), [(5, 25, 150), (25, 50, 350), (50, 100, 800)])
def test_certification_requires_the_requests_in_the_documentation(weight: int, target: int, clean: int) -> None:
    """Requests to the candidate without a failure, if the candidate has no others."""
    found = Gate()
    while not found.is_proven(target):
        found.add(weight, Sides(Counts(weight), Counts(100 - weight)))
    requests = found.evidence.candidate.requests
    print(f"from {weight} to {target} %: {requests} requests")
    assert requests == pytest.approx(clean, rel=0.05)
    found.add(weight, Sides(Counts(1, 1)))
    assert not found.is_proven(target)


@pytest.mark.parametrize("rate", [0.01, 0.03, 0.05])
def test_errors_that_both_versions_have_do_not_prevent_a_promotion(rate: float) -> None:
    found = [rollout(random.Random(SEED + run), rate, rate) for run in range(5)]
    assert [item.ending for item in found] == ["promoted"] * 5
    median = statistics.median(item.seconds for item in found)
    print(f"seed {SEED}: at {100 * rate:g} % failures of both the median is {median} s")
    assert median <= 20 * 60  # of five; bench/decisions.py has the median of many


@pytest.mark.parametrize(("candidate", "stable"), [(0.03, 0.0), (0.04, 0.01), (0.08, 0.05), (0.3, 0.0)])
def test_a_candidate_that_fails_three_points_more_is_not_promoted(candidate: float, stable: float) -> None:
    found = [rollout(random.Random(SEED + run), candidate, stable, horizon=900) for run in range(5)]
    assert "promoted" not in {item.ending for item in found}


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("poison", [0.1, 0.3])
def test_poison_buys_no_promotion_for_a_version_that_fails(poison: float) -> None:
    found = [rollout(random.Random(SEED + run), 0.3, 0.0, poison=poison, horizon=900) for run in range(10)]
    assert {item.ending for item in found} == {"rolled back"}


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_requests_of_both_sides_without_an_outcome_delay_no_promotion_and_condemn_nobody(share: float) -> None:
    found = [rollout(random.Random(SEED + run), 0.0, 0.0, unknown=(share, share)) for run in range(10)]
    assert [item.ending for item in found] == ["promoted"] * 10
    median = statistics.median(item.seconds for item in found)
    print(f"seed {SEED}: with {100 * share:g} % without an outcome the median is {median} s")
    assert median * (1 - share) <= 180


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("others", [0.0, 0.1])
@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_a_candidate_whose_requests_have_far_fewer_outcomes_than_those_of_stable_is_not_promoted(
    share: float, others: float
) -> None:
    """All its other requests are good: its clients give up soon, or it answers 404. That alone condemns no version."""
    found = [rollout(random.Random(SEED + run), 0.0, 0.0, unknown=(share, others), horizon=900) for run in range(8)]
    assert {item.ending for item in found} == {"no verdict"}


def test_a_candidate_is_not_certified_by_the_requests_of_stable_alone() -> None:
    for weight in (1, 5, 50, 99):
        found = gate(*[(weight, Sides(Counts(), Counts(100 - weight)))] * 300)
        assert not found.is_proven(100)


@pytest.mark.parametrize(("share", "at_most"), [(1.0, 12), (0.5, 40), (0.2, 120), (0.05, 900)])
def test_a_candidate_whose_clients_give_up_late_is_rolled_back(share: float, at_most: int) -> None:
    found = [rollout(random.Random(SEED + run), 0.0, 0.0, late=share, per_second=10) for run in range(15)]
    assert {item.ending for item in found} == {"rolled back"}
    median = statistics.median(item.requests for item in found)
    print(f"seed {SEED}: at {100 * share:g} % late the median is {median} requests")
    assert median <= at_most


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("steps", [(5, 25, 50), (50,)])
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_a_client_that_gives_up_late_on_both_sides_condemns_nobody(share: float, steps: tuple[int, ...]) -> None:
    """The candidate's are shared failures, as if stable had failed each of them."""
    found = [
        rollout(random.Random(SEED + run), 0.0, 0.0, poison=share, steps=steps, per_second=20, horizon=300)
        for run in range(20)
    ]
    assert sum(item.ending == "rolled back" for item in found) <= 1


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_a_client_that_gives_up_between_the_failures_of_both_versions_condemns_nobody(share: float) -> None:
    found = [rollout(random.Random(SEED + run), 0.0, 0.0, timed=share, horizon=300) for run in range(20)]
    assert sum(item.ending == "rolled back" for item in found) <= 1


@pytest.mark.attack(held=True)
def test_clients_that_give_up_do_not_protect_a_candidate_that_fails_alone() -> None:
    found = [rollout(random.Random(SEED + run), 0.2, 0.0, timed=0.3, horizon=300) for run in range(10)]
    assert {item.ending for item in found} == {"rolled back"}


@pytest.mark.attack(held=True)
def test_an_outage_of_stable_buys_no_promotion_for_a_version_that_fails() -> None:
    rng = random.Random(SEED)
    for before in (0, 30):
        found = gate(*[(5, Sides(Counts(3), Counts(47)))] * before)
        for _ in range(60):
            found.add(5, Sides(Counts(3, binomial(rng, 3, 0.3)), Counts(47, 47)))
            assert not found.is_proven(25)


def test_only_failures_of_stable_that_speak_for_the_candidate_are_credited() -> None:
    segments = (
        Segment(5, 0.01, Sides(Counts(50, 1), Counts(950, 300, left=7)), credited=60),
        Segment(25, 0.01, Sides(Counts(250, 0), Counts(750, 20)), credited=20),
    )
    assert difference.credited(segments) == Sides(Counts(300, 1), Counts(1700, 80))


def test_a_candidate_that_is_better_than_a_stable_that_always_fails_is_promoted() -> None:
    found = [rollout(random.Random(SEED + run), 0.0, 0.2) for run in range(3)]
    assert {item.ending for item in found} == {"promoted"}


def test_a_candidate_at_the_limit_is_hardly_ever_certified_with_an_evaluation_every_second() -> None:
    certified = 0
    for run in range(60):
        rng, found = random.Random(SEED + run), Gate()
        for _ in range(100):
            failed = binomial(rng, 10, 0.05)
            found.add(25, Sides(Counts(10, failed), Counts(30, binomial(rng, 30, 0.03))))
            if found.is_proven(50):  # requires less than 2 points more
                certified += 1
                break
    assert certified <= 1


def test_without_draws_for_stable_only_the_candidates_own_failures_certify() -> None:
    """At a weight of 100 stable may fail everything: the candidate's own rate must be below the limit."""
    rng, limit, wrong = random.Random(SEED), 0.04, 0
    for _ in range(150):
        segments: tuple[Segment, ...] = ()
        for _ in range(60):
            counts = Counts(50, binomial(rng, 50, limit))
            segments = difference.add(segments, 100, Sides(counts, Counts()))
            if errors.is_certified(segments, limit):
                wrong += 1
                break
    # At most 1/300 each: one of 150 is improbable, three are a fault.
    assert wrong <= 2
    good = difference.add((), 100, Sides(Counts(500, 2), Counts()))
    assert errors.is_certified(good, limit)
    assert not errors.is_certified(difference.add((), 100, Sides(Counts(500, 150), Counts())), 0.1)


def test_the_limit_of_a_step_depends_on_its_weight() -> None:
    assert errors.limit_for(25, max_percent=1.0) == pytest.approx(0.04)
    assert errors.limit_for(100, max_percent=1.0) == pytest.approx(0.01)
    assert errors.limit_for(1, max_percent=50) == 0.5


def test_what_is_certified_is_the_difference_to_stable() -> None:
    found = gate(*[(50, Sides(Counts(500, 15), Counts(500, 15)))] * 100)
    percent = pairs.certified_percent(found.evidence.state.segments, Pairs())
    assert percent is not None
    assert 0.3 < percent < 1.0, "although the candidate fails 3 %"
    assert pairs.certified_percent((), Pairs()) is None


# -------------------------------------------------------------------------------------------------------- the state


def test_a_segment_assumes_only_what_was_counted_before_it() -> None:
    segments: tuple[Segment, ...] = ()
    seen = Sides()
    for _ in range(2000):
        before = segments
        block = Sides(Counts(25, 1), Counts(25, 2))
        segments = difference.add(segments, 50, block)
        if len(segments) > len(before):
            assert segments[-1].rate == pytest.approx(difference.assumed_rate(seen), abs=1e-6)
        assert [segment.rate for segment in segments[: len(before)]] == [segment.rate for segment in before]
        seen += block
    assert difference.total(segments) == seen
    assert len(segments) < 20


def test_routers_with_different_weights_need_no_more_segments() -> None:
    segments: tuple[Segment, ...] = ()
    for _ in range(500):
        for weight in (5, 25):
            segments = difference.add(segments, weight, Sides(Counts(weight), Counts(100 - weight)))
    assert len(segments) < 30
    assert difference.at_weight(segments, 5) == Sides(Counts(2500), Counts(47500))


@pytest.mark.attack(held=True)
@given(
    st.lists(st.tuples(st.sampled_from([1, 5, 50, 99, 100]), *[st.integers(0, 50)] * 5), max_size=30),
    st.floats(0.1, 50),
)
def test_no_counts_break_the_arithmetic(blocks: list[tuple[int, int, int, int, int, int]], limit: float) -> None:
    found = Gate(limit)
    for weight, a, b, c, d, e in blocks:
        found.add(weight, Sides(Counts(a + b, b, min(b, e)), Counts(c + d, d)))
        verdict = errors.judge(found.evidence, max_percent=limit)
        assert 0.0 <= verdict.against < float("inf")
        percent = pairs.certified_percent(found.evidence.state.segments, Pairs())
        assert percent is None or 0.0 < percent <= 50.0


def test_a_state_of_another_release_starts_the_hard_test_again() -> None:
    evidence = Evidence(state=EvidenceState(hard=(1.0, 2.0)))
    hard = errors.update_hard(evidence.state.hard, 0, 5, Sides(Counts(1), Counts(19)), max_percent=1, before=Sides())
    assert len(hard) == 6


@pytest.mark.parametrize(
    ("weight", "own", "others", "has_outcomes"),
    [
        (5, 0, 60, True),  # within a block of 100 the draw is not exact
        (5, 0, 95, True),
        (5, 0, 120, False),
        (50, 20, 25, True),
        (50, 19, 25, False),
        (50, 85, 100, True),
        (50, 84, 100, False),
    ],
)
def test_few_requests_may_lack_an_outcome_by_chance(weight: int, own: int, others: int, has_outcomes: bool) -> None:
    segments = (Segment(weight, 0.01, Sides(Counts(own), Counts(others))),)
    assert errors.has_outcomes(segments) == has_outcomes
