"""Late changes: the pairs since some earlier moments, beside all pairs.

The gates judge counts of all pairs. A version that turns bad after many good pairs would need as many bad ones. So a
part of the evidence bets on the pairs since a mark, which is set after each ``BLOCK`` pairs: all marks have shares that
sum to one, however many there are, so the sum is evidence as each of them is (Ville's inequality; Shin, Ramdas, Rinaldo
2023: e-detectors). To forget a mark only lowers it. Where a mark is set does not depend on any answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mlmodel_operator.api.evidence import Agreement, Mark, Outcomes, Pairs
from mlmodel_operator.rollout.evidence.difference import log_sum
from mlmodel_operator.rollout.evidence.errors import Verdict, evidence_of

BLOCK, BLOCK_SECONDS = 100, 20.0
"""Least number of pairs, and least time, between two marks."""
_MOST_MARKS = 6
"""Marks that are kept: the four latest, and two more that are up to seven blocks old. So one is always old enough for
the gate on times."""
_FIRST = 0.8
"""Share of the evidence for all pairs; the marks have the rest."""


@dataclass(frozen=True)
class Window:
    """The pairs since a mark."""

    number: int
    """That of the mark, from 1."""
    seconds: float
    """Time since the mark."""
    pairs: Pairs


def marked(marks: tuple[Mark, ...], pairs: Pairs, now: float) -> tuple[Mark, ...]:
    """Return the marks with one more, if there are ``BLOCK`` pairs in ``BLOCK_SECONDS`` since the last one."""
    last = marks[-1] if marks else Mark()
    if pairs.pairs.all < last.pairs.pairs.all + BLOCK or now < last.at + BLOCK_SECONDS:
        return marks
    number = last.number + 1
    # Only what the tests need: the marks are in the status.
    counts = Pairs(
        pairs=pairs.pairs,
        agree=pairs.agree,
        gaps=pairs.gaps,
        ratios=pairs.ratios,
        times=pairs.times,
        own_times=pairs.own_times,
    )
    kept = [mark for mark in marks if mark.number % 2 ** max((number - mark.number).bit_length() - 2, 0) == 0]
    return (*kept, Mark(number, round(now, 3), counts))[-_MOST_MARKS:]


def windows(marks: tuple[Mark, ...], pairs: Pairs, now: float) -> tuple[Window, ...]:
    """Return the pairs since each mark."""
    return tuple(Window(mark.number, now - mark.at, _since(pairs, mark.pairs)) for mark in marks)


def judge(test: Callable[[Pairs], Verdict], pairs: Pairs, later: tuple[Window, ...]) -> Verdict:
    """Return the verdict of a gate on all pairs and on those since the marks, with the message of the strongest."""
    parts = [(_FIRST, test(pairs), "")]
    for window in later:
        share = (1.0 - _FIRST) / (window.number * (window.number + 1))
        parts.append((share, test(window.pairs), f"of the last {window.pairs.pairs.all} repeated requests: "))
    logs = [math.log(share * verdict.against) if verdict.against > 0.0 else -math.inf for share, verdict, _ in parts]
    _, verdict, prefix = parts[max(range(len(parts)), key=lambda index: logs[index])]
    # The share of all marks to come does not bet yet.
    logs.append(math.log((1.0 - _FIRST) / (max((window.number for window in later), default=0) + 1)))
    return Verdict(evidence_of(log_sum(logs)), verdict.reason, prefix + verdict.message)


def _since(pairs: Pairs, before: Pairs) -> Pairs:
    """Return the pairs after ``before``. How stable differs from itself is known from all of them."""
    outcomes, agree = _differences(pairs.pairs, before.pairs), _differences(pairs.agree, before.agree)
    # Answers are compared anew with the spread that is known now, so a count may fall.
    rows = agree.pop("rows")
    agree = {name: min(number, rows) for name, number in agree.items()}
    agree["form"] = min(agree["form"], rows - agree["same"])
    return replace(
        pairs,
        pairs=Outcomes(**outcomes),
        agree=Agreement(rows, **agree),
        gaps=_bins(pairs.gaps, before.gaps),
        ratios=_bins(pairs.ratios, before.ratios),
        times=_bins(pairs.times, before.times),
        own_times=_bins(pairs.own_times, before.own_times),
    )


def _differences(now: Outcomes | Agreement, before: Outcomes | Agreement) -> dict[str, int]:
    return {name: max(number - getattr(before, name), 0) for name, number in vars(now).items()}


def _bins(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    found = {name: number - before.get(name, 0) for name, number in now.items()}
    return {name: number for name, number in found.items() if number > 0}
