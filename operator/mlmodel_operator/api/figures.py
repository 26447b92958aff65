"""Figures beside the gates of a rollout, as ``status`` shows and keeps them. They decide nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from mlmodel_operator.api.schema import Doc, Opaque, Time

_MOST = 2**53
"""Largest count: that of the pages of pods, and of JSON in every language."""

_LEAST, _LARGEST = 1e-12, 1e12
"""Bounds of an average or index that is not 0: pods cannot supply a larger one, and quotients of them are finite."""

MAX_FEATURE = 64
"""Maximum number of characters of a feature's name."""

Source = Literal["Rehearsal", "Clients"]


def rounded(value: float) -> float:
    """Return three significant digits; 0 for what is too small to be a figure."""
    return float(f"{value:.3g}") if value >= _LEAST else 0.0


@dataclass(frozen=True)
class Calls:
    """Predictions, and the CPU time of these calls of the model in microseconds: requests of clients, and copies."""

    requests: int = 0
    requests_us: int = 0
    copies: int = 0
    copies_us: int = 0

    def __post_init__(self) -> None:
        """Raise TypeError for a number that cannot be a count."""
        if not all(0 <= number <= _MOST for number in self._numbers):
            raise TypeError("requests, requests_us, copies and copies_us must be 0 to 2^53")

    @property
    def _numbers(self) -> tuple[int, int, int, int]:
        return self.requests, self.requests_us, self.copies, self.copies_us

    def __add__(self, other: Calls) -> Calls:
        return Calls(*(min(own + more, _MOST) for own, more in zip(self._numbers, other._numbers, strict=True)))

    def since(self, before: Calls) -> Calls:
        """Return what was counted after ``before``; nothing if a number is lower, which no honest pod shows."""
        pairs = list(zip(self._numbers, before._numbers, strict=True))
        return Calls(*(now - then for now, then in pairs)) if all(now >= then for now, then in pairs) else Calls()


@dataclass(frozen=True)
class Drift:
    """How far the rows and predictions of one pod are from those at training: stability indices (PSI)."""

    feature: str = ""
    """The feature with the largest index."""
    features: float | None = None
    """Its index; None if the pod has none."""
    predictions: float | None = None


@dataclass(frozen=True)
class PodCalls:
    """The last counts read from one pod."""

    boot: str = ""
    """Identity of the server's start; another one counts from zero."""
    calls: Calls = field(default_factory=Calls)


@dataclass(frozen=True)
class FiguresState:
    """What the operator needs to go on counting."""

    pods: Mapping[str, PodCalls] = field(default_factory=dict)
    """Last page read from each pod."""
    candidate: Calls = field(default_factory=Calls)
    """Predictions in this rollout."""
    stable: Calls = field(default_factory=Calls)
    restarts: int = 0
    """Sum of the restarts that the pods of the candidate showed last."""
    stable_restarts: int = 0

    def __post_init__(self) -> None:
        """Raise TypeError for a number that cannot be a count."""
        if not (0 <= self.restarts <= _MOST and 0 <= self.stable_restarts <= _MOST):
            raise TypeError("restarts and stable_restarts must be 0 to 2^53")


@dataclass(frozen=True)
class SideFigures:
    """Figures of one version in this rollout."""

    cpu_milliseconds: Annotated[
        float | None,
        Doc("Average CPU time of the model for a prediction in milliseconds; absent with fewer than 20 predictions."),
    ] = None
    joules: Annotated[
        float | None,
        Doc("Estimated energy of a prediction in joules: the CPU time times --watts-per-core of the server."),
    ] = None
    predictions: Annotated[int, Doc("Number of predictions of which these are the averages.")] = 0
    source: Annotated[
        Source | None,
        Doc(
            "Which predictions they are: Rehearsal (requests that were repeated on both versions, each alone) or"
            " Clients."
        ),
    ] = None
    restarts: Annotated[int, Doc("Number of restarts of containers of its server pods during this rollout.")] = 0
    feature: Annotated[str, Doc("Feature that differs most from training.")] = ""
    feature_drift: Annotated[
        float | None,
        Doc(
            "Its stability index (PSI) over the last one to two hours, of the pod in which it is largest; absent with"
            " fewer than 1000 rows, and without a profile of the training data."
        ),
    ] = None
    prediction_drift: Annotated[
        float | None, Doc("The same of the predictions, of the pod in which it is largest.")
    ] = None

    def __post_init__(self) -> None:
        """Raise TypeError for figures that no pod supplies: somebody has changed the status."""
        figures = (self.cpu_milliseconds, self.joules, self.feature_drift, self.prediction_drift)
        if not all(figure is None or figure == 0 or _LEAST <= figure <= _LARGEST for figure in figures):
            raise TypeError(f"averages and indices must be 0, or {_LEAST:g} to {_LARGEST:g}")
        if not (0 <= self.restarts <= _MOST and 0 <= self.predictions <= _MOST):
            raise TypeError("restarts and predictions must be 0 to 2^53")
        if len(self.feature) > MAX_FEATURE:
            raise TypeError(f"feature must have at most {MAX_FEATURE} characters")

    def with_restarts(self, more: int) -> SideFigures:
        """Return the figures with more restarts; a pod that has gone takes its number with it."""
        return replace(self, restarts=min(self.restarts + max(more, 0), _MOST))


@dataclass(frozen=True)
class Figures:
    """What is reported beside the gates, and decides nothing."""

    message: Annotated[str, Doc("The figures in human-readable sentences.")] = ""
    candidate: Annotated[SideFigures, Doc("Figures of the candidate.")] = field(default_factory=SideFigures)
    stable: Annotated[SideFigures, Doc("Figures of stable in the same time.")] = field(default_factory=SideFigures)
    cpu_ratio: Annotated[
        float | None,
        Doc(
            "CPU time of a prediction of the candidate divided by that of stable; absent unless both are known from the"
            " same source."
        ),
    ] = None
    at: Annotated[Time | None, Doc("Time at which the operator read CPU time and drift last; absent before.")] = None
    state: Annotated[
        FiguresState, Doc("What the operator needs to go on counting; its content may change."), Opaque()
    ] = field(default_factory=FiguresState)
