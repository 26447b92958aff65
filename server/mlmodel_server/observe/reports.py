"""Types of the JSON reports of the server, from which the OpenAPI description is generated."""

from __future__ import annotations

from typing import Annotated, TypedDict

from msgspec import Meta

SHED = ("queue_full", "deadline", "memory", "drain", "other")
"""Reasons why a request was shed."""


class Histogram(TypedDict):
    """Requests by duration: a count for each upper bound, not cumulative, one for all above, and the sum of seconds."""

    counts: list[float]
    sum: float


class Durations(TypedDict):
    """Histograms of the time of a request: in total, in the queue, in the model."""

    total: Histogram
    queue: Histogram
    compute: Histogram


class DriftReport(TypedDict):
    """Drift of one feature, or of the predictions: the share of rows in each bin, and the stability indices."""

    name: str
    rows: float
    bins: list[str]
    training: list[float]
    life: list[float]
    recent: list[float]
    psi: dict[str, float]


class RequestReport(TypedDict):
    """Counts of requests since the start, for all workers."""

    since: Annotated[float, Meta(description="start of all counts, in seconds since 1970")]
    requests: Annotated[dict[str, float], Meta(description="requests by HTTP status")]
    rows: float
    shed: Annotated[dict[str, float], Meta(description=f"requests that were shed, by reason: {', '.join(SHED)}")]
    in_flight: float
    queued: float
    buckets: Annotated[tuple[float, ...], Meta(description="upper bounds of the histograms, in seconds")]
    seconds: Durations
    drift: list[DriftReport]


class ScoreReport(TypedDict):
    """Scores of a version over the labels posted to this pod."""

    version: str
    revision: str
    labels: float
    scores: dict[str, float]


class Scored(TypedDict):
    """Counts of one request of feedback."""

    scored: Annotated[int, Meta(description="labels that were scored")]
    duplicates: Annotated[int, Meta(description="ids that were left out because they had been scored before")]
    unknown: Annotated[int, Meta(description="labels that are not a class of this model; they count as wrong")]
