"""Check the trees in a file: their libraries follow every index, even out of their memory."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from mlmodel_server.errors import Unreadable
from mlmodel_server.tensors import Array

OUT_OF_RANGE = "it has a tree with an index out of range"
MAX_FEATURES = 10_000_000
MAX_GROUPS = 100_000
"""Maximum number of scores for a row: of classes, and of targets."""

MAX_DEPTH = 1_000
"""Maximum levels of a tree."""


class Damaged(Unreadable):
    """A file has an index out of range, a wrong length, or text instead of a number."""


def integers(values: Any) -> Array:
    """Return ``values`` as an array [n] of integers."""
    array = np.asarray(values)
    if isinstance(values, list) and not all(type(value) is int for value in values):
        raise Damaged("it has a list that is not of integers")
    if array.ndim != 1 or (array.size and (array.dtype.kind not in "iu" or array.dtype == bool)):
        raise Damaged("it has a list that is not of integers")
    return array.astype(np.int64)


def check_indices(indices: Array, count: int) -> None:
    """Raise :class:`Damaged` unless every index is from 0 to ``count`` - 1."""
    if len(indices) and not 0 <= indices.min() <= indices.max() < count:
        raise Damaged(OUT_OF_RANGE)


def check_branches(children: Array, nodes: int) -> None:
    """Raise :class:`Damaged` unless ``children`` are those of one tree of ``nodes``, with the root first: each child
    has one parent, so every walk from the root ends.

    A child may come before its parent, because libraries use the place of a pruned branch again.
    """
    check_indices(children, nodes)
    if len(children) and (np.bincount(children).max() > 1 or (children == 0).any()):
        raise Damaged("it has a tree whose branches merge or loop")


def check_depth(left: Array, right: Array) -> None:
    """Raise :class:`Damaged` if the tree is too deep; -1 means a leaf. Libraries call themselves for each level when
    they explain a prediction."""
    if len(left) <= MAX_DEPTH:
        return
    level = np.zeros(1, np.int64)
    for _ in range(MAX_DEPTH):
        below = np.concatenate((left[level], right[level]))
        level = below[below >= 0]
        if not len(level):
            return
    raise Damaged(f"it has a tree that is deeper than {MAX_DEPTH:,} levels")


def check_lengths(count: int, *columns: Any) -> None:
    """Raise :class:`Damaged` unless each of ``columns`` has ``count`` entries."""
    if any(len(column) != count for column in columns):
        raise Damaged("it has an array of the wrong length")


_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,18}")


def whole(text: Any, lowest: int = 0, highest: int = 1 << 31) -> int:
    """Parse an integer, which may be text in its only spelling, and check that it is between two bounds."""
    spelled = isinstance(text, str) and _WHOLE.fullmatch(text)
    if not spelled and (isinstance(text, bool) or not isinstance(text, (int, np.integer))):
        raise Damaged("it has text instead of an integer")
    number = int(text)
    if not lowest <= number <= highest:
        raise Damaged(f"it has {number:,} where {lowest:,} to {highest:,} is allowed")
    return number
