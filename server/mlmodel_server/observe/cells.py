"""Numbers that worker processes share: each worker writes one row, readers add up the rows."""

from __future__ import annotations

import mmap
from typing import NamedTuple

import numpy as np

from mlmodel_server.tensors import Array


class Identity(NamedTuple):
    """Model, version and revision that numbers belong to: the first labels of every metric."""

    model: str
    version: str
    revision: str


class Cells:
    """float64 numbers in anonymous shared memory, shape [slots, width], initially zero.

    Create them before the fork. A slot belongs to one worker and, if it crashes, to its successor: the counts outlive
    the process, so that a sum never decreases. Only one process writes to a row, so no locks are needed; a number is
    eight aligned bytes, so a reader sees the value before or after a change, never a mix. Integers are exact up to
    2**53.
    """

    def __init__(self, slots: int, width: int) -> None:
        memory = mmap.mmap(-1, slots * width * 8)
        self._rows: Array = np.frombuffer(memory, dtype=np.float64).reshape(slots, width)

    def row(self, slot: int) -> Array:
        """Return the numbers of one worker, shape [width], as a writable view."""
        row: Array = self._rows[slot]
        return row

    def rows(self) -> Array:
        """Return all numbers, shape [slots, width], to read."""
        return self._rows

    def total(self) -> Array:
        """Return the sum over the workers, shape [width]; a copy."""
        total: Array = self._rows.sum(axis=0)
        return total
