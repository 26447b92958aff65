"""Prometheus metric families whose first labels are model, version and revision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from mlmodel_server.observe.cells import Identity
from mlmodel_server.tensors import Array


class Collector(Protocol):
    """An object that has metrics."""

    def collect(self) -> Iterable[Metric]:
        """Return the current metrics."""


def counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    """Return a counter without samples; ``labels`` follow those of the identity."""
    return CounterMetricFamily(name, text, labels=[*Identity._fields, *labels])


def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    """Return a gauge without samples."""
    return GaugeMetricFamily(name, text, labels=[*Identity._fields, *labels])


def histogram(name: str, text: str, *labels: str) -> HistogramMetricFamily:
    """Return a histogram without samples."""
    return HistogramMetricFamily(name, text, labels=[*Identity._fields, *labels])


def number(value: float) -> str:
    """Format a number as Prometheus does in labels: 0.5, 1.0, 1e-05."""
    return repr(float(value))


class ModelInfo(Collector):
    """Which model the server has loaded. Pods of one revision with different digests serve different models."""

    def __init__(self, identity: Identity, sha256: str) -> None:
        self._labels = [*identity, sha256]

    def collect(self) -> Iterable[Metric]:
        """See :class:`Collector`."""
        info = gauge("mlmodel_model_info", "1, with the digest of the model that the server has loaded.", "sha256")
        info.add_metric(self._labels, 1.0)
        return (info,)


class Buckets:
    """The upper bounds of a histogram. Its cells are the counts of the buckets, not cumulative, and the sum."""

    def __init__(self, *bounds: float) -> None:
        self._bounds: Array = np.array(bounds)
        self._names = [*map(number, bounds), "+Inf"]
        self.cells = len(bounds) + 2

    def observe(self, cells: Array, values: Array) -> None:
        """Count ``values`` [n] in ``cells``."""
        cells[:-1] += np.bincount(np.searchsorted(self._bounds, values), minlength=self.cells - 1)
        cells[-1] += values.sum()

    def add(self, family: HistogramMetricFamily, labels: Sequence[str], cells: Array) -> HistogramMetricFamily:
        """Add these ``cells`` to ``family`` as a sample, and return it."""
        cumulative = np.cumsum(cells[:-1]).tolist()
        family.add_metric(labels, list(zip(self._names, cumulative, strict=True)), float(cells[-1]))
        return family
