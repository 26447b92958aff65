"""Feedback: labels, sent after the prediction to any pod of the model, score the version that predicted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from prometheus_client import Metric

from mlmodel_server.errors import RequestError
from mlmodel_server.observe.bins import MAX_VALUES, apart, value_index
from mlmodel_server.observe.cells import Cells, Identity
from mlmodel_server.observe.failures import RejectedLog
from mlmodel_server.observe.families import Buckets, counter, gauge, histogram
from mlmodel_server.observe.ids import PredictionIds, class_hash
from mlmodel_server.observe.reports import Scored, ScoreReport
from mlmodel_server.observe.rollout import RolloutLabels
from mlmodel_server.protocol import misfits
from mlmodel_server.tensors import Array

MAX_IDS = 1000
"""Maximum number of ids in one request of feedback."""

MAX_LABELS = 4000
"""Maximum number of labels in one request of feedback: scoring them takes about 10 ms, in which no other request is
answered."""

MAX_TEXT = 1000
"""Maximum number of characters of a label, unless a class of the model is longer."""

MAX_NUMBER = 1e100
"""Greatest absolute value of a label, and of a prediction that can be scored: sums of squares stay finite."""

MAX_AGE = 366 * 86400.0
"""Seconds after which an id cannot be scored. A pod remembers only the latest ids that it scored, so this bounds how
long one can be sent again."""

CLOCK_SKEW = 600.0
"""Greatest difference of the clocks of two nodes, in seconds."""

REVISIONS = 6
"""Number of other revisions whose labels are counted separately; labels of further ones count as "other"."""

RECENT = 1 << 16
"""Number of slots for ids that were scored, so that a client's retry does not count again. A newer id may overwrite an
older one, after about 65,000 others on average. Other pods do not know these ids."""

EVERY_CELL = 5
"""Up to this number of classes, every cell of the confusion matrix has a series; beyond it, cells that occurred."""

LAGS = (1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400)
"""Bounds of the histogram of seconds from a prediction to its label."""

Label = str | int | float | bool

_SCORES = {
    "accuracy": "Share of labels that equal the prediction",
    "precision": "Precision of the second class, or the mean over classes",
    "recall": "Recall of the second class, or the mean over classes",
    "f1": "F1 of the second class, or the mean over classes",
    "mae": "Mean absolute error, in the unit of the label",
    "rmse": "Root of the mean squared error, in the unit of the label",
}
_SCOPE = "over the labels posted to this pod; for all pods, compute it from the mlmodel_feedback counters."
_LAG = Buckets(*LAGS)
_OTHER = MAX_VALUES  # the index of classes beyond the twentieth, and of unknown ones
_SIDE = MAX_VALUES + 1
_NAME_BYTES = 256


class Labelled(msgspec.Struct, forbid_unknown_fields=True):
    """The ``label`` of a prediction of one row, or the ``labels`` of several, in their order."""

    prediction_id: str
    label: Label | msgspec.UnsetType = msgspec.UNSET
    labels: list[Label] | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(Labelled | list[Labelled])


class Cell(NamedTuple):
    """One label of a class: ``actual`` and ``predicted`` are indices of the confusion matrix, ``right`` is whether they
    are the same class (both may be among the others), ``known`` whether the label is a class of this model."""

    actual: int
    predicted: int
    right: bool
    known: bool


@dataclass(frozen=True)
class Outcome:
    """One scored id: version and revision that predicted, when (``made``, seconds since 1970), seconds since then
    (``lag``), and for each row a cell of the confusion matrix, or the error of a number, predicted minus actual."""

    version: str
    revision: str
    lag: float
    rows: tuple[Cell | float, ...]
    made: float
    mark: int
    mac: bytes

    @property
    def unknown(self) -> int:
        """Number of labels that are not a class of the model on this pod."""
        return sum(isinstance(row, Cell) and not row.known for row in self.rows)

    @property
    def result(self) -> bool | float:
        """Whether a class was right, or the error of a number, of one row. Rows of one request may be alike, so only
        one counts in a rollout, which neither the client nor the model chooses."""
        row = self.rows[int.from_bytes(self.mac[-2:]) % len(self.rows)]
        return row.right if isinstance(row, Cell) else row


class _Layout:
    """Positions of the numbers in the cells of one revision."""

    def __init__(self) -> None:
        self.width = 0
        self.name = self._reserve(_NAME_BYTES // 8)  # two lengths and both texts, as bytes; unused for this revision
        self.labels = self._reserve(1).start
        self.correct = self._reserve(1).start
        self.confusion = self._reserve(_SIDE * _SIDE)  # [actual, predicted]
        self.absolute = self._reserve(1).start
        self.squared = self._reserve(1).start
        self.lag = self._reserve(_LAG.cells)

    def _reserve(self, size: int) -> slice:
        self.width += size
        return slice(self.width - size, self.width)


_AT = _Layout()


class Feedback:
    """Scores labels and counts the outcomes. Create it before the fork; :meth:`start` it in each worker."""

    def __init__(
        self,
        ids: PredictionIds,
        identity: Identity,
        slots: int = 1,
        classes: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        rollout: RolloutLabels | None = None,
    ) -> None:
        """``classes`` are those of a classifier, empty for a regressor. ``rollout`` counts labels for the operator."""
        self._ids, self._identity, self._classes, self._clock = ids, identity, tuple(classes), clock
        self._places = value_index(self._classes)
        self._by_hash = {class_hash(text): place for place, text in enumerate(self._classes)}
        self._cells = Cells(slots, 1 + (REVISIONS + 2) * _AT.width)
        self._recent = Cells(1, RECENT).row(0)
        self._rollout = rollout or RolloutLabels(identity.revision, slots)
        self._max_text = max(MAX_TEXT, *map(len, self._classes), 0)
        self._rejected = RejectedLog()

    def start(self, slot: int = 0) -> None:
        """Count in this slot from now on."""
        self._rollout.start(slot)
        row = self._cells.row(slot)
        self._duplicates = row[:1]
        self._entries = row[1:].reshape(REVISIONS + 2, _AT.width)  # this revision, other revisions, all further ones
        self._known = {name: place for place, entry in enumerate(self._entries) if (name := _name(entry))}

    def post(self, body: bytes) -> Scored:
        """Score a request of feedback, JSON: ``{"prediction_id": "...", "label": x}``, with ``"labels": [x, ...]`` for
        several rows, or an array of such objects.

        Return the number of labels that were scored, of ids that were skipped because they had been scored before, and
        of labels that are not a class of the model on this pod. These count as wrong: a version that lacks a class
        must not look better for that. Raise :class:`RequestError`, which names the error; then nothing is counted.
        """
        try:
            outcomes = [self._scored(item, where) for item, where in _items(body)]
        except RequestError as error:
            self._rejected.log(error)
            raise
        fresh = [outcome for outcome in outcomes if self._first_time(outcome.mac)]
        for outcome in fresh:
            self._count(outcome)
        self._duplicates += len(outcomes) - len(fresh)
        return {
            "scored": sum(len(outcome.rows) for outcome in fresh),
            "duplicates": len(outcomes) - len(fresh),
            "unknown": sum(outcome.unknown for outcome in fresh),
        }

    def score(self, prediction_id: str, labels: Sequence[Label]) -> Outcome:
        """Compare an id with the ``labels`` of its rows; count nothing. Raise :class:`RequestError` on a mismatch."""
        predicted = self._ids.read(prediction_id)
        if len(labels) != len(predicted.rows):
            raise RequestError(
                f"{len(labels)} labels for {len(predicted.rows)} rows: send one label for each row, in their order"
            )
        rows = tuple(
            self._compared(row, label, place) if isinstance(row, bytes) else _error(row, label, place)
            for place, (row, label) in enumerate(zip(predicted.rows, labels, strict=True))
        )
        lag, made = self._lag(predicted.time), predicted.time
        return Outcome(predicted.version, predicted.revision, lag, rows, made, predicted.mark, predicted.mac)

    def _lag(self, made: float) -> float:
        lag = self._clock() - made
        if lag > MAX_AGE:
            raise RequestError(
                f"prediction_id has expired: send labels within {MAX_AGE / 86400:.0f} days of the prediction"
            )
        if lag < -CLOCK_SKEW:
            raise RequestError("prediction_id is of the future: set the clocks of the nodes")
        return max(0.0, lag)

    def _scored(self, item: Labelled, where: str) -> Outcome:
        try:
            return self.score(item.prediction_id, _labels(item))
        except RequestError as error:
            raise RequestError(f"{where}{error}") from None

    def _compared(self, predicted: bytes, label: Label, row: int) -> Cell:
        if isinstance(label, str):
            if len(label) > self._max_text:
                raise RequestError(f"the label of row {row} has {len(label)} characters: send at most {self._max_text}")
        else:
            _bounded(label, row)
        place = self._places.get(label)
        text = str(label) if place is None else self._classes[place]
        return Cell(
            actual=_OTHER if place is None else min(place, _OTHER),
            predicted=min(self._by_hash.get(predicted, _OTHER), _OTHER),
            right=class_hash(text) == predicted,
            known=place is not None,
        )

    def _first_time(self, mac: bytes) -> bool:
        place, value = int.from_bytes(mac[:2]), 1.0 + int.from_bytes(mac[2:])  # 48 bits: exact
        known = bool(self._recent[place] == value)
        self._recent[place] = value
        return not known

    def _count(self, outcome: Outcome) -> None:
        if outcome.mark:
            self._rollout.count(outcome.revision, outcome.mark, outcome.made, outcome.result)
        entry = self._entry(outcome.version, outcome.revision)
        entry[_AT.labels] += len(outcome.rows)
        _LAG.observe(entry[_AT.lag], np.full(len(outcome.rows), outcome.lag))
        for row in outcome.rows:
            if isinstance(row, Cell):
                entry[_AT.correct] += row.right
                entry[_AT.confusion.start + row.actual * _SIDE + row.predicted] += 1
            else:
                entry[_AT.absolute] += abs(row)
                entry[_AT.squared] += row * row

    def _entry(self, version: str, revision: str) -> Array:
        if (version, revision) == self._identity[1:]:
            return self._entries[0]  # type: ignore[no-any-return]
        encoded = _encoded(version, revision)
        place = self._known.get(encoded)
        if place is None:
            if len(self._known) == REVISIONS:
                return self._entries[-1]  # type: ignore[no-any-return]
            place = self._known[encoded] = len(self._known) + 1
            _bytes(self._entries[place])[: len(encoded)] = np.frombuffer(encoded, np.uint8)
        return self._entries[place]  # type: ignore[no-any-return]

    def _totals(self) -> dict[Identity, Array]:
        """Return the cells of each revision, added up over the workers."""
        rows = self._cells.rows()
        entries = rows[:, 1:].reshape(len(rows), REVISIONS + 2, _AT.width)
        totals = {self._identity: entries[:, 0].sum(axis=0)}
        for worker in entries:
            for entry in worker[1:]:
                if entry[_AT.labels]:
                    name = _name(entry)
                    version, revision = _decoded(name) if name else ("other", "other")
                    identity = Identity(self._identity.model, version, revision)
                    totals[identity] = totals.get(identity, 0.0) + entry
        return totals

    def collect(self) -> Iterator[Metric]:
        """Yield counts that add up over pods, and scores over the labels posted to this pod."""
        totals = self._totals()
        labels = counter(
            "mlmodel_feedback_labels_total",
            "Labels compared with a prediction; version and revision are those that predicted.",
        )
        lag = histogram("mlmodel_feedback_lag_seconds", "Time from a prediction to its label, in seconds.")
        for identity, cells in totals.items():
            labels.add_metric(identity, cells[_AT.labels])
            _LAG.add(lag, identity, cells[_AT.lag])
        yield labels
        yield lag
        duplicates = counter("mlmodel_feedback_duplicates_total", "Prediction ids that had been scored before.")
        duplicates.add_metric(self._identity, float(self._cells.total()[0]))
        yield duplicates
        yield from self._confusions(totals) if self._classes else _errors(totals)
        scores: dict[str, Metric] = {}
        for identity, cells in totals.items():
            for name, value in self._scores(cells).items():
                family = scores.setdefault(name, gauge(f"mlmodel_{name}", f"{_SCORES[name]}, {_SCOPE}"))
                family.add_metric(identity, value)  # type: ignore[attr-defined]
        yield from scores.values()

    def report(self) -> list[ScoreReport]:
        """Return the same for the page, as JSON values: labels and scores of each version with labels on this pod."""
        return [
            {
                "version": identity.version,
                "revision": identity.revision,
                "labels": float(cells[_AT.labels]),
                "scores": self._scores(cells),
            }
            for identity, cells in self._totals().items()
            if cells[_AT.labels]
        ]

    def _confusions(self, totals: dict[Identity, Array]) -> Iterator[Metric]:
        correct = counter("mlmodel_feedback_correct_total", "Labels of a classifier that equal the prediction.")
        cells = counter(
            "mlmodel_feedback_total",
            "Labels of a classifier as a confusion matrix, by actual and predicted class.",
            "actual",
            "predicted",
        )
        own = self._classes[:MAX_VALUES]
        names = [*own, *[apart("other", own)] * (_SIDE - len(own))]
        every = len(self._classes) if len(self._classes) <= EVERY_CELL else 0
        for identity, numbers in totals.items():
            correct.add_metric(identity, numbers[_AT.correct])
            confusion = numbers[_AT.confusion].reshape(_SIDE, _SIDE)
            exported = confusion > 0
            exported[:every, :every] = True
            for actual, predicted in np.argwhere(exported):
                cells.add_metric([*identity, names[actual], names[predicted]], confusion[actual, predicted])
        yield correct
        yield cells

    def _scores(self, cells: Array) -> dict[str, float]:
        rows = float(cells[_AT.labels])
        if not rows:
            return {}
        if not self._classes:
            return {"mae": float(cells[_AT.absolute]) / rows, "rmse": math.sqrt(cells[_AT.squared] / rows)}
        confusion = cells[_AT.confusion].reshape(_SIDE, _SIDE)
        accuracy = {"accuracy": float(cells[_AT.correct]) / rows}
        if confusion[_OTHER].any() or confusion[:, _OTHER].any():
            return accuracy  # some classes share one cell here
        return accuracy | precision_recall_f1(confusion[: len(self._classes), : len(self._classes)])


def precision_recall_f1(confusion: Array) -> dict[str, float]:
    """Return the scores of counts [actual, predicted], as defined in ``package/scores.py``: of the second class of two,
    else the mean over the classes that occur on either side."""
    hit, actual, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    chosen = slice(1, 2) if len(confusion) == 2 else (actual + predicted) > 0
    hit, actual, predicted = hit[chosen], actual[chosen], predicted[chosen]
    return {
        "precision": float((hit / np.maximum(predicted, 1)).mean()),
        "recall": float((hit / np.maximum(actual, 1)).mean()),
        "f1": float((2 * hit / np.maximum(actual + predicted, 1)).mean()),
    }


def _errors(totals: dict[Identity, Array]) -> Iterator[Metric]:
    absolute = counter(
        "mlmodel_feedback_absolute_error_total", "Sum of the absolute errors of a regressor, in the unit of the label."
    )
    squared = counter(
        "mlmodel_feedback_squared_error_total",
        "Sum of the squared errors of a regressor, in the square of the unit of the label.",
    )
    for identity, cells in totals.items():
        absolute.add_metric(identity, cells[_AT.absolute])
        squared.add_metric(identity, cells[_AT.squared])
    yield absolute
    yield squared


def _items(body: bytes) -> list[tuple[Labelled, str]]:
    try:
        decoded = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise RequestError(f"not feedback: {misfits.sentence(str(error))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RequestError('the body is not JSON: send {"prediction_id": "...", "label": ...}') from None
    if isinstance(decoded, Labelled):
        return [(decoded, "")]
    if not 0 < len(decoded) <= MAX_IDS:
        raise RequestError(f"send 1 to {MAX_IDS} objects at a time, not {len(decoded)}")
    count = sum(len(item.labels) for item in decoded if isinstance(item.labels, list))
    if count > MAX_LABELS:
        raise RequestError(f"the feedback has {count} labels: send at most {MAX_LABELS} at a time")
    return [(item, f"[{place}]: ") for place, item in enumerate(decoded)]


def _labels(item: Labelled) -> list[Label]:
    if item.label is msgspec.UNSET:
        if item.labels is msgspec.UNSET:
            raise RequestError("send label for one row, or labels for several")
        return item.labels
    if item.labels is not msgspec.UNSET:
        raise RequestError("send label or labels, not both")
    return [item.label]


def _error(predicted: float, label: Label, row: int) -> float:
    """Return predicted minus actual."""
    if isinstance(label, (bool, str)):
        raise RequestError(f"the label of row {row} must be a number: the model predicts numbers")
    if not abs(predicted) <= MAX_NUMBER:  # NaN too
        raise RequestError(f"the prediction of row {row} is not a finite number up to {MAX_NUMBER}: it has no score")
    return predicted - _bounded(label, row)


def _bounded(label: float, row: int) -> float:
    """Return the label as a float."""
    if not abs(label) <= MAX_NUMBER:  # NaN too; an integer may have any number of digits
        raise RequestError(f"the label of row {row} must be a number from -{MAX_NUMBER} to {MAX_NUMBER}")
    return float(label)


def _bytes(entry: Array) -> Array:
    return entry[_AT.name].view(np.uint8)


def _encoded(version: str, revision: str) -> bytes:
    """Return version and revision as bytes for the cells, each cut to 127 bytes."""
    texts = version.encode()[: _NAME_BYTES // 2 - 1], revision.encode()[: _NAME_BYTES // 2 - 1]
    return bytes(map(len, texts)) + b"".join(texts)


def _name(entry: Array) -> bytes:
    """Return what :func:`_encoded` wrote; empty for an unused entry."""
    raw = _bytes(entry).tobytes()
    return raw[: 2 + raw[0] + raw[1]] if raw[0] or raw[1] else b""


def _decoded(name: bytes) -> tuple[str, str]:
    middle = 2 + name[0]
    return name[2:middle].decode("utf-8", "replace"), name[middle:].decode("utf-8", "replace")
