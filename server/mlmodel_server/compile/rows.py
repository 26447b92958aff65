"""Rows on which a wrong conversion would show: near decision boundaries, next to tree thresholds, at the extremes.

All are made from the reference rows, with a fixed seed. Values change only in the columns of numbers that take any
number; text and categories are exchanged between rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlmodel_server.compile.domain import BEYOND, Domain
from mlmodel_server.compile.explore import STRANGER, changed, strange, text_columns
from mlmodel_server.formats.opened import PREDICT, Functions
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array

SEED = 20240611
GIVEN, INVENTED, MIXED = 2_000, 300, 800
"""Rows at most of these kinds."""

EXTREMES, THRESHOLDS, SINGLE = 100, 300, 10
"""Columns with six extremes each; thresholds with ten values each; columns with five odd values each."""

PAIRS = 96
HALVINGS = 32
"""2^-32 of the way between two rows. Closer to a boundary than that, sums rounded in another order may decide."""


@dataclass(frozen=True)
class Rows:
    """Rows of one kind, [rows, columns]. ``exact``: no difference is excused by rounding."""

    kind: str
    table: Array
    exact: bool = False


class Freedom:
    """Which columns may take any number, and what the others are seen to hold."""

    def __init__(self, signature: Signature, domain: Domain) -> None:
        text = text_columns(signature)
        self.open = [column for column, is_text in enumerate(text) if not is_text and column not in domain.values]
        self.open_text = [column for column, is_text in enumerate(text) if is_text and column not in domain.texts]
        self.closed = [column for column in range(len(text)) if column not in self.open]
        self.numbers = [column for column, is_text in enumerate(text) if not is_text]
        takes_missing = [not refused for refused in domain.missing]
        self.maybe_missing = [
            column for column, takes in zip(self.numbers, takes_missing, strict=False) if takes and column in self.open
        ]


def revealing(estimator: Any, table: Array, freedom: Freedom) -> list[Rows]:
    """Of all kinds but :func:`boundary` and :func:`odd`, made from the reference rows ``table``."""
    random = np.random.default_rng(SEED)
    given = table if len(table) <= GIVEN else table[random.choice(len(table), GIVEN, replace=False)]
    base = np.concatenate([given, _invented(given, freedom, random)])
    return [
        Rows("given", given),
        Rows("invented", base[len(given) :]),
        Rows("between two rows", _mixed(base, freedom, random)),
        Rows("with missing numbers", _with_missing(given, freedom, random)),
        Rows("with noise", _scattered(given, freedom, random)),
        Rows("at an extreme", _extremes(given, freedom, random)),
        Rows("at a threshold", _at_thresholds(estimator, base, freedom, random), exact=True),
    ]


def _invented(table: Array, freedom: Freedom, random: np.random.Generator) -> Array:
    """From a thousandth to a hundred times the range of each column; where that is nothing, up to 10,000."""
    rows = table[random.integers(len(table), size=INVENTED)]
    for column in freedom.open:
        low, high = _range(table[:, column])
        width, most = (high - low, 2) if high > low else (1.0, 4)
        size = random.normal(size=len(rows)) * 10.0 ** random.uniform(-3, most, size=len(rows))
        rows[:, column] = _fitting(table, (low + high) / 2 + width * size)
    return rows


def _range(values: Array) -> tuple[float, float]:
    values = values.astype(np.float64)
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)


def _fitting(table: Array, values: Array) -> Array:
    """As the table can hold them."""
    if table.dtype.kind not in "iu":
        return values
    limits = np.iinfo(table.dtype)
    return np.clip(np.round(values), limits.min, limits.max)


def _mixed(table: Array, freedom: Freedom, random: np.random.Generator) -> Array:
    """Somewhere between two rows; what is no number comes from one of them."""
    first, second = (table[random.integers(len(table), size=MIXED)] for _ in range(2))
    rows = first.copy()
    for column in freedom.closed:
        take = random.random(MIXED) < 0.5
        rows[take, column] = second[take, column]
    for column in freedom.open_text:
        rows[random.random(MIXED) < 0.05, column] = STRANGER
    rows[:, freedom.open] = _between(first, second, random.random((MIXED, 1)), freedom)
    return rows


def _between(first: Array, second: Array, share: Array, freedom: Freedom) -> Array:
    begin, end = (rows[:, freedom.open].astype(np.float64) for rows in (first, second))
    return _fitting(first, begin + (end - begin) * share)


def _with_missing(table: Array, freedom: Freedom, random: np.random.Generator) -> Array:
    if not freedom.maybe_missing:
        return table[:0]
    rows = _mixed(table, freedom, random)
    values = rows[:, freedom.maybe_missing].astype(np.float64)
    rows[:, freedom.maybe_missing] = np.where(random.random(values.shape) < 0.2, np.nan, values)
    return rows


def _scattered(table: Array, freedom: Freedom, random: np.random.Generator) -> Array:
    """Given rows with a little noise, from 1e-7 to 1e-1 of each value."""
    rows = table[random.integers(len(table), size=MIXED)]
    values = rows[:, freedom.open].astype(np.float64)
    noise = random.normal(size=values.shape) * 10.0 ** random.uniform(-7, -1, size=(len(rows), 1))
    rows[:, freedom.open] = _fitting(table, values * (1 + noise))
    return rows


def _extremes(table: Array, freedom: Freedom, random: np.random.Generator) -> Array:
    """One column at the end of its range, far beyond it, at zero, or with the other sign."""
    rows = []
    for column in random.permutation(freedom.open)[:EXTREMES]:
        low, high = _range(table[:, column])
        width = high - low or 1.0
        for value in (low, high, low - 10 * width, high + 10 * width, 0.0, -high):
            row = table[random.integers(len(table))].copy()
            row[column] = _fitting(table, np.asarray(value))
            rows.append(row)
    return np.array(rows, dtype=table.dtype)


def _at_thresholds(estimator: Any, table: Array, freedom: Freedom, random: np.random.Generator) -> Array:
    """One column exactly at a threshold of a tree, and next to it on both sides, in float64 and in float32."""
    found = {(int(feature), float(threshold)) for feature, threshold in _thresholds(estimator)}
    usable = sorted(pair for pair in found if pair[0] in freedom.open and np.isfinite(pair[1]))
    rows = []
    for index in random.permutation(len(usable))[:THRESHOLDS]:
        column, threshold = usable[index]
        for value in _neighbours(threshold):
            row = table[random.integers(len(table))].copy()
            row[column] = _fitting(table, np.asarray(value))
            rows.append(row)
    return np.array(rows, dtype=table.dtype)


def _neighbours(threshold: float) -> Iterator[float]:
    single = np.float32(threshold)
    up, down = np.nextafter(single, np.float32(np.inf)), np.nextafter(single, np.float32(-np.inf))
    yield from (threshold, float(single), float(up), float(down))
    # Where rounding to float32 changes sides.
    for middle in ((float(single) + float(up)) / 2, (float(single) + float(down)) / 2, threshold):
        yield float(np.nextafter(middle, np.inf))
        yield float(np.nextafter(middle, -np.inf))


def _thresholds(estimator: Any) -> Iterator[tuple[int, float]]:
    """Of trees that see the table as it is; behind another step, the boundaries themselves have to do."""
    if hasattr(estimator, "tree_"):
        inner = estimator.tree_.children_left >= 0
        yield from zip(estimator.tree_.feature[inner], estimator.tree_.threshold[inner], strict=True)
    for stage in getattr(estimator, "_predictors", ()):
        for tree in stage:
            inner = tree.nodes[(tree.nodes["is_leaf"] == 0) & (tree.nodes["is_categorical"] == 0)]
            yield from zip(inner["feature_idx"], inner["num_threshold"], strict=True)
    if not hasattr(estimator, "estimators_features_"):
        parts = getattr(estimator, "estimators_", ())
        for part in parts.ravel() if isinstance(parts, np.ndarray) else parts:
            yield from _thresholds(part)


def boundary(functions: Functions, table: Array, freedom: Freedom) -> Rows:
    """Rows on the line between two of ``table`` (all answered) with different answers, halving down to the boundary.

    The last ones are on both sides of it, 2^-32 of the line apart, or where that is less than 1e-12 of a value, so
    much.
    """
    return Rows("near a boundary", _halved(lambda rows: functions(rows, (PREDICT,))[0], table, freedom))


def _halved(predict: Callable[[Array], Array], table: Array, freedom: Freedom) -> Array:
    random = np.random.default_rng(SEED)
    if not freedom.open or table.dtype.kind not in "fO":
        return table[:0]
    first, second = (table[random.integers(len(table), size=20 * PAIRS)] for _ in range(2))
    second[:, freedom.closed] = first[:, freedom.closed]
    answer = _keys(predict(first))
    usable = np.flatnonzero((answer != _keys(predict(second))) & _finite(first, freedom) & _finite(second, freedom))
    usable = usable[:PAIRS]
    if not len(usable):
        return table[:0]
    first, second, answer = first[usable], second[usable], answer[usable]
    low, high = np.zeros(len(first)), np.ones(len(first))
    precision = _precision(first, second, freedom)
    rows = []
    for _ in range(HALVINGS):
        going = high - low > precision
        if not going.any():
            break
        middle = (low + high) / 2
        between = first.copy()
        between[:, freedom.open] = _between(first, second, middle[:, None], freedom)
        same = _keys(predict(between)) == answer
        low, high = np.where(going & same, middle, low), np.where(going & ~same, middle, high)
        rows.append(between[going])
    return np.concatenate(rows)


def _keys(answers: Array) -> Array:
    """One comparable key per row, also of several targets."""
    if answers.ndim == 1:
        return answers
    return np.array([str(row) for row in answers.tolist()])


def _finite(rows: Array, freedom: Freedom) -> Array:
    return np.asarray(np.isfinite(rows[:, freedom.open].astype(np.float64)).all(axis=1))


def _precision(first: Array, second: Array, freedom: Freedom) -> Array:
    """How close a pair may come, as a share of the line between them."""
    begin, end = (rows[:, freedom.open].astype(np.float64) for rows in (first, second))
    length = np.abs(end - begin)
    size = np.maximum(np.abs(begin), np.abs(end))
    smallest = 1e-5 if first.dtype == np.float32 else 1e-12
    share = np.divide(smallest * size, length, out=np.zeros_like(size), where=length > 0)
    closest: Array = np.clip(share.max(axis=1), 2.0**-HALVINGS, 2.0**-8)
    return closest


def odd(row: Array, freedom: Freedom) -> list[Rows]:
    """Single rows that some models refuse: a missing, infinite or too great number, a category never seen.

    ``row`` ([1, columns]) is one that is answered.
    """
    made = []
    if row.dtype.kind in "fO":
        values = [np.nan, np.inf, -np.inf] + ([] if row.dtype == np.float32 else [BEYOND, -BEYOND])
        positions = [[column] for column in freedom.numbers[:SINGLE]] + [freedom.numbers]
        made += [changed(row, position, value) for value in values for position in positions if position]
    for column in freedom.closed:
        if column not in freedom.numbers:
            made.append(changed(row, [column], STRANGER))
        else:
            made.append(changed(row, [column], strange(row, column)))
    return [Rows("missing, infinite or unknown", single) for single in made]
