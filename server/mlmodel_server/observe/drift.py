"""Drift: how far the features and predictions of served rows differ from those at training.

Counts per bin, so that the counts of all pods of a version add up. The stability index is computed from them here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.samples import Sample

from mlmodel_server.observe.bins import (
    WIDTH,
    Bins,
    Numbers,
    Values,
    edges_of,
    number_bins,
    numbers,
    psi,
    value_bins,
    values,
)
from mlmodel_server.observe.cells import Cells, Identity
from mlmodel_server.observe.families import counter, gauge
from mlmodel_server.observe.figures import DriftFigures
from mlmodel_server.observe.reports import DriftReport
from mlmodel_server.tensors import Array

FEATURES = 20
"""Number of features whose drift is measured, the first ones; each costs about 15 time series."""

WINDOW = 3600.0
"""Seconds. "recent" is the current period of this length and the one before: one to two hours."""

MIN_ROWS = 1000
"""Minimum number of served rows for an index: with fewer, it is mostly chance."""

MIN_TRAINING = 100
"""Minimum number of training rows for an index, for the same reason."""

MAX_ROWS = 1000
"""A request with more rows is sampled: 500 to 1,000 evenly spaced rows."""

logger = logging.getLogger(__name__)

_WINDOWS = "window life (since the start) or recent (the last one to two hours)"


class _Profile(msgspec.Struct):
    """Profile of one column in the package; see :mod:`mlmodel_server.package.profile`."""

    missing: int = 0
    min: float | None = None
    max: float | None = None
    deciles: list[float] = []
    counts: list[int] = []
    values: dict[str, int] | None = None
    others: int = 0


def bins_of(name: str, profile: Mapping[str, Any]) -> Bins | None:
    """Return the bins of one column from its profile; None when the profile lacks the counts."""
    try:
        described = msgspec.convert(profile, _Profile)
        if described.values is not None:
            return values(name, described.values, described.others, described.missing)
        if described.min is not None and described.max is not None:
            edges = edges_of(described.min, described.deciles, described.max)
            return numbers(name, edges, described.counts, described.missing)
    except (msgspec.ValidationError, ValueError):
        pass
    return None


def features_of(profile: Mapping[str, Any], columns: Sequence[str], limit: int = FEATURES) -> list[tuple[int, Bins]]:
    """Return the first ``limit`` columns that have a profile, each with its position in the table.

    ``profile`` is that of the package, ``columns`` are the names of the table's columns as in the profile
    (``input-0[3]`` for the fourth of a matrix).
    """
    profiled = [(place, name) for place, name in enumerate(columns) if name in profile][:limit]
    found = [(place, bins) for place, name in profiled if (bins := bins_of(name, profile[name])) is not None]
    if len(found) < len(profiled):
        reason = "their profile has no counts: save the package again"
        logger.warning("drift not measured", extra={"features": len(profiled) - len(found), "reason": reason})
    return found


def predictions_of(profile: Mapping[str, Any], classes: Sequence[str]) -> Bins | None:
    """Return the bins of the predictions: classes of a classifier, the most frequent first; else those of the profile.

    ``profile`` is that of the predictions in the package. It may be empty: then classes are counted, without an index.
    """
    bins = bins_of("predict", profile)
    if not classes:
        return bins
    counts = dict.fromkeys(classes, 0)
    others = missing = 0
    if isinstance(bins, Values):
        known = dict(zip(bins.labels, bins.reference.astype(int).tolist(), strict=True))
        counts = {label: known.get(label, 0) for label in sorted(classes, key=lambda label: -known.get(label, 0))}
        others, missing = bins.reference[bins.others : bins.others + 2].astype(int).tolist()
    return values("predict", counts, others, missing)


class _Counts:
    """Rows by column and bin: since the start, and in two alternating periods."""

    def __init__(self, columns: int, slots: int, clock: Callable[[], float]) -> None:
        self._shape = (columns, WIDTH)
        self._size = columns * WIDTH
        self._cells = Cells(slots, 3 * self._size + 2)
        self._clock = clock

    def start(self, slot: int) -> None:
        row = self._cells.row(slot)
        self._life = row[: self._size]
        self._periods = row[self._size : -2].reshape(2, self._size)
        self._numbers = row[-2:]  # numbers of the two periods, for readers

    def add(self, indices: Array) -> None:
        """Count ``indices`` [n]: bin plus offset of the column."""
        counts = np.bincount(indices, minlength=self._size)
        period = self._clock() // WINDOW
        turn = int(period % 2)
        if self._numbers[turn] != period:
            self._periods[turn] = 0
            self._numbers[turn] = period
        self._life += counts
        self._periods[turn] += counts

    def life(self) -> Array:
        """Return counts [columns, bins] since the start."""
        return self._cells.total()[: self._size].reshape(self._shape)

    def recent(self) -> Array:
        """Return counts [columns, bins] of this period and the one before, without older ones of idle workers."""
        rows = self._cells.rows()
        period = self._clock() // WINDOW
        valid = (rows[:, -2:] == period) | (rows[:, -2:] == period - 1)
        counts = rows[:, self._size : -2].reshape(len(rows), 2, self._size)
        recent: Array = (counts * valid[:, :, None]).sum(axis=(0, 1)).reshape(self._shape)
        return recent


class Drift:
    """Counts the rows and predictions of one revision. Create it before the fork; :meth:`start` it in each worker."""

    def __init__(
        self,
        identity: Identity,
        slots: int,
        features: Sequence[tuple[int, Bins]],
        predictions: Bins | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._bins = [bins for _, bins in features]
        self._edges: Array = np.array([bins.edges for bins in self._bins if isinstance(bins, Numbers)])
        self._numbers = [place for place, bins in features if isinstance(bins, Numbers)]
        self._values = [(place, bins) for place, bins in features if isinstance(bins, Values)]
        self._predictions = predictions
        # created once, because /metrics must be fast
        own = identity._asdict()
        self._series = [_series({**own, "feature": bins.name}, "bin", bins) for bins in self._bins]
        self._classes = _series(own, "class" if isinstance(predictions, Values) else "bin", predictions)
        self._counts = _Counts(len(features), slots, clock)
        self._predicted = _Counts(1, slots, clock)
        offsets = {place: index * WIDTH for index, (place, _) in enumerate(features)}
        self._number_offsets: Array = np.array([offsets[place] for place in self._numbers])
        self._value_offsets = [offsets[place] for place, _ in self._values]

    def start(self, slot: int) -> None:
        """Count in this slot from now on."""
        self._counts.start(slot)
        self._predicted.start(slot)

    def count(self, predicted: Sequence[tuple[Array | None, Array | None]]) -> None:
        """Count requests: tables [rows, columns] of numbers or objects, and predictions [rows]; each may be None."""
        if self._bins and (tables := [table for table, _ in predicted if table is not None]):
            self._counts.add(np.concatenate(list(self._binned(_joined(tables)))))
        if self._predictions and (
            answers := [answer for _, answer in predicted if answer is not None and answer.ndim == 1]
        ):
            column = _joined(answers)
            if isinstance(self._predictions, Values):
                self._predicted.add(value_bins(column, self._predictions))
            else:
                self._predicted.add(number_bins(column[:, None], self._predictions.edges[None]).ravel())

    def _binned(self, table: Array) -> Iterator[Array]:
        if self._numbers:
            block = table[:, self._numbers].astype(np.float64, copy=False)
            yield (number_bins(block, self._edges) + self._number_offsets).ravel()
        for (place, bins), offset in zip(self._values, self._value_offsets, strict=True):
            yield value_bins(table[:, place], bins) + offset

    def collect(self) -> Iterator[Metric]:
        """Yield counts by bin, and the stability indices of both windows."""
        if self._bins:
            counts = counter(
                "mlmodel_feature_bin_total",
                f"Rows by feature and bin of the training profile, for the first {FEATURES} features.",
                "feature",
                "bin",
            )
            drift = gauge(
                "mlmodel_feature_drift_psi",
                f"Stability index (PSI) of a feature against training; {_WINDOWS}.",
                "feature",
                "window",
            )
            life, recent = self._counts.life(), self._counts.recent()
            for bins, series, counted, stability in zip(
                self._bins, self._series, life, _stability(self._bins, life, recent), strict=True
            ):
                _add(counts, series, counted)
                for window, index in stability.items():
                    drift.add_metric([*self._identity, bins.name, window], index)
            yield counts
            yield drift
        if self._predictions:
            yield from self._collect_predictions(self._predictions)

    def _collect_predictions(self, bins: Bins) -> Iterator[Metric]:
        counts = (
            counter("mlmodel_predictions_total", "Predictions of a classifier by class.", "class")
            if isinstance(bins, Values)
            else counter(
                "mlmodel_prediction_bin_total", "Predictions of a regressor by bin of the training profile.", "bin"
            )
        )
        drift = gauge(
            "mlmodel_prediction_drift_psi",
            f"Stability index (PSI) of the predictions against training; {_WINDOWS}.",
            "window",
        )
        life, recent = self._predicted.life(), self._predicted.recent()
        _add(counts, self._classes, life[0])
        for window, index in _stability([bins], life, recent)[0].items():
            drift.add_metric([*self._identity, window], index)
        yield counts
        yield drift

    def figures(self) -> DriftFigures:
        """Return the largest recent index of the features, and that of the predictions; None for one without."""
        recent = self._counts.recent()
        indices = [stability.get("recent") for stability in _stability(self._bins, recent, recent)]
        known = [(index, bins.name) for index, bins in zip(indices, self._bins, strict=True) if index is not None]
        largest, feature = max(known, default=(None, ""))
        prediction = None
        if self._predictions:
            predicted = self._predicted.recent()
            prediction = _stability([self._predictions], predicted, predicted)[0].get("recent")
        return {
            "feature": feature,
            "feature_psi": None if largest is None else round(largest, 3),
            "prediction_psi": None if prediction is None else round(prediction, 3),
        }

    def report(self) -> list[DriftReport]:
        """Return the same for the page, as JSON values: for each feature, then for the predictions (``"predict"``), the
        bins with the share of rows at training, since the start and recently, and the indices (from 1,000 rows on)."""
        columns, life, recent = self._bins, self._counts.life(), self._counts.recent()
        if self._predictions:
            columns = [*columns, self._predictions]
            life, recent = np.vstack([life, self._predicted.life()]), np.vstack([recent, self._predicted.recent()])
        return [
            {
                "name": bins.name,
                "rows": int(counted.sum()),
                "bins": [label for label in bins.labels if label],
                "training": _shares(bins, bins.reference),
                "life": _shares(bins, counted),
                "recent": _shares(bins, lately),
                "psi": stability,
            }
            for bins, counted, lately, stability in zip(
                columns, life, recent, _stability(columns, life, recent), strict=True
            )
        ]


def _joined(requests: Sequence[Array]) -> Array:
    """Return the rows of several requests as one array, of each at most ``MAX_ROWS``."""
    return np.concatenate([rows if len(rows) <= MAX_ROWS else rows[:: -(-len(rows) // MAX_ROWS)] for rows in requests])


def _series(common: dict[str, str], label: str, bins: Bins | None) -> list[dict[str, str]]:
    """Return the labels of the series of each bin; none for an unused bin."""
    return [{**common, label: name} if name else {} for name in (bins.labels if bins else ())]


def _add(family: CounterMetricFamily, series: Sequence[dict[str, str]], counts: Array) -> None:
    """Add counts [bins] as samples; ``series`` are their labels, empty for an unused bin."""
    name = f"{family.name}_total"
    family.samples += [
        Sample(name, labels, count) for labels, count in zip(series, counts.tolist(), strict=True) if labels
    ]


def _stability(columns: Sequence[Bins], life: Array, recent: Array) -> list[dict[str, float]]:
    """Return the indices of each column, for the windows with enough rows."""
    reference: Array = np.array([bins.reference for bins in columns]).reshape(life.shape)
    indices: list[dict[str, float]] = [{} for _ in columns]
    for window, counts in (("life", life), ("recent", recent)):
        enough = (counts.sum(axis=1) >= MIN_ROWS) & (reference.sum(axis=1) >= MIN_TRAINING)
        found = psi(reference[enough], counts[enough]).tolist()
        for column, index in zip(np.flatnonzero(enough).tolist(), found, strict=True):
            indices[column][window] = index
    return indices


def _shares(bins: Bins, counts: Array) -> list[float]:
    total = max(counts.sum(), 1.0)
    return [float(count / total) for label, count in zip(bins.labels, counts, strict=True) if label]
