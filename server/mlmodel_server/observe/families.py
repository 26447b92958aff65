"""Prometheus metric families whose first labels say whose numbers they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from mlmodel_server.observe.cells import Identity
from mlmodel_server.tensors import Array


class Collector(Protocol):
    """Whatever has metrics to show."""

    def collect(self) -> Iterable[Metric]:
        """The metrics as they are now."""


def counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    """A counter without samples; ``labels`` come after those of the identity."""
    return CounterMetricFamily(name, text, labels=[*Identity._fields, *labels])


def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    """A gauge without samples."""
    return GaugeMetricFamily(name, text, labels=[*Identity._fields, *labels])


def histogram(name: str, text: str, *labels: str) -> HistogramMetricFamily:
    """A histogram without samples."""
    return HistogramMetricFamily(name, text, labels=[*Identity._fields, *labels])


def number(value: float) -> str:
    """A number as Prometheus writes it in labels: 0.5, 1.0, 1e-05."""
    return repr(float(value))


class Buckets:
    """The upper bounds of a histogram. Its cells are the count of each bucket by itself, and the sum of the values."""

    def __init__(self, *bounds: float) -> None:
        self._bounds: Array = np.array(bounds)
        self._names = [*map(number, bounds), "+Inf"]
        self.cells = len(bounds) + 2

    def observe(self, cells: Array, values: Array) -> None:
        """Count ``values`` [n] in ``cells``."""
        cells[:-1] += np.bincount(np.searchsorted(self._bounds, values), minlength=self.cells - 1)
        cells[-1] += values.sum()

    def add(self, family: HistogramMetricFamily, labels: Sequence[str], cells: Array) -> HistogramMetricFamily:
        """``family`` with these ``cells`` as one more sample."""
        cumulative = np.cumsum(cells[:-1]).tolist()
        family.add_metric(labels, list(zip(self._names, cumulative, strict=True)), float(cells[-1]))
        return family
