"""The error gate: how often it is wrong with an evaluation after every block, and how fast it decides."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmodel_operator.api.evidence import Counts, Ledger, Sides
from mlmodel_operator.rollout.evidence import errors

SEED = 20260102


def first_rejection(
    rng: random.Random, candidate: float, stable: float, *, looks: int, share: float, per_look: int, limit: float = 1.0
) -> tuple[int, int] | None:
    """Return (requests, failures) of the candidate at its rejection, with an evaluation per block; None if never."""
    ledger, own, others = Ledger(), Counts(), Counts()
    for _ in range(looks):
        n = sum(rng.random() < share for _ in range(per_look))
        block = Sides(
            Counts(n, 0, sum(rng.random() < candidate for _ in range(n))),
            Counts(per_look - n, 0, sum(rng.random() < stable for _ in range(per_look - n))),
        )
        ledger = errors.update(ledger, block, max_percent=limit, stable_before=others)
        own, others = own + block.candidate, others + block.stable
        if errors.judge(ledger, own, others, max_percent=limit).is_decisive:
            return own.requests, own.failed
    return None


@pytest.mark.parametrize("rate", [0.0, 0.002, 0.005, 0.01])
def test_a_candidate_as_good_as_stable_is_hardly_ever_rejected_with_an_evaluation_every_second(rate: float) -> None:
    rng = random.Random(SEED)
    rejected = sum(first_rejection(rng, rate, rate, looks=120, share=0.25, per_look=20) is not None for _ in range(300))
    # By Ville's inequality at most 1/1000 for each of the two tests, so three of 300 are very improbable.
    assert rejected <= 2


def test_an_incident_that_hits_both_versions_rejects_neither() -> None:
    rng = random.Random(SEED)
    rejected = 0
    for _ in range(100):
        ledger, own, others = Ledger(), Counts(), Counts()
        for look in range(60):
            rate = 0.3 if 20 <= look < 40 else 0.0
            # The weight rises during the incident: totals alone would count against the candidate.
            n = 2 if look < 30 else 20
            block = Sides(
                Counts(n, 0, sum(rng.random() < rate for _ in range(n))),
                Counts(40 - n, 0, sum(rng.random() < rate for _ in range(40 - n))),
            )
            ledger = errors.update(ledger, block, max_percent=50, stable_before=others)
            own, others = own + block.candidate, others + block.stable
            if errors.judge(ledger, own, others, max_percent=50).is_decisive:
                rejected += 1
                break
    assert rejected <= 1


@pytest.mark.parametrize(("rate", "at_most"), [(1.0, 2), (0.5, 8), (0.2, 30), (0.05, 250)])
def test_a_bad_candidate_is_rejected_after_few_requests(rate: float, at_most: int) -> None:
    rng = random.Random(SEED)
    found = [first_rejection(rng, rate, 0.0, looks=4000, share=0.1, per_look=10) for _ in range(60)]
    requests = sorted(hit[0] for hit in found if hit is not None)
    assert len(requests) == 60
    median = requests[30]
    print(f"seed {SEED}: at {100 * rate:g} % errors the median is {median} requests")
    assert median <= at_most


def test_two_failures_of_two_are_decisive_at_the_default_limit() -> None:
    block = Sides(Counts(2, 0, 2), Counts(38))
    ledger = errors.update(Ledger(), block, max_percent=1.0, stable_before=Counts())
    assert errors.judge(ledger, block.candidate, block.stable, max_percent=1.0).is_decisive
    one = Sides(Counts(1, 0, 1), Counts(19))
    ledger = errors.update(Ledger(), one, max_percent=1.0, stable_before=Counts())
    assert not errors.judge(ledger, one.candidate, one.stable, max_percent=1.0).is_decisive


def test_a_certain_but_harmless_difference_does_not_reject_a_candidate() -> None:
    ledger, own, others = Ledger(), Counts(), Counts()
    for _ in range(1000):
        block = Sides(Counts(1000, 5, 0), Counts(1000, 0, 0))
        ledger = errors.update(ledger, block, max_percent=1.0, stable_before=others)
        own, others = own + block.candidate, others + block.stable
    assert not errors.judge(ledger, own, others, max_percent=1.0).is_decisive


@pytest.mark.parametrize(("percent", "clean"), [(20, 32), (4, 175), (2, 352), (1, 708)])
def test_certification_requires_the_requests_in_the_documentation(percent: float, clean: int) -> None:
    assert errors.missing_requests(Counts(), percent / 100) == clean
    assert errors.is_certified(Counts(clean), percent / 100)
    assert not errors.is_certified(Counts(clean - 1), percent / 100)
    assert not errors.is_certified(Counts(clean, 0, 1), percent / 100)


def test_a_candidate_at_the_limit_is_hardly_ever_certified_with_an_evaluation_after_every_block() -> None:
    rng = random.Random(SEED)
    certified = 0
    for _ in range(500):
        counts = Counts()
        for _ in range(200):
            counts += Counts(10, 0, sum(rng.random() < 0.04 for _ in range(10)))
            if errors.is_certified(counts, 0.04):
                certified += 1
                break
    assert certified <= 3


def test_the_limit_of_a_step_depends_on_its_weight_and_on_stable() -> None:
    assert errors.limit_for(25, max_percent=1.0, stable=Counts()) == pytest.approx(0.04)
    assert errors.limit_for(100, max_percent=1.0, stable=Counts()) == pytest.approx(0.01)
    assert errors.limit_for(100, max_percent=1.0, stable=Counts(1000, 0, 20)) == pytest.approx(0.03)
    assert errors.limit_for(1, max_percent=50, stable=Counts()) == 0.5


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50)), max_size=30),
    st.floats(0.1, 50),
)
def test_no_counts_break_the_arithmetic(blocks: list[tuple[int, int, int, int]], limit: float) -> None:
    ledger, own, others = Ledger(), Counts(), Counts()
    for a, b, c, d in blocks:
        block = Sides(Counts(a + b, 0, b), Counts(c + d, 0, d))
        ledger = errors.round_ledger(errors.update(ledger, block, max_percent=limit, stable_before=others))
        own, others = own + block.candidate, others + block.stable
        verdict = errors.judge(ledger, own, others, max_percent=limit)
        assert 0.0 <= verdict.against < float("inf")
        assert errors.certified_percent(own) is None or errors.certified_percent(own) >= 0.0  # type: ignore[operator]
