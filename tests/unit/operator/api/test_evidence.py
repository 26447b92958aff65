"""Counts can be added and subtracted, and show a restart of the process that counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmodel_operator.api.codec import DecodeError, decode, encode
from mlmodel_operator.api.evidence import (
    Again,
    Agreement,
    Counts,
    Cursor,
    Dropped,
    Evidence,
    EvidenceState,
    Outcomes,
    Pairs,
    Recent,
    Segment,
    Sides,
)

NUMBERS = st.builds(Counts, *[st.integers(0, 9)] * 4)
BOTH = st.builds(Sides, NUMBERS, NUMBERS)


@given(NUMBERS, NUMBERS)
def test_subtraction_is_the_inverse_of_addition(left: Counts, right: Counts) -> None:
    assert left + right - right == left
    assert left + Counts() == left
    assert not (left + right).is_reset_since(left)
    assert left.is_reset_since(right) == (
        left.requests < right.requests
        or left.failed < right.failed
        or left.shared < right.shared
        or left.left < right.left
    )


@given(BOTH, BOTH)
def test_both_sides_are_counted_alike(left: Sides, right: Sides) -> None:
    assert left + right - right == left
    assert (left + right).candidate == left.candidate + right.candidate
    assert (left - right).stable == left.stable - right.stable
    assert left.is_reset_since(right) == (
        left.candidate.is_reset_since(right.candidate) or left.stable.is_reset_since(right.stable)
    )


def test_the_sum_of_counts_is_that_of_adding_each_and_has_the_same_bound() -> None:
    for counts in (
        [],
        [Counts(5, 4, 3, 2), Counts(6, 1, 1, 0)],
        [Counts(2**63, 1, 2**63, 1), Counts(1, 2**63, 1, 2**63)],
    ):
        assert Counts.sum_of(counts) == sum(counts, Counts())


def test_rates_are_shares_of_the_requests() -> None:
    counts = Counts(200, failed=10, shared=4)
    assert (counts.own, counts.failure_rate, Counts().failure_rate) == (6, 0.05, 0.0)
    both = Sides(counts, Counts(200, failed=2))
    assert (both.requests, both.failure_rate, Sides().failure_rate) == (400, 0.03, 0.0)


def test_the_state_is_one_string_on_the_wire_and_comes_back_whole() -> None:
    state = EvidenceState(
        hard=(0.25, -1.5),
        blocks=3,
        segments=(Segment(5, 0.005, Sides(Counts(5, 1, 1), Counts(95, 2, left=7)), 1),),
        recent=Recent(Counts(95, 2), Counts(90, 1), 1.5),
        uncounted={"large": 3},
        pods={"a-1": 0.0},
        routers={"r": Cursor("00", {"5": Sides(Counts(5, 1, 1), Counts(95, 2))}, {"large": 3})},
        dropped_until=2.5,
    )
    sent = encode(Evidence(state=state))
    assert isinstance(sent["state"], str)
    assert " " not in sent["state"]
    assert decode(Evidence, sent).state == state


def test_equal_states_are_the_same_string() -> None:
    pods = {"a": 1.0, "b": 2.0}
    other = dict(reversed(pods.items()))
    assert encode(Evidence(state=EvidenceState(pods=pods))) == encode(Evidence(state=EvidenceState(pods=other)))


@pytest.mark.parametrize("state", ["{", 5, {"hard": []}])
def test_a_state_that_is_not_a_json_string_is_named(state: object) -> None:
    with pytest.raises(DecodeError, match=r"evidence\.state must be a JSON string"):
        decode(Evidence, {"state": state}, "evidence")


# --------------------------------------------------------------------------------------------------------------- pairs

SMALL = st.integers(0, 9)


def bins(lowest: int, highest: int) -> st.SearchStrategy[dict[str, int]]:
    return st.dictionaries(st.integers(lowest, highest).map(str), SMALL, max_size=3)


AGREE = st.lists(SMALL, min_size=5, max_size=5).map(
    lambda n: Agreement(rows=n[0] + n[1] + 9, same=n[0], form=n[1], outside=n[2], candidate_mode=n[3], own_mode=n[4])
)
PAIRS = st.builds(
    Pairs,
    seen=SMALL,
    kept=SMALL,
    left=SMALL,
    asked=SMALL,
    dropped=st.builds(Dropped, SMALL, SMALL),
    pairs=st.builds(Outcomes, *[SMALL] * 4),
    again=st.lists(SMALL, min_size=2, max_size=2).map(lambda n: Again(max(n), min(n))),
    agree=AGREE,
    gaps=bins(-20, 20),
    gaps_again=bins(-20, 20),
    ratios=bins(-100, 100),
    ratios_again=bins(-100, 100),
    times=bins(0, 200),
    own_times=bins(0, 200),
)


def numbers(value: object, path: str = "") -> dict[str, int]:
    """Return all numbers of an encoded object by their path."""
    if isinstance(value, dict):
        return {name: number for key, item in value.items() for name, number in numbers(item, f"{path}.{key}").items()}
    assert isinstance(value, int)
    return {path: value}


@given(PAIRS, PAIRS)
def test_pairs_of_two_pods_are_summed_number_by_number(left: Pairs, right: Pairs) -> None:
    own, more, both = (numbers(encode(item)) for item in (left, right, left + right))
    assert both == {name: own.get(name, 0) + more.get(name, 0) for name in own.keys() | more.keys()}
    assert left + right == right + left
    assert left + Pairs() == left


@given(PAIRS)
def test_pairs_come_back_from_a_status_whole(found: Pairs) -> None:
    assert decode(Pairs, encode(found)) == found


@pytest.mark.parametrize(
    "data",
    [
        {"seen": -1},
        {"seen": 2**64},
        {"pairs": {"both": -1}},
        {"dropped": {"own": 2**64}},
        {"again": {"both": 1, "differ": 2}},
        {"agree": {"rows": 3, "same": 2, "form": 2}},
        {"agree": {"rows": 3, "outside": 4}},
        {"agree": {"rows": 3, "candidateMode": 4}},
        {"agree": {"rows": 3, "ownMode": 4}},
        {"ratios": {"101": 1}},
        {"ratios": {"1e2": 1}},
        {"ratios": {"01": 1}},
        {"ratiosAgain": {"-101": 1}},
        {"gaps": {"21": 1}},
        {"gapsAgain": {"x": 1}},
        {"times": {"-1": 1}},
        {"ownTimes": {"5": -1}},
    ],
)
def test_numbers_that_cannot_be_counts_of_pairs_are_rejected(data: object) -> None:
    with pytest.raises(DecodeError):
        decode(Pairs, data)


def test_pages_of_a_pod_that_lies_stay_counts_of_the_same_rows() -> None:
    """Its process is another one every second, and claims as many rows as a page can."""
    page = Pairs(
        agree=Agreement(rows=2**53, same=2**52, form=2**52), again=Again(2**53, 2**53), ratios={"0": 2**53}, seen=2**53
    )
    past = Pairs(agree=Agreement(rows=5, same=5))
    for _ in range(1100):
        past += page
    assert past.agree.same + past.agree.form == past.agree.rows <= 2**63
    assert past.ratios["0"] <= 2**63
