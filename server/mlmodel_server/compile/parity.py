"""Does the compiled model answer as the original does?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mlmodel_server.compile.rows import Rows
from mlmodel_server.formats.opened import PREDICT, PREDICT_PROBA, Functions
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array, TensorSpec

TOLERANCE = {"double": 1e-6, "single": 1e-4}
"""Relative; ``single`` where the table or the answer is of float32. The same as for golden examples. In float64 the
differences are in fact about 1e-15 (sums in another order, another exp); the verdict names the greatest one."""

MOVES = 8
EPSILONS = 4
"""What rounding may do to the model's own answer is found by asking about the same row ``MOVES`` times, with every
number moved at random by up to ``EPSILONS`` roundings. A label that it gives to one of these, or finds as probable as
its own but for ``EPSILONS`` roundings, is as good as its own; so is a number as close as twice their spread. Of rows at
the thresholds of trees this is not asked: there each rounding counts."""


class Different(Exception):
    """The two do not answer alike. The text says where and how often, without any value."""


class Comparison:
    """Compares a model with what it was compiled to, and counts."""

    def __init__(
        self, original: Functions, compiled: Functions, signature: Signature, classes: Any, open_columns: list[int]
    ) -> None:
        self._original, self._compiled, self._outputs = original, compiled, signature.outputs
        self._classes = classes  # the labels of a classifier, None of others
        self._open = open_columns  # that take any number
        self._answered: list[Array] = []
        self.deviation = 0.0
        """The greatest relative difference of a number so far."""

    @property
    def rows(self) -> int:
        """Compared so far."""
        return sum(map(len, self._answered))

    def answered(self) -> Array:
        """All rows that were compared so far: both answered them, alike."""
        return np.concatenate(self._answered)

    def same(self, rows: Rows) -> None:
        """Raises :class:`Different` unless all are answered alike; a row that the original refuses must be refused."""
        table, kind = rows.table, rows.kind
        if not len(table):
            return
        wanted = [spec.name for spec in self._outputs]
        try:
            expected = self._original(table, wanted)
        except Exception as error:  # whatever it raises
            if len(table) > 1:
                for half in np.array_split(table, 2):
                    self.same(replace(rows, table=half))
            elif self._got(table, wanted) is not None:
                raise Different(
                    f"ONNX answers a row ({kind}) for which the model raises {type(error).__name__}"
                ) from error
            return
        got = self._got(table, wanted)
        if got is None:
            raise Different(f"ONNX refuses a row ({kind}) that the model answers")
        for spec, before, after in zip(self._outputs, expected, got, strict=True):
            self._same_output(spec, before, after, rows)
        self._answered.append(table)

    def _got(self, table: Array, wanted: list[str]) -> list[Array] | None:
        try:
            return self._compiled(table, wanted)
        except Exception:  # as above
            return None

    def _same_output(self, spec: TensorSpec, before: Array, after: Array, rows: Rows) -> None:
        table, kind = rows.table, rows.kind
        if before.shape != after.shape:
            raise Different(f"{spec.name} has the shape {list(after.shape)} instead of {list(before.shape)} ({kind})")
        numbers = before.dtype.kind == "f" and not (spec.name == PREDICT and self._classes is not None)
        if numbers:
            relative = _relative(before, after)
            tolerance = TOLERANCE["single" if np.float32 in (table.dtype, before.dtype) else "double"]
            wrong = np.asarray((relative > tolerance).any(axis=1))
            self.deviation = max(self.deviation, float(relative[~wrong].max(initial=0.0)))
        else:
            wrong = np.asarray((before != after).reshape(len(before), -1).any(axis=1))
        if wrong.any() and not rows.exact:
            found = np.flatnonzero(wrong)
            wrong[found] = ~self._rounding(spec.name, table[found], before[found], after[found], numbers)
        if wrong.any():
            raise Different(f"{spec.name} differs in {wrong.sum():,} of {len(table):,} rows ({kind})")

    def _rounding(self, name: str, table: Array, before: Array, after: Array, numbers: bool) -> Array:
        """[rows]: does the answer differ no more than the original's own does, by chance?"""
        random = np.random.default_rng(MOVES)
        moved = [self._original(self._moved(table, random), (name,))[0] for _ in range(MOVES)]
        if not numbers:
            same: Array = np.logical_or.reduce([answers == after for answers in moved])
            excused: Array = same.reshape(len(same), -1).all(axis=1) | self._as_probable(table, before, after)
        else:
            apart, *spread = (np.abs(answers - before).reshape(len(before), -1) for answers in [after, *moved])
            excused = np.asarray(np.max(apart, axis=1) <= 2 * np.max(spread, axis=(0, 2)))
        return excused

    def _as_probable(self, table: Array, before: Array, after: Array) -> Array:
        if before.ndim > 1 or self._classes is None or all(spec.name != PREDICT_PROBA for spec in self._outputs):
            return np.zeros(len(table), dtype=bool)
        (proba,), rows = self._original(table, (PREDICT_PROBA,)), np.arange(len(table))
        own, other = (np.searchsorted(self._classes, labels) for labels in (before, after))
        return np.asarray(proba[rows, own] - proba[rows, other] <= EPSILONS * np.finfo(proba.dtype).eps)

    def _moved(self, table: Array, random: np.random.Generator) -> Array:
        moved, columns = table.copy(), self._open
        epsilon = float(np.finfo(table.dtype if table.dtype.kind == "f" else np.float64).eps)
        values = table[:, columns].astype(np.float64)
        moved[:, columns] = values * (1 + random.uniform(-EPSILONS, EPSILONS, size=values.shape) * epsilon)
        return moved


def _relative(before: Array, after: Array) -> Array:
    """[rows, columns]: how far apart, relative to each number plus a thousandth of the greatest; infinite where only
    one of the two is finite."""
    before, after = before.reshape(len(before), -1), after.reshape(len(after), -1)
    finite = np.isfinite(before) & np.isfinite(after)
    size = np.abs(np.where(finite, before, 0.0))
    apart = np.abs(np.where(finite, before - after, 0.0))
    relative = np.divide(apart, size + size.max(initial=0.0) / 1e3, out=np.zeros_like(apart), where=apart > 0)
    alike = finite | (before == after) | (np.isnan(before) & np.isnan(after))
    return np.where(alike, relative, np.inf)
