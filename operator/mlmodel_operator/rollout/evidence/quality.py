"""The quality gate: whether the candidate's predictions are right as often as those of stable.

Hypothesis: the share of the candidate's predictions that are wrong is at most ``max_drop`` above that of stable, for
predictions that were drawn at one weight and whose labels were read together. It says nothing about the share itself,
so requests may become harder during the rollout, also while the weight rises.

The test bets, block by block. A block has labels of both sides, all drawn at one weight. For an alternative (b: stable
is wrong, a: the candidate is wrong) each label multiplies a capital by its likelihood under the alternative, divided by
that under the hypothesis that is closest to the alternative for the numbers of labels of this block. If the hypothesis
is true for the averages of a block, the expected value of its factor is at most 1 (Turner, Grünwald 2023): the mean of
the factors' expected values is a linear function of the shares, 1 at the closest hypothesis and at most 1 at any other
one, and their product is at most that mean to the power of the labels. So the capital exceeds 1000 in at most 1 of 1000
rollouts. docs/adr/0027-quality-gate.md has the alternatives and the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from mlmodel_operator.api.evidence import MOST_LOG, Labels, LabelSides, QualityState
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.types import QualityGate
from mlmodel_operator.rollout.evidence.difference import log_sum
from mlmodel_operator.rollout.evidence.errors import Verdict, evidence_of
from mlmodel_operator.rollout.evidence.likelihood import log_power

_EXCESSES = (0.03, 0.08, 0.2, 0.5)
"""Shares of wrong predictions above the limit on which the test bets, each with an equal part of the capital."""
_PRIOR_LABELS, _PRIOR_WRONG = 10.0, 1.0
"""Labels of stable that the bets assume before the first ones."""
SHORTEST = 5
"""Labels of each side that a block has at least: one without labels of both sides proves nothing. When it ends depends
on numbers of labels alone, not on what they say."""
_STEPS = 40
"""Halvings of the interval with the closest hypothesis: to 1e-12."""


def add(state: QualityState, blocks: Mapping[str, LabelSides], *, max_drop: float) -> QualityState:
    """Return the state after labels that were read, by the weight under which the predictions were drawn."""
    logs, judged = state.logs, state.judged
    waiting = dict(state.waiting)
    for weight in sorted(blocks, key=int):
        block = waiting.pop(weight, LabelSides()) + blocks[weight]
        if min(block.candidate.number, block.stable.number) < SHORTEST:
            waiting[weight] = block
            continue
        logs = _bet(logs, block, judged.stable, max_drop)
        judged += block
    return replace(state, logs=logs, judged=judged, waiting=waiting)


def against(state: QualityState) -> float:
    """Return the natural logarithm of the evidence that the candidate is wrong too often."""
    return log_sum(list(state.logs))


def judge(state: QualityState, gate: QualityGate) -> Verdict:
    """Return the evidence against the candidate, 1 while a side has fewer labels than the gate requires."""
    labels = state.labels
    enough = min(labels.candidate.number, labels.stable.number) >= gate.min_labels
    log = against(state) if enough else 0.0
    points = f"{100.0 * gate.max_drop:g} percentage points"
    return Verdict(
        evidence_of(log), Reason.LOWER_QUALITY, f"{sentence(labels)}; it may be right at most {points} less often"
    )


def sentence(labels: LabelSides, candidate: str = "") -> str:
    """Return what the labels show, as a clause for messages; ``candidate`` is its version if the message does not name
    it before."""
    own, others = labels.candidate, labels.stable
    whose = f"{own.number} predictions of {candidate}" if candidate else f"its {own.number} predictions"
    return (
        f"{100 * own.share:.1f} % of {whose} with a label were right, and {100 * others.share:.1f} % of {others.number}"
        " of stable in the same time"
    )


def _bet(logs: tuple[float, ...], block: LabelSides, before: Labels, max_drop: float) -> tuple[float, ...]:
    """Return the logarithms after ``block``; ``before`` are stable's labels before it, from which the alternatives are
    made: a bet must not depend on what it is about."""
    logs = logs if len(logs) == len(_EXCESSES) else (-math.log(len(_EXCESSES)),) * len(_EXCESSES)
    own, others = block.candidate, block.stable
    most = min(max(max_drop, 0.001), 0.5)
    b = min((before.wrong + _PRIOR_WRONG) / (before.number + _PRIOR_LABELS), 0.99 - most)
    bets = []
    for log, excess in zip(logs, _EXCESSES, strict=True):
        a = min(b + most + excess, 0.999)
        y = closest(own.number, a, others.number, b, most)
        x = y + most
        log += log_power(own.wrong, a / x) + log_power(own.right, (1.0 - a) / (1.0 - x))
        log += log_power(others.wrong, b / y) + log_power(others.right, (1.0 - b) / (1.0 - y))
        bets.append(round(min(max(log, -MOST_LOG), MOST_LOG), 6))
    return tuple(bets)


def closest(candidate: int, a: float, stable: int, b: float, drop: float) -> float:
    """Return stable's share of wrong predictions in the hypothesis that is closest to the shares ``a`` of the candidate
    and ``b`` of stable, for these numbers of labels: the candidate's share is ``drop`` above it."""
    low, high = 1e-12, 1.0 - drop - 1e-12
    for _ in range(_STEPS):
        y = (low + high) / 2.0
        x = y + drop
        # The derivative of the expected logarithm of the likelihood, which is concave.
        slope = candidate * (a - x) / (x * (1.0 - x)) + stable * (b - y) / (y * (1.0 - y))
        low, high = (y, high) if slope > 0.0 else (low, y)
    return (low + high) / 2.0
