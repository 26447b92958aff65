"""Bins of a column, and the distance between two distributions over the same bins.

Training counts with the same functions (``package/profile.py``), so that both sides use the same edges.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mlmodel_server.tensors import Array

MAX_VALUES = 20
"""Maximum number of values of a text column, or of classes, that get a bin each."""

MAX_TEXT = 64
"""Number of characters of a text value that are compared."""

WIDTH = MAX_VALUES + 2
"""Number of bins of any column, some of them unused."""

_EDGES = 12  # just below the smallest value, nine deciles, the largest value, infinity


@dataclass(frozen=True, eq=False)
class Numbers:
    """Bins of numbers: below the smallest training value, between its deciles, above its largest, missing.

    ``edges`` [12] are those of :func:`edges_of`. ``labels`` [22] are the names of the bins, "" for an unused bin;
    ``reference`` [22] are their counts at training.
    """

    name: str
    edges: Array
    labels: tuple[str, ...]
    reference: Array


@dataclass(frozen=True, eq=False)
class Values:
    """Bins of texts, booleans or classes: one for each of the most frequent, one for all others, one for missing."""

    name: str
    index: Mapping[Hashable, int]
    others: int
    labels: tuple[str, ...]
    reference: Array


Bins = Numbers | Values


def edges_of(smallest: float, deciles: Iterable[float], largest: float) -> Array:
    """Return the inclusive upper bounds [12] of the bins of :func:`number_bins`, the last ones infinite."""
    inner = {float(decile) for decile in deciles if smallest <= decile < largest}
    bounds = [np.nextafter(smallest, -np.inf), *sorted(inner), largest]
    return np.array(bounds + [np.inf] * (_EDGES - len(bounds)), np.float64)


def number_bins(table: Array, edges: Array) -> Array:
    """Return the bin of each number of ``table`` [rows, columns]: 0 below all ``edges`` [columns, 12], then one bin for
    each finite edge, 12 for NaN."""
    index: Array = np.full(table.shape, _EDGES, np.uint8)
    for edge in edges.T:  # faster than a loop over columns, or than an array of three dimensions
        index -= table <= edge
    return index


def numbers(name: str, edges: Array, counts: Sequence[int], missing: int) -> Numbers:
    """Return bins with ``counts`` rows between the edges at training, and ``missing`` rows without a value.

    Raise ValueError when the number of counts is not that of the bins.
    """
    finite = edges[np.isfinite(edges)].tolist()
    labels = ["below", *_between([float(np.nextafter(finite[0], np.inf)), *finite[1:]]), "above"]
    reference = np.zeros(WIDTH)
    reference[1 : len(finite)] = np.array(counts).reshape(len(finite) - 1)
    reference[_EDGES] = missing
    unused = [""] * (_EDGES - len(labels))
    return Numbers(name, edges, (*labels, *unused, "missing", *[""] * (WIDTH - _EDGES - 1)), reference)


def _between(bounds: list[float]) -> list[str]:
    """Return labels of the intervals between ``bounds``, with enough digits to be unique; a constant is [x, x]."""
    labels: list[str] = []
    for digits in (6, 17):
        texts = [f"{bound + 0.0:.{digits}g}" for bound in bounds]  # no -0
        labels = [f"{'(' if place else '['}{low}, {high}]" for place, (low, high) in enumerate(pairwise(texts))]
        if len(set(labels)) == len(labels):
            break
    return labels


def values(name: str, counts: Mapping[str, int], others: int, missing: int) -> Values:
    """Return bins with ``counts`` rows of each value at training (the first 20 get a bin), and ``others`` rows of other
    values; the bin of other values is called "unseen" when training had none."""
    chosen = list(counts)[:MAX_VALUES]
    others += sum(counts[value] for value in list(counts)[MAX_VALUES:])
    labels = list(chosen)
    for label in ("other" if others else "unseen", "missing"):
        labels.append(apart(label, labels))
    reference = np.zeros(WIDTH)
    reference[: len(labels)] = [*(counts[value] for value in chosen), others, missing]
    index = value_index([value[:MAX_TEXT] for value in chosen])
    return Values(name, index, len(chosen), (*labels, *[""] * (WIDTH - len(labels))), reference)


def apart(label: str, used: Sequence[str]) -> str:
    """Return ``label``, in parentheses when a value or class has the same name."""
    while label in used:
        label = f"({label})"
    return label


def spellings(text: str) -> tuple[Hashable, ...]:
    """Return all Python values of the class or value ``text``: the text, and the number or boolean that it spells."""
    if text in ("True", "False"):
        return (text, text == "True")
    try:
        return (text, float(text))
    except ValueError:
        return (text,)


def value_index(names: Sequence[str]) -> dict[Hashable, int]:
    """Map each spelling of each of ``names`` to its position."""
    return {spelling: place for place, name in enumerate(names) for spelling in spellings(name)}


def value_bins(column: Array, bins: Values) -> Array:
    """Return the bin of each value of ``column`` [rows]."""
    find, others, sent = bins.index.get, bins.others, column.tolist()
    found = {
        value: others + 1
        if value is None or value != value  # NaN differs from itself
        else find(value[:MAX_TEXT] if isinstance(value, str) else value, others)
        for value in set(sent)  # of classes and texts few occur, each often
    }
    return np.fromiter(map(found.__getitem__, sent), np.intp, len(sent))


def psi(reference: Array, live: Array) -> Array:
    """Return the population stability index [columns] of two counts [columns, bins] over the same bins, corrected for
    chance.

    Every bin with rows on either side gets one more row, so that an empty bin does not give infinity. With ``b`` such
    bins and without drift, the raw index is about ``(b - 1) (1/n + 1/m)`` on average. This is subtracted, down to 0.
    Common reading: check the feature from 0.1 on; from 0.25 on it has changed. With ``m`` = 200 rows at training, one
    feature in a hundred has 0.08 without drift. Both sides must have rows in every column.
    """
    used = (reference > 0) | (live > 0)
    expected, actual = (reference + 1.0) * used, (live + 1.0) * used
    expected, actual = (side / side.sum(axis=1, keepdims=True) for side in (expected, actual))
    ratio = np.divide(actual, expected, out=np.ones_like(actual), where=used)
    raw = ((actual - expected) * np.log(ratio)).sum(axis=1)
    chance = (used.sum(axis=1) - 1) * (1 / live.sum(axis=1) + 1 / reference.sum(axis=1))
    index: Array = np.maximum(0.0, raw - chance)
    return index
