"""Bins of a column: which one a value falls into, and how far two distributions over the same bins are apart.

Training counts with the same functions (``package/profile.py``), so the two sides cannot disagree about an edge.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mlmodel_server.tensors import Array

MAX_VALUES = 20
"""Values of a text column, or classes, with a bin of their own."""

MAX_TEXT = 64
"""Characters of a text value that count."""

WIDTH = MAX_VALUES + 2
"""Bins of any column, some of them unused."""

_EDGES = 12  # just below the smallest value, nine deciles, the largest value, infinity


@dataclass(frozen=True, eq=False)
class Numbers:
    """Bins of numbers: below the smallest training value, between its deciles, above its largest, missing.

    ``edges`` [12] are those of :func:`edges_of`. ``labels`` and ``reference`` [22] are the name of each bin, "" for one
    that is never hit, and how often it was hit at training.
    """

    name: str
    edges: Array
    labels: tuple[str, ...]
    reference: Array


@dataclass(frozen=True, eq=False)
class Values:
    """Bins of texts, truth values or classes: one for each of the commonest, one for all others, one for missing."""

    name: str
    index: Mapping[Hashable, int]
    others: int
    labels: tuple[str, ...]
    reference: Array


Bins = Numbers | Values


def edges_of(smallest: float, deciles: Iterable[float], largest: float) -> Array:
    """Inclusive upper bounds [12] of the bins of :func:`number_bins`, the last ones infinite."""
    inner = {float(decile) for decile in deciles if smallest <= decile < largest}
    bounds = [np.nextafter(smallest, -np.inf), *sorted(inner), largest]
    return np.array(bounds + [np.inf] * (_EDGES - len(bounds)), np.float64)


def number_bins(table: Array, edges: Array) -> Array:
    """For each number of ``table`` [rows, columns] its bin, by ``edges`` [columns, 12]: 0 below all, then one for each
    finite edge, 12 for NaN."""
    index: Array = np.full(table.shape, _EDGES, np.uint8)
    for edge in edges.T:  # a loop over twelve edges is quicker than one over columns, or three dimensions at once
        index -= table <= edge
    return index


def numbers(name: str, edges: Array, counts: Sequence[int], missing: int) -> Numbers:
    """Bins with ``counts`` rows between the edges at training, and ``missing`` rows without a value.

    Raises ValueError when there are not as many counts as bins.
    """
    finite = edges[np.isfinite(edges)].tolist()
    labels = ["below", *_between([float(np.nextafter(finite[0], np.inf)), *finite[1:]]), "above"]
    reference = np.zeros(WIDTH)
    reference[1 : len(finite)] = np.array(counts).reshape(len(finite) - 1)
    reference[_EDGES] = missing
    unused = [""] * (_EDGES - len(labels))
    return Numbers(name, edges, (*labels, *unused, "missing", *[""] * (WIDTH - _EDGES - 1)), reference)


def _between(bounds: list[float]) -> list[str]:
    """The intervals between ``bounds``, with as many digits as tell them apart; a constant is one of no width."""
    labels: list[str] = []
    for digits in (6, 17):
        shown = [f"{bound + 0.0:.{digits}g}" for bound in bounds]  # no -0
        labels = [f"{'(' if place else '['}{low}, {high}]" for place, (low, high) in enumerate(pairwise(shown))]
        if len(set(labels)) == len(labels):
            break
    return labels


def values(name: str, counts: Mapping[str, int], others: int, missing: int) -> Values:
    """Bins with ``counts`` rows of each value at training (the first 20 of them get a bin), and ``others`` rows of any
    other value; when there were none of those, such a value is called unseen."""
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
    """``label``, in parentheses when a value or class is called like it."""
    while label in used:
        label = f"({label})"
    return label


def spellings(text: str) -> tuple[Hashable, ...]:
    """Every Python value that means the class or value ``text``: itself, and its number or truth value if it is one."""
    if text in ("True", "False"):
        return (text, text == "True")
    try:
        return (text, float(text))
    except ValueError:
        return (text,)


def value_index(names: Sequence[str]) -> dict[Hashable, int]:
    """From each spelling of each of ``names`` to its place."""
    return {spelling: place for place, name in enumerate(names) for spelling in spellings(name)}


def value_bins(column: Array, bins: Values) -> Array:
    """For each value of ``column`` [rows] its bin."""
    find, others = bins.index.get, bins.others
    found = [
        others + 1
        if value is None or value != value  # NaN differs from itself
        else find(value[:MAX_TEXT] if isinstance(value, str) else value, others)
        for value in column.tolist()
    ]
    return np.array(found, np.intp)


def psi(reference: Array, live: Array) -> Array:
    """Population stability index of two counts [columns, bins] over the same bins, less what chance alone would give;
    shape [columns].

    Every bin that was hit on either side gets one row more, so that an empty one is no infinity. With ``b`` such bins
    and no drift at all the raw index is about ``(b - 1) (1/n + 1/m)`` on average; that is taken off, and the rest is
    never below 0. Usual reading: from 0.1 on look at it, from 0.25 on it has changed; with ``m`` = 200 rows at training
    one undrifted feature in a hundred still shows 0.08. Both sides must have rows in every column.
    """
    used = (reference > 0) | (live > 0)
    expected, found = (reference + 1.0) * used, (live + 1.0) * used
    expected, found = (side / side.sum(axis=1, keepdims=True) for side in (expected, found))
    ratio = np.divide(found, expected, out=np.ones_like(found), where=used)
    raw = ((found - expected) * np.log(ratio)).sum(axis=1)
    chance = (used.sum(axis=1) - 1) * (1 / live.sum(axis=1) + 1 / reference.sum(axis=1))
    index: Array = np.maximum(0.0, raw - chance)
    return index
