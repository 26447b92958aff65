"""Make rows that reveal a wrong conversion: near decision boundaries, next to tree thresholds, at the extremes.

All are made from the reference rows, with a fixed seed. Values change only in columns that accept any number; text and
categories are exchanged between rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlmodel_server.compile.domain import BEYOND, Domain
from mlmodel_server.compile.explore import (
    UNKNOWN_TEXT,
    changed,
    known_values,
    special_numbers,
    text_columns,
    unseen_number,
)
from mlmodel_server.compile.functions import MISSING_TEXT
from mlmodel_server.formats.boosters import Boosted
from mlmodel_server.formats.opened import PREDICT, Functions
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array

SEED = 20240611
MAX_GIVEN, INVENTED, MIXED = 2_000, 300, 800
"""Maximum rows of these kinds."""

GIVEN = "given"
"""The kind of the reference rows themselves."""

EXTREMES, THRESHOLDS, SINGLE = 100, 300, 10
"""Maximum columns with six extremes each; thresholds with ten values each; columns with five unusual values each."""

SPECIAL_COLUMNS, SPECIAL_NUMBERS, CATEGORIES, MARKED = 40, 40, 300, 400
"""Maximum columns with every special number; of special numbers of the model; of known categories of a column; rows
with random categories in all columns."""

MAX_PROBES = 4_000
"""Maximum rows with one special value."""

NUMBERS = (
    0.0, -0.0, 1.0, -1.0, 0.5, -999.0, 5e-324, 2.5e-308, 1e-45, 1.2e-38, 16777217.0, -16777217.0, 2147483648.0,
    9007199254740992.0, -9007199254740994.0, 1e30, 1e37, -1e37, 3.4028234e38, -3.4028234e38,
)  # fmt: skip
"""Numbers at which libraries differ: zeros, denormals, integers that float32 or float64 cannot hold, and great
numbers, up to the greatest of float32."""

PAIRS = 96
HALVINGS = 32
"""Halvings of the line between two rows, down to 2^-32 of it. Closer to a boundary, the order of sums may decide."""


@dataclass(frozen=True)
class Rows:
    """Rows of one kind, [rows, columns]. ``exact``: a difference by rounding is not accepted either."""

    kind: str
    table: Array
    exact: bool = False


class ColumnKinds:
    """The columns by kind. ``open`` columns accept any number, ``open_text`` any text; values of ``closed`` columns
    (all but the open ones) come from other rows or from the ``domain``. ``numbers`` are all columns that are not text,
    and ``maybe_missing`` the open columns that accept a missing number."""

    def __init__(self, signature: Signature, domain: Domain) -> None:
        text = text_columns(signature)
        self.open = [column for column, is_text in enumerate(text) if not is_text and column not in domain.values]
        self.open_text = [column for column, is_text in enumerate(text) if is_text and column not in domain.texts]
        self.closed = [column for column in range(len(text)) if column not in self.open]
        self.numbers = [column for column, is_text in enumerate(text) if not is_text]
        self.domain = domain
        self.maybe_missing = [
            column
            for column, rejects_missing in zip(self.numbers, domain.missing, strict=False)
            if not rejects_missing and column in self.open
        ]


def varied(estimator: Any, table: Array, kinds: ColumnKinds) -> list[Rows]:
    """Return rows of all kinds but :func:`boundary` and :func:`unusual`, made from the reference rows ``table``."""
    random = np.random.default_rng(SEED)
    given = table if len(table) <= MAX_GIVEN else table[random.choice(len(table), MAX_GIVEN, replace=False)]
    base = np.concatenate([given, _invented(given, kinds, random)])
    return [
        Rows(GIVEN, given),
        Rows("invented", base[len(given) :]),
        Rows("between two rows", _mixed(base, kinds, random)),
        Rows("with missing numbers", _with_missing(given, kinds, random)),
        Rows("with noise", _with_noise(given, kinds, random)),
        Rows("at an extreme", _extremes(given, kinds, random)),
        Rows("at a threshold", _at_thresholds(estimator, base, kinds, random), exact=True),
    ]


def _invented(table: Array, kinds: ColumnKinds, random: np.random.Generator) -> Array:
    """Return rows from a thousandth to a hundred times the range of each column; up to 10,000 if it has no range."""
    rows = table[random.integers(len(table), size=INVENTED)]
    for column in kinds.open:
        low, high = _range(table[:, column])
        width, most = (high - low, 2) if high > low else (1.0, 4)
        size = random.normal(size=len(rows)) * 10.0 ** random.uniform(-3, most, size=len(rows))
        rows[:, column] = _as_type(table, (low + high) / 2 + width * size)
    return rows


def _range(values: Array) -> tuple[float, float]:
    values = values.astype(np.float64)
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)


def _as_type(table: Array, values: Array) -> Array:
    """Round and clip values to the type of the table."""
    if table.dtype.kind not in "iu":
        return values
    limits = np.iinfo(table.dtype)
    return np.clip(np.round(values), limits.min, limits.max)


def _mixed(table: Array, kinds: ColumnKinds, random: np.random.Generator) -> Array:
    """Return rows between two rows; a value that is not a number comes from one of them."""
    first, second = (table[random.integers(len(table), size=MIXED)] for _ in range(2))
    rows = first.copy()
    for column in kinds.closed:
        take = random.random(MIXED) < 0.5
        rows[take, column] = second[take, column]
    for column in kinds.open_text:
        rows[random.random(MIXED) < 0.05, column] = UNKNOWN_TEXT
    rows[:, kinds.open] = _between(first, second, random.random((MIXED, 1)), kinds)
    return rows


def _between(first: Array, second: Array, share: Array, kinds: ColumnKinds) -> Array:
    start, end = (rows[:, kinds.open].astype(np.float64) for rows in (first, second))
    return _as_type(first, start + (end - start) * share)


def _with_missing(table: Array, kinds: ColumnKinds, random: np.random.Generator) -> Array:
    if not kinds.maybe_missing:
        return table[:0]
    rows = _mixed(table, kinds, random)
    values = rows[:, kinds.maybe_missing].astype(np.float64)
    rows[:, kinds.maybe_missing] = np.where(random.random(values.shape) < 0.2, np.nan, values)
    return rows


def _with_noise(table: Array, kinds: ColumnKinds, random: np.random.Generator) -> Array:
    """Return given rows with noise, from 1e-7 to 1e-1 of each value."""
    rows = table[random.integers(len(table), size=MIXED)]
    values = rows[:, kinds.open].astype(np.float64)
    noise = random.normal(size=values.shape) * 10.0 ** random.uniform(-7, -1, size=(len(rows), 1))
    rows[:, kinds.open] = _as_type(table, values * (1 + noise))
    return rows


def _extremes(table: Array, kinds: ColumnKinds, random: np.random.Generator) -> Array:
    """Return rows with one column at the end of its range, far beyond it, at zero, or with the other sign."""
    rows = []
    for column in random.permutation(kinds.open)[:EXTREMES]:
        low, high = _range(table[:, column])
        width = high - low or 1.0
        for value in (low, high, low - 10 * width, high + 10 * width, 0.0, -high):
            row = table[random.integers(len(table))].copy()
            row[column] = _as_type(table, np.asarray(value))
            rows.append(row)
    return np.array(rows, dtype=table.dtype)


def _at_thresholds(estimator: Any, table: Array, kinds: ColumnKinds, random: np.random.Generator) -> Array:
    """Return rows with one column at a threshold of a tree, or next to it on either side, in float64 and in float32."""
    splits = {(int(feature), float(threshold)) for feature, threshold in _thresholds(estimator)}
    usable = sorted(split for split in splits if split[0] in kinds.open and np.isfinite(split[1]))
    rows = []
    for index in random.permutation(len(usable))[:THRESHOLDS]:
        column, threshold = usable[index]
        for value in _neighbours(threshold):
            row = table[random.integers(len(table))].copy()
            row[column] = _as_type(table, np.asarray(value))
            rows.append(row)
    return np.array(rows, dtype=table.dtype)


def _neighbours(threshold: float) -> Iterator[float]:
    single = np.float32(threshold)
    up, down = np.nextafter(single, np.float32(np.inf)), np.nextafter(single, np.float32(-np.inf))
    yield from (threshold, float(single), float(up), float(down))
    # Numbers at which rounding to float32 changes the side.
    for middle in ((float(single) + float(up)) / 2, (float(single) + float(down)) / 2, threshold):
        yield float(np.nextafter(middle, np.inf))
        yield float(np.nextafter(middle, -np.inf))


def _thresholds(estimator: Any) -> Iterator[tuple[int, float]]:
    """Yield feature and threshold of trees on the table itself; :func:`boundary` covers trees after other steps."""
    if isinstance(estimator, Boosted):
        from mlmodel_server.compile.boosters import splits  # imports onnx, which takes 40 MB

        yield from splits(estimator)
        return
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


def probes(estimator: Any, table: Array, kinds: ColumnKinds) -> list[Rows]:
    """Return rows with the values that this model may treat unlike their neighbours: numbers among its parameters,
    each known category, and numbers or texts that resemble one."""
    random = np.random.default_rng(SEED)
    texts = sorted(known_values(estimator, text=True))
    numbers = sorted(known_values(estimator, text=False))
    special = sorted(special_numbers(estimator))[:SPECIAL_NUMBERS]
    near = [other for value in numbers[:CATEGORIES] for other in (value, value + 0.5, -value)]
    values: dict[int, list[Any]] = {}
    for column in kinds.numbers:
        closed = kinds.domain.values.get(column)
        values[column] = near if closed is None else [*sorted(closed)[:CATEGORIES], -0.0, -1.0, 0.5]
    for column in set(kinds.closed + kinds.open_text) - set(kinds.numbers):
        known = kinds.domain.texts.get(column)
        listed = texts if known is None else sorted(known)
        like = [other for text in listed[:1] for other in (f" {text}", text.swapcase())]
        listed = [text for text in listed if text != MISSING_TEXT]
        values[column] = [*_some(listed, random), "", None, *like, UNKNOWN_TEXT]
    single = []
    for column in random.permutation(kinds.open)[:SPECIAL_COLUMNS]:  # a closed column rejects nearly all of them
        single += [(int(column), value) for value in (*NUMBERS, *special)]
    single += [(column, value) for column, listed in values.items() for value in listed[: 3 * CATEGORIES]]
    rows = [_with(table, random, [column], value) for column, value in single[:MAX_PROBES]]
    rows += [_with(table, random, kinds.open, value) for value in (*NUMBERS, *special)] if kinds.open else []
    return [
        Rows("with a special value", np.array(rows, dtype=table.dtype).reshape(-1, table.shape[1])),
        Rows("with known categories", _categories(table, kinds, values, random)),
    ]


def _some(listed: list[Any], random: np.random.Generator) -> list[Any]:
    if len(listed) <= CATEGORIES:
        return listed
    return [listed[index] for index in random.choice(len(listed), CATEGORIES, replace=False)]


def _with(table: Array, random: np.random.Generator, columns: list[int], value: Any) -> Array:
    row: Array = table[random.integers(len(table))].copy()
    row[columns] = value if value is None or isinstance(value, str) else _as_type(table, np.asarray(value))
    return row


def _categories(table: Array, kinds: ColumnKinds, values: dict[int, list[Any]], random: np.random.Generator) -> Array:
    """Return rows whose columns of categories have any of the known ones."""
    if not any(values.get(column) for column in (*kinds.closed, *kinds.open_text)):
        return table[:0]
    rows = table[random.integers(len(table), size=MARKED)]
    for column in sorted({*kinds.closed, *kinds.open_text}):
        known: Any = kinds.domain.texts.get(column) or kinds.domain.values.get(column)
        known = sorted(known) if known else values.get(column)
        if known:
            listed = [None if value == MISSING_TEXT else value for value in known]
            rows[:, column] = [listed[index] for index in random.integers(len(listed), size=MARKED)]
    return rows


def boundary(functions: Functions, table: Array, kinds: ColumnKinds) -> Rows:
    """Return rows on the line between two rows of ``table`` with different predictions, halving down to the boundary.

    The model accepts all rows of ``table``. The last rows are on both sides of the boundary, 2^-32 of the line apart,
    or 1e-12 of a value if that is more.
    """
    return Rows("near a boundary", _halved(lambda rows: functions(rows, (PREDICT,))[0], table, kinds))


def _halved(predict: Callable[[Array], Array], table: Array, kinds: ColumnKinds) -> Array:
    random = np.random.default_rng(SEED)
    if not kinds.open or table.dtype.kind not in "fO":
        return table[:0]
    first, second = (table[random.integers(len(table), size=20 * PAIRS)] for _ in range(2))
    second[:, kinds.closed] = first[:, kinds.closed]
    label = _keys(predict(first))
    usable = np.flatnonzero((label != _keys(predict(second))) & _finite(first, kinds) & _finite(second, kinds))
    usable = usable[:PAIRS]
    if not len(usable):
        return table[:0]
    first, second, label = first[usable], second[usable], label[usable]
    low, high = np.zeros(len(first)), np.ones(len(first))
    precision = _precision(first, second, kinds)
    rows = []
    for _ in range(HALVINGS):
        unfinished = high - low > precision
        if not unfinished.any():
            break
        middle = (low + high) / 2
        between = first.copy()
        between[:, kinds.open] = _between(first, second, middle[:, None], kinds)
        same = _keys(predict(between)) == label
        low, high = np.where(unfinished & same, middle, low), np.where(unfinished & ~same, middle, high)
        rows.append(between[unfinished])
    return np.concatenate(rows)


def _keys(predictions: Array) -> Array:
    """Return one comparable key per row, for one or several targets."""
    if predictions.ndim == 1:
        return predictions
    return np.array([str(row) for row in predictions.tolist()])


def _finite(rows: Array, kinds: ColumnKinds) -> Array:
    return np.asarray(np.isfinite(rows[:, kinds.open].astype(np.float64)).all(axis=1))


def _precision(first: Array, second: Array, kinds: ColumnKinds) -> Array:
    """Return how close a pair may come, as a share of the line between them."""
    start, end = (rows[:, kinds.open].astype(np.float64) for rows in (first, second))
    length = np.abs(end - start)
    size = np.maximum(np.abs(start), np.abs(end))
    smallest = 1e-5 if first.dtype == np.float32 else 1e-12
    share = np.divide(smallest * size, length, out=np.zeros_like(size), where=length > 0)
    closest: Array = np.clip(share.max(axis=1), 2.0**-HALVINGS, 2.0**-8)
    return closest


def unusual(row: Array, kinds: ColumnKinds) -> list[Rows]:
    """Return single rows that some models reject: a missing, infinite or too great number, or an unknown category.

    The model accepts ``row`` ([1, columns]).
    """
    made = []
    if row.dtype.kind in "fO":
        values = [np.nan, np.inf, -np.inf] + ([] if row.dtype == np.float32 else [BEYOND, -BEYOND])
        positions = [[column] for column in kinds.numbers[:SINGLE]] + [kinds.numbers]
        made += [changed(row, position, value) for value in values for position in positions if position]
    for column in kinds.closed:
        if column not in kinds.numbers:
            made.append(changed(row, [column], UNKNOWN_TEXT))
        else:
            made.append(changed(row, [column], unseen_number(row, column)))
    return [Rows("missing, infinite or unknown", single) for single in made]
