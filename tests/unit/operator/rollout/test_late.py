"""Late changes: a version that turns bad after many good pairs is found soon, and a good one is not rejected."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from mlmodel_operator.api.evidence import Agreement, Mark, Outcomes, Pairs
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.types import Gates
from mlmodel_operator.rollout.evidence import chain, late, latency
from mlmodel_operator.rollout.evidence.errors import Verdict
from mlmodel_operator.rollout.evidence.late import BLOCK, Window

GOOD = 1000
"""Pairs of a version before it turns bad."""


def counts(good: int, bad: int = 0, kind: str = "fails") -> Pairs:
    """Return good pairs, and bad ones of this kind."""
    both, half = good + bad - (bad if kind == "fails" else 0), (good + bad) // 2
    changed, other = (bad if kind == name else 0 for name in ("changes", "other form"))
    rows = Agreement(both, both - changed - other, 0, half, half, other) if half <= both else Agreement(both, both)
    slow = bad if kind == "is slow" else 0
    return Pairs(
        pairs=Outcomes(both, bad if kind == "fails" else 0),
        agree=rows,
        ratios={name: number for name, number in (("0", both - slow), ("15", slow)) if number},
    )


def marks_after(number: int, at: Callable[[int], float] = float) -> tuple[Mark, ...]:
    marks: tuple[Mark, ...] = ()
    for good in range(10, number + 1, 10):
        marks = late.marked(marks, counts(good), at(good))
    return marks


@pytest.mark.parametrize(
    ("kind", "reason", "most"),
    [
        ("fails", Reason.REHEARSAL_ERRORS, 30),
        ("other form", Reason.OTHER_FORM, 130),
        ("is slow", Reason.SLOWER_THAN_STABLE, 130),
        ("changes", Reason.OTHER_ANSWERS, 130),
    ],
)
def test_a_version_that_turns_bad_after_a_thousand_pairs_is_rejected_soon(kind: str, reason: Reason, most: int) -> None:
    marks = marks_after(GOOD)

    def verdict(bad: int, marks: tuple[Mark, ...]) -> Verdict | None:
        found = counts(GOOD, bad, kind)
        return chain.judge(found, Gates(), later=late.windows(marks, found, 1e6))

    decided = 0
    while not (found := verdict(decided, marks)):
        decided += 10
        marks = late.marked(marks, counts(GOOD, decided, kind), 1e6 - latency.LATE_SECONDS)
    assert found.reason == reason
    assert decided <= most
    assert verdict(decided, ()) is None, "all pairs together show nothing yet"
    assert "of the last" in found.message


def test_a_few_seconds_do_not_make_a_version_slow() -> None:
    marks, found = marks_after(GOOD), counts(GOOD, 200, "is slow")
    at = marks[-1].at
    soon = late.windows(marks[-1:], found, at + latency.LATE_SECONDS - 1)
    lasting = late.windows(marks[-1:], found, at + latency.LATE_SECONDS)
    assert chain.judge(found, Gates(), later=soon) is None
    assert chain.judge(found, Gates(), later=lasting) is not None


def test_marks_are_few_and_the_latest_are_all_there() -> None:
    for number in (1, 2, 3, 10, 57):
        numbers = [mark.number for mark in marks_after(number * BLOCK)]
        assert len(numbers) <= 6
        assert numbers[-3:] == list(range(max(number - 2, 1), number + 1))
        assert number < 8 or number - numbers[0] >= 4


@pytest.mark.parametrize("per_second", [1, 10, 100, 1000])
def test_one_mark_is_old_enough_for_the_gate_on_times_at_any_speed(per_second: int) -> None:
    marks: tuple[Mark, ...] = ()
    for second in range(1, 400):
        marks = late.marked(marks, counts(second * per_second), float(second))
        ages = [second - mark.at for mark in marks]
        assert second < 300 or any(age >= latency.LATE_SECONDS for age in ages)


def test_shares_of_all_marks_are_one_whatever_their_number() -> None:
    """If each part has the evidence 1, the sum has too."""
    neutral = Verdict(1.0, Reason.REHEARSAL_ERRORS, "")
    for number in (0, 1, 5, 1000):
        later = tuple(Window(place, 0.0, Pairs()) for place in range(1, number + 1))
        assert late.judge(lambda _: neutral, Pairs(), later).against == pytest.approx(1.0)


def test_the_evidence_is_a_bet_whose_mean_is_at_most_one() -> None:
    """Pairs that are slower with a probability of exactly a half: the mean of the evidence after 300 of them."""
    rng, total, runs = random.Random(20261129), 0.0, 100
    for _ in range(runs):
        marks: tuple[Mark, ...] = ()
        slow = 0
        for number in range(1, 301):
            slow += rng.random() < 0.5
            if number % BLOCK == 0:
                found = Pairs(pairs=Outcomes(number), ratios={"0": number - slow, "15": slow})
                marks = late.marked(marks, found, float(number))
        verdict = chain.verdicts(found, Gates(), late.windows(marks, found, 1e6))["latency"]
        total += verdict.against
    assert total / runs < 1.5


def test_counts_that_fall_are_no_evidence() -> None:
    """Answers are compared anew with a spread that is known better, and a process that ends takes its last pairs."""
    before = Pairs(pairs=Outcomes(500, 3), agree=Agreement(500, 400, 20, 300, 300, 5), gaps={"-20": 400, "3": 100})
    after = Pairs(pairs=Outcomes(450, 2), agree=Agreement(450, 420, 0, 100, 100, 0), gaps={"-20": 450})
    (window,) = late.windows((Mark(1, 0.0, before),), after, 1e6)
    assert window.pairs.pairs == Outcomes()
    assert window.pairs.agree == Agreement()
    assert chain.judge(after, Gates(), later=(window,)) is None


@pytest.mark.parametrize("seed", range(20))
def test_differences_of_any_counts_are_counts(seed: int) -> None:
    rng = random.Random(seed)

    def some() -> Pairs:
        rows = rng.randrange(1000)
        same = rng.randrange(rows + 1)
        outside, mode, own_mode = (rng.randrange(rows + 1) for _ in range(3))
        agree = Agreement(rows, same, outside, mode, own_mode, rng.randrange(rows - same + 1))
        bins = {str(rng.randrange(-20, 20)): rng.randrange(100) for _ in range(5)}
        return Pairs(pairs=Outcomes(*(rng.randrange(100) for _ in range(4))), agree=agree, gaps=bins, ratios=bins)

    found = some()
    for window in late.windows((Mark(1, 0.0, some()),), found, 1.0):
        assert all(math.isfinite(verdict.against) for verdict in chain.verdicts(found, Gates(), (window,)).values())
