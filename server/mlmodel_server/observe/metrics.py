"""Prometheus metrics of the inference path. Children are bound once: a look-up by labels costs 2 us per request."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest

BUCKETS = (
    0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Seconds; fine at milliseconds, where two versions of a tabular model differ."""


class RequestMetrics:
    """Counts and times inference requests of one revision."""

    def __init__(self, model: str, version: str, revision: str) -> None:
        labels = {"model": model, "version": version, "revision": revision}
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "mlmodel_requests_total", "Inference requests by HTTP status.", [*labels, "code"], registry=self._registry
        )
        duration = Histogram(
            "mlmodel_request_duration_seconds",
            "Time from the headers of an inference request to its answer.",
            [*labels],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._labels = labels
        self._observe = duration.labels(**labels).observe
        self._codes = {code: self._requests.labels(**labels, code=str(code)) for code in (200, 400, 500)}

    def record(self, code: int, seconds: float) -> None:
        """One answered inference request."""
        counter = self._codes.get(code)
        if counter is None:
            counter = self._codes[code] = self._requests.labels(**self._labels, code=str(code))
        counter.inc()
        self._observe(seconds)

    def text(self) -> bytes:
        """The page that ``/metrics`` answers, in the Prometheus text format."""
        return generate_latest(self._registry)
