"""Counts can be added and subtracted, and show a restart of the process that counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmodel_operator.api.codec import DecodeError, decode, encode
from mlmodel_operator.api.evidence import Counts, Cursor, Evidence, EvidenceState, Recent, Segment, Sides

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
