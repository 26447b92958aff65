"""Labels of a rollout: how often each version is right, by the weight under which the router drew who answers.

Only predictions that the router drew at random count, of stable and of the candidate alike, so both answer the same
kind of requests at the same time. The id of a prediction has this as a mark of two bytes: it lasts until the label
comes. docs/adr/0027-quality-gate.md says why.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from typing import TypedDict

import numpy as np

from mlmodel_server.observe.cells import Cells
from mlmodel_server.tensors import Array

DRAWN = b"x-mlmodel-drawn"
"""Header of a request whose side the router drew: weight in percent, revision of the candidate, and the side. The
router removes it from what clients send."""

WEIGHTS = 100
"""Weights that count are 1 to 99: at 100 stable gets no request."""

BINS_PER_DECADE, LARGEST_DECADE = 40, 9
BINS = 2 * LARGEST_DECADE * BINS_PER_DECADE + 1
"""Number of bins of errors: bin n has those of at most 10^(n/40 - 9), the first also 0, the last all greater ones."""

_VALUE = re.compile(rb"([1-9][0-9]?) ([0-9a-z]{1,63}) (candidate|stable)")
_TAG_BITS = 9
_LABELS = 0  # in the cells of a side and a weight: whether there are any; the bins follow
_OWN, _OTHER = 0, 1
_GENERATION, _TAG, _NEWEST, _OTHER_HASH, _NUMBERS = range(5)  # in the cells that all workers share


class LabelsPage(TypedDict):
    """Labels of the present rollout that were posted to this pod, for the operator."""

    boot: str
    """16 hexadecimal digits, others for each process and each rollout."""
    revision: str
    """That of this pod."""
    tag: int
    """Of the candidate of the rollout; -1 before the first label."""
    other: int
    """Hash of the other revision; -1 before its first label."""
    kind: str
    """``classes`` or ``numbers``; empty before the first label."""
    weights: dict[str, tuple[tuple[int, int], tuple[int, int]]]
    """By weight in percent: labels and right predictions of this revision, and of the other one."""


def hash_of(revision: str) -> int:
    """Return the hash of a revision on the page: CRC-32."""
    return zlib.crc32(revision.encode())


def tag_of(candidate: str) -> int:
    """Return the part of a mark that stands for the candidate of a rollout, 9 bits."""
    return hash_of(candidate) % (1 << _TAG_BITS)


def mark_of(value: bytes, revision: str) -> int:
    """Return the mark of a prediction by ``revision`` whose request had this header, two bytes; 0 if it does not count.

    A request that the candidate failed and stable answers was drawn for the candidate, so it counts for neither.
    """
    match = _VALUE.fullmatch(value)
    if not match or (match[2].decode() == revision) != (match[3] == b"candidate"):
        return 0
    return int(match[1]) << _TAG_BITS | tag_of(match[2].decode())


def bin_of(error: float) -> int:
    """Return the bin of a difference between prediction and label."""
    size = abs(error)
    if not size:
        return 0
    if not math.isfinite(size):
        return BINS - 1
    return min(max(math.ceil(BINS_PER_DECADE * (math.log10(size) + LARGEST_DECADE)), 0), BINS - 1)


class RolloutLabels:
    """Counts in shared memory. Create it before the fork; :meth:`start` it in each worker."""

    def __init__(self, revision: str, slots: int = 1) -> None:
        """``revision`` is that of this pod."""
        self._revision, self._own_tag = revision, tag_of(revision)
        self._boot = os.urandom(6).hex()
        self._shared = Cells(1, 5).row(0)
        self._shared[_TAG] = self._shared[_OTHER_HASH] = -1.0
        # Most of it is never touched, and takes no memory.
        self._cells = Cells(slots, 1 + 2 * WEIGHTS * (1 + BINS))

    def start(self, slot: int = 0) -> None:
        """Count in this slot from now on."""
        self._row = self._cells.row(slot)

    def count(self, revision: str, mark: int, made: float, result: bool | float) -> None:
        """Count the label of a prediction by ``revision``, which was ``made`` (seconds since 1970) with this ``mark``.

        ``result`` is whether a class was right, or the error of a number. Only the rollout of the newest prediction
        counts: the labels of an earlier one may come late.
        """
        weight, tag = mark >> _TAG_BITS, mark % (1 << _TAG_BITS)
        is_own = revision == self._revision
        if not 0 < weight < WEIGHTS:
            return
        if not is_own and self._own_tag != tag != tag_of(revision):
            return  # neither side of this rollout
        if not self._is_present(tag, made) or not (is_own or self._is_other(revision)):
            return
        is_number = not isinstance(result, bool)
        self._shared[_NUMBERS] = is_number
        cells = _sides(self._row[1:])[_OWN if is_own else _OTHER, weight]
        cells[1 + (bin_of(result) if is_number else 0 if result else BINS - 1)] += 1
        cells[_LABELS] = 1.0

    def _is_present(self, tag: int, made: float) -> bool:
        """Whether this is the present rollout; begin to count from zero if it is a newer one."""
        shared, row = self._shared, self._row
        if shared[_TAG] != tag:
            if made <= shared[_NEWEST]:
                return False
            shared[_OTHER_HASH], shared[_TAG] = -1.0, tag
            shared[_GENERATION] += 1
        shared[_NEWEST] = max(shared[_NEWEST], made)
        if row[0] != shared[_GENERATION]:
            sides = _sides(row[1:])
            sides[sides[..., _LABELS] > 0] = 0.0
            row[0] = shared[_GENERATION]
        return True

    def _is_other(self, revision: str) -> bool:
        """Whether this is the other revision of the rollout: the first one that came."""
        if self._shared[_OTHER_HASH] < 0:
            self._shared[_OTHER_HASH] = hash_of(revision)
        return bool(self._shared[_OTHER_HASH] == hash_of(revision))

    def page(self, most: int = 0) -> LabelsPage:
        """Return the counts of all workers; an error of a number in a bin up to ``most`` is right."""
        generation, tag, _, other, numbers = self._shared.tolist()
        rows = self._cells.rows()
        sides = [_sides(row[1:]) for row in rows if row[0] == generation]
        used = sum((part[..., _LABELS] for part in sides), np.zeros((2, WEIGHTS))).any(axis=0)
        weights: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {}
        for weight in np.flatnonzero(used).tolist():
            # From one copy: a worker may count a label meanwhile.
            bins = sum((part[:, weight, 1:] for part in sides), np.zeros((2, BINS)))
            own, others = zip(_integers(bins), _integers(bins[:, : 1 + most]), strict=True)
            weights[str(weight)] = own, others
        return {
            "boot": f"{self._boot}{int(generation) % 65536:04x}",
            "revision": self._revision,
            "tag": int(tag),
            "other": int(other),
            "kind": "" if tag < 0 else "numbers" if numbers else "classes",
            "weights": weights,
        }


def _integers(bins: Array) -> list[int]:
    """Return the sum of each side."""
    sums: list[int] = bins.sum(axis=1).astype(int).tolist()
    return sums


def _sides(cells: Array) -> Array:
    """Return the cells of a worker as [side, weight, labels and bins]; a view."""
    sides: Array = cells.reshape(2, WEIGHTS, 1 + BINS)
    return sides
