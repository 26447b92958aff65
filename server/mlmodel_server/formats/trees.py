"""Checks of trees in a file: the libraries that walk them follow every index, also out of their memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.tensors import Array


class Damaged(ValueError):
    """A tree that leads out of itself, or a number that is none."""


def integers(values: Any) -> Array:
    """``values`` as an array [n] of integers."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and (array.dtype.kind not in "iu" or array.dtype == bool)):
        raise Damaged("it has a list that is not of integers")
    return array.astype(np.int64)


def within(indices: Array, count: int) -> None:
    """Every index is one of ``count``."""
    if len(indices) and not 0 <= indices.min() <= indices.max() < count:
        raise Damaged("it has a tree that reads outside itself")


def branching(children: Array, nodes: int) -> None:
    """``children`` are of one tree of ``nodes``, its root first: each has one parent, so no walk from there is endless.

    Not every child comes after its parent: room of a pruned branch is used again.
    """
    within(children, nodes)
    if len(children) and (np.bincount(children).max() > 1 or (children == 0).any()):
        raise Damaged("it has a tree whose branches grow together")


def as_long(count: int, *columns: Any) -> None:
    """Each of ``columns`` has ``count`` entries."""
    if any(len(column) != count for column in columns):
        raise Damaged("it has more or fewer numbers than its parts need")


def whole(text: Any, lowest: int = 0, highest: int = 1 << 31) -> int:
    """An integer, also as text, between two bounds."""
    try:
        number = int(text) if isinstance(text, (str, int)) else int(str(text))
    except ValueError:
        raise Damaged("it has text in place of an integer") from None
    if not lowest <= number <= highest:
        raise Damaged(f"it has a number beyond {highest:,}")
    return number
