"""Numbers that several worker processes share: every worker writes its own row, readers add the rows up."""

from __future__ import annotations

import mmap
from typing import NamedTuple

import numpy as np

from mlmodel_server.tensors import Array


class Identity(NamedTuple):
    """Whose numbers they are; the first labels of every metric."""

    model: str
    version: str
    revision: str


class Cells:
    """float64 numbers in anonymous shared memory, shape [slots, width], zero at first.

    Make them before the fork. A slot is the place of one worker, and of its successor if it crashes: what is counted
    there outlives the process, so that a sum never goes back. Only one process writes into a row, hence no locks; a
    number is eight aligned bytes, so a reader sees it before or after a change and never in between. Whole counts are
    exact up to 2**53.
    """

    def __init__(self, slots: int, width: int) -> None:
        memory = mmap.mmap(-1, slots * width * 8)
        self._rows: Array = np.frombuffer(memory, dtype=np.float64).reshape(slots, width)

    def row(self, slot: int) -> Array:
        """The numbers of one worker, shape [width], to write into."""
        row: Array = self._rows[slot]
        return row

    def rows(self) -> Array:
        """All of them, shape [slots, width], to read."""
        return self._rows

    def total(self) -> Array:
        """The sum over the workers, shape [width]; a copy."""
        total: Array = self._rows.sum(axis=0)
        return total
