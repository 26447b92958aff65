"""The gates on pairs: how often they are wrong, and how many pairs they need.

``bench/decisions.py`` has the simulations, and tables of more runs than there is time for here.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmodel_operator.api.evidence import Counts, Outcomes, Pairs, Segment, Sides
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.rollout.evidence import errors, pairs
from mlmodel_operator.rollout.evidence.difference import DECISIVE, PROVEN


def needed(limit: float) -> int:
    """Return how many pairs without a failure certify a limit."""
    return next(n for n in range(1, 5000) if pairs.is_certified(Pairs(pairs=Outcomes(n)), limit))


def test_some_hundred_pairs_without_a_failure_certify_one_percent() -> None:
    assert 570 <= needed(0.01) <= 650
    assert 285 <= needed(0.02) <= 325
    assert 140 <= needed(0.04) <= 165


def test_a_version_that_fails_everything_is_rejected_with_few_pairs() -> None:
    decisive = [n for n in range(1, 20) if pairs.judge(Pairs(pairs=Outcomes(0, n)), max_percent=1).is_decisive]
    assert decisive[0] <= 8
    assert decisive == list(range(decisive[0], 20))
    verdict = pairs.judge(Pairs(pairs=Outcomes(1, 9)), max_percent=1)
    assert verdict.reason is Reason.REHEARSAL_ERRORS
    assert verdict.message == (
        "9 of 10 repeated requests failed on it and not on stable, 0 on stable and not on it; it may fail at most 1"
        " percentage points more"
    )


@given(st.integers(0, 10_000))
def test_requests_that_fail_on_both_blame_nobody_and_prove_nothing(number: int) -> None:
    both = Outcomes(both_failed=number)
    assert pairs.against(both, 0.01) == 0.0
    assert pairs.certification(both, 0.01) == pytest.approx(0.0)
    assert not pairs.is_proven((), Pairs(pairs=both), 0.5)


def test_a_better_version_has_nothing_against_it() -> None:
    assert pairs.against(Outcomes(900, 0, 100), 0.01) == 0.0
    assert pairs.against(Outcomes(900, 10, 100), 0.01) == 0.0


def test_an_outage_of_stable_does_not_certify_a_bad_candidate() -> None:
    outage = Pairs(pairs=Outcomes(1000, 100, 1000))
    assert not pairs.is_certified(outage, 0.01)


# ------------------------------------------------------------------------------------------------ with live requests

GOOD = (Segment(50, 0.005, Sides(Counts(2000), Counts(2000))),)


def test_either_proof_is_enough_for_a_step_and_neither_counts_when_there_is_none() -> None:
    assert errors.is_certified(GOOD, 0.01)
    for found in (Pairs(), Pairs(pairs=Outcomes(5)), Pairs(pairs=Outcomes(5, both_failed=9))):
        assert pairs.is_proven(GOOD, found, 0.01)
    enough = Pairs(pairs=Outcomes(700))
    assert pairs.is_proven((), enough, 0.01)
    assert pairs.is_proven((Segment(5, 0.0025, Sides(Counts(5), Counts(95))),), enough, 0.01)
    assert not pairs.is_proven((), Pairs(), 0.5)


def test_the_evidence_of_both_is_their_mean() -> None:
    found = Pairs(pairs=Outcomes(700))
    live, repeated = math.exp(pairs.both(GOOD, Pairs(), 0.01)), math.exp(pairs.both((), found, 0.01))
    assert math.exp(pairs.both(GOOD, found, 0.01)) == pytest.approx((live + repeated) / 2)


def test_what_has_no_outcome_is_missed_with_pairs_too() -> None:
    """A candidate that hides its failures from the routers is not promoted by what it answered to copies."""
    hidden = (Segment(50, 0.0025, Sides(Counts(0), Counts(100))),)
    assert not pairs.is_proven(hidden, Pairs(pairs=Outcomes(5000)), 0.01)


def test_thresholds() -> None:
    assert (DECISIVE, PROVEN) == (1000, 300)


@given(st.builds(Outcomes, *[st.integers(0, 2**53)] * 4), st.sampled_from([0.001, 0.01, 0.5]))
def test_any_counts_give_finite_evidence(found: Outcomes, margin: float) -> None:
    assert math.isfinite(pairs.against(found, margin))
    assert math.isfinite(pairs.certification(found, margin))
    assert pairs.judge(Pairs(pairs=found), max_percent=100 * margin).against >= 0
