"""What the server reports of itself as JSON, as types: the OpenAPI description is generated from them."""

from __future__ import annotations

from typing import Annotated, TypedDict

from msgspec import Meta

SHED = ("queue_full", "deadline", "memory", "other")
"""Why a request was rejected for lack of time or room."""


class Histogram(TypedDict):
    """Requests by duration: one count for each upper bound, and one for all above them."""

    counts: list[float]
    sum: float


class Durations(TypedDict):
    """Of the answered requests: in total, in the queue, in the model."""

    total: Histogram
    queue: Histogram
    compute: Histogram


class DriftReport(TypedDict):
    """One watched feature, or the predictions: the share of rows in each bin."""

    name: str
    rows: float
    bins: list[str]
    training: list[float]
    life: list[float]
    recent: list[float]
    psi: dict[str, float]


class RequestReport(TypedDict):
    """The requests since the start, of all workers."""

    since: Annotated[float, Meta(description="seconds since 1970; all counts begin there")]
    requests: Annotated[dict[str, float], Meta(description="by HTTP status")]
    rows: float
    shed: Annotated[dict[str, float], Meta(description=f"by reason: {', '.join(SHED)}")]
    in_flight: float
    queued: float
    buckets: Annotated[tuple[float, ...], Meta(description="upper bounds of the histograms, in seconds")]
    seconds: Durations
    drift: list[DriftReport]


class ScoreReport(TypedDict):
    """A version of which labels arrived, and its scores."""

    version: str
    revision: str
    labels: float
    scores: dict[str, float]


class Scored(TypedDict):
    """What became of the labels in one request of feedback."""

    scored: Annotated[int, Meta(description="labels that count now")]
    duplicates: Annotated[int, Meta(description="ids that had counted before")]
    unknown: Annotated[int, Meta(description="labels that are not a class of the model; they count as wrong")]
