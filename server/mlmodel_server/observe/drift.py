"""Whether what arrives still looks like the training data, and what is predicted like the predictions back then.

Plain counts per bin, so that those of all pods of a version add up; the stability index is computed from them here.
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
from mlmodel_server.observe.reports import DriftReport
from mlmodel_server.tensors import Array

FEATURES = 20
"""Features that are watched, the first ones; each costs some 15 time series."""

WINDOW = 3600.0
"""Seconds. "recent" is the current period of that length and the one before: one to two hours."""

MIN_ROWS = 1000
"""Below it, or below 100 rows at training, the index says more about chance than about drift: it is not shown."""

MIN_TRAINING = 100

MAX_ROWS = 1000
"""Of a request with more rows than that, some 500 to 1,000 evenly spaced ones are looked at."""

logger = logging.getLogger(__name__)


class _Profile(msgspec.Struct):
    """What the package says about one column; see :mod:`mlmodel_server.package.profile`."""

    missing: int = 0
    min: float | None = None
    max: float | None = None
    deciles: list[float] = []
    counts: list[int] = []
    values: dict[str, int] | None = None
    others: int = 0


def bins_of(name: str, profile: Mapping[str, Any]) -> Bins | None:
    """The bins of one column from its profile; None when that does not tell enough."""
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
    """The first ``limit`` columns that can be watched, each with its place in the table.

    ``profile`` is that of the package, ``columns`` are the names of the table's columns as the profile has them
    (``input-0[3]`` for the fourth of a matrix).
    """
    wanted = [(place, name) for place, name in enumerate(columns) if name in profile][:limit]
    found = [(place, bins) for place, name in wanted if (bins := bins_of(name, profile[name])) is not None]
    if len(found) < len(wanted):
        logger.warning("drift of %d features is not watched: their profile in the package has no counts, save it again",
                    len(wanted) - len(found))  # fmt: skip
    return found


def predictions_of(profile: Mapping[str, Any], classes: Sequence[str]) -> Bins | None:
    """The bins of the predictions: of a classifier its classes, the commonest first; else those of their profile.

    ``profile`` is that of the predictions in the package and may be empty: then classes are counted and compared with
    nothing.
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
    """Rows by column and bin: since the beginning, and in two periods that take turns."""

    def __init__(self, columns: int, slots: int, clock: Callable[[], float]) -> None:
        self._shape = (columns, WIDTH)
        self._size = columns * WIDTH
        self._cells = Cells(slots, 3 * self._size + 2)
        self._clock = clock

    def start(self, slot: int) -> None:
        row = self._cells.row(slot)
        self._life = row[: self._size]
        self._periods = row[self._size : -2].reshape(2, self._size)
        self._numbers = row[-2:]  # of the periods, so that readers know which they are

    def add(self, indices: Array) -> None:
        """``indices`` [n]: bin, plus the column's offset."""
        found = np.bincount(indices, minlength=self._size)
        period = self._clock() // WINDOW
        turn = int(period % 2)
        if self._numbers[turn] != period:
            self._periods[turn] = 0
            self._numbers[turn] = period
        self._life += found
        self._periods[turn] += found

    def life(self) -> Array:
        """Counts [columns, bins] since the beginning."""
        return self._cells.total()[: self._size].reshape(self._shape)

    def recent(self) -> Array:
        """Counts [columns, bins] of this period and the one before; a worker that was idle since has none there."""
        rows = self._cells.rows()
        period = self._clock() // WINDOW
        valid = (rows[:, -2:] == period) | (rows[:, -2:] == period - 1)
        counts = rows[:, self._size : -2].reshape(len(rows), 2, self._size)
        recent: Array = (counts * valid[:, :, None]).sum(axis=(0, 1)).reshape(self._shape)
        return recent


class Drift:
    """Counts the rows and the predictions of one revision. Make it before the fork, :meth:`start` it in each worker."""

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
        # made once, so that a page of metrics is quickly written
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
        """Count several requests: tables [rows, columns] of numbers or objects, predictions [rows]; None is neither."""
        tables = [_thinned(table) for table, _ in predicted if table is not None]
        if self._bins and tables:
            self._counts.add(np.concatenate(list(self._binned(np.concatenate(tables)))))
        answers = [_thinned(answer) for _, answer in predicted if answer is not None and answer.ndim == 1]
        if self._predictions and answers:
            column = np.concatenate(answers)
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
        """Counts by bin, and the stability index over life and recently."""
        if self._bins:
            counts = counter(
                "mlmodel_feature_bin_total", "Rows by feature and bin of the training profile.", "feature", "bin"
            )
            drift = gauge(
                "mlmodel_feature_drift_psi",
                "Stability index against the training profile: of all rows, and of those of the last hour or two.",
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
            counter("mlmodel_predictions_total", "Predictions by class.", "class")
            if isinstance(bins, Values)
            else counter("mlmodel_prediction_bin_total", "Predictions by bin of those at training.", "bin")
        )
        drift = gauge(
            "mlmodel_prediction_drift_psi",
            "Stability index of the predictions against those at training.",
            "window",
        )
        life, recent = self._predicted.life(), self._predicted.recent()
        _add(counts, self._classes, life[0])
        for window, index in _stability([bins], life, recent)[0].items():
            drift.add_metric([*self._identity, window], index)
        yield counts
        yield drift

    def report(self) -> list[DriftReport]:
        """The same for a page, JSON-ready: of each feature, then of the predictions (``"predict"``), the bins with the
        share of rows at training, since the start and recently, and the index (absent below 1,000 rows)."""
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


def _thinned(rows: Array) -> Array:
    return rows if len(rows) <= MAX_ROWS else rows[:: -(-len(rows) // MAX_ROWS)]


def _series(common: dict[str, str], label: str, bins: Bins | None) -> list[dict[str, str]]:
    """The labels of each bin's series; none for one that is never hit."""
    return [{**common, label: name} if name else {} for name in (bins.labels if bins else ())]


def _add(family: CounterMetricFamily, series: Sequence[dict[str, str]], counts: Array) -> None:
    """Counts [bins] as samples with these labels, empty ones where there is no such bin."""
    name = f"{family.name}_total"
    family.samples += [
        Sample(name, labels, count) for labels, count in zip(series, counts.tolist(), strict=True) if labels
    ]


def _stability(columns: Sequence[Bins], life: Array, recent: Array) -> list[dict[str, float]]:
    """Of each column the index over each window, of those windows that have seen enough rows."""
    reference: Array = np.array([bins.reference for bins in columns]).reshape(life.shape)
    shown: list[dict[str, float]] = [{} for _ in columns]
    for window, counts in (("life", life), ("recent", recent)):
        enough = (counts.sum(axis=1) >= MIN_ROWS) & (reference.sum(axis=1) >= MIN_TRAINING)
        indices = psi(reference[enough], counts[enough]).tolist()
        for column, index in zip(np.flatnonzero(enough).tolist(), indices, strict=True):
            shown[column][window] = index
    return shown


def _shares(bins: Bins, counts: Array) -> list[float]:
    total = max(counts.sum(), 1.0)
    return [float(count / total) for label, count in zip(bins.labels, counts, strict=True) if label]
