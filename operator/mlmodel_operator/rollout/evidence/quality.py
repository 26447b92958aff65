"""The quality gate: whether the candidate's predictions are right as often as those of stable.

Hypothesis: the share of the candidate's predictions that are right is at most ``max_drop`` below that of stable. The
two answer different requests, drawn at random, and get labels in the same time; it does not matter how many each gets.
The test is that of likelihood.py, of four counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlmodel_operator.rollout.evidence.difference import DECISIVE
from mlmodel_operator.rollout.evidence.likelihood import log_mean, log_power

_PRIOR = (4.0, 1.0)
"""Beta distribution of the share of right predictions on which the test bets: most models are more often right than
wrong. With it a model that is right in 90 % needs a tenth less labels than with a uniform distribution, and one that is
right in 60 % a quarter more."""
_STEPS = 50
"""Halvings of the interval with the largest likelihood."""


@dataclass(frozen=True)
class Labels:
    """Predictions of one version whose label is known, and how many of them were right."""

    number: int = 0
    right: int = 0

    def __post_init__(self) -> None:
        """Raise TypeError for numbers that cannot be counts."""
        if not 0 <= self.right <= self.number:
            raise TypeError("right must be 0 to number")

    @property
    def share(self) -> float:
        """Share of right predictions, 0 to 1; 0 without labels."""
        return self.right / self.number if self.number else 0.0


def against(candidate: Labels, stable: Labels, *, max_drop: float) -> float:
    """Return the natural logarithm of the evidence that the candidate is right less often than stable, by more than
    ``max_drop`` (0 to 1)."""
    if not candidate.number or not stable.number or candidate.share >= stable.share - max_drop:
        return 0.0
    means = (log_mean(_PRIOR, (side.right, side.number - side.right)) for side in (candidate, stable))
    return sum(means) - _largest_likelihood(candidate, stable, max_drop)


def is_worse(candidate: Labels, stable: Labels, *, max_drop: float, min_labels: int) -> bool:
    """Whether the candidate is rolled back: both sides have ``min_labels``, and the evidence is decisive."""
    enough = min(candidate.number, stable.number) >= min_labels
    return enough and against(candidate, stable, max_drop=max_drop) >= math.log(DECISIVE)


def _largest_likelihood(candidate: Labels, stable: Labels, drop: float) -> float:
    """Return the logarithm of the largest likelihood if the candidate's share is exactly ``drop`` below stable's."""

    def log_likelihood(share: float) -> float:
        return sum(
            log_power(side.right, p) + log_power(side.number - side.right, 1.0 - p)
            for side, p in ((stable, share), (candidate, share - drop))
        )

    def slope(share: float) -> float:
        return sum(
            side.right / p - (side.number - side.right) / (1.0 - p)
            for side, p in ((stable, share), (candidate, share - drop))
        )

    # The likelihood is concave in stable's share.
    low, high = drop + 1e-12, 1.0 - 1e-12
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if slope(middle) > 0.0 else (low, middle)
    return log_likelihood((low + high) / 2.0)


def sentence(candidate: Labels, stable: Labels) -> str:
    """Return what the labels show, as a clause for messages."""
    return (
        f"{100 * candidate.share:.1f} % of its {candidate.number} predictions with a label were right, and"
        f" {100 * stable.share:.1f} % of {stable.number} of stable in the same time"
    )
