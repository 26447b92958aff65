"""Compare the predictions of the compiled model with those of the original."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mlmodel_server.compile.rows import GIVEN, Rows
from mlmodel_server.formats.opened import PREDICT, PREDICT_PROBA, Functions
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array, TensorSpec

TOLERANCE = {"double": 1e-6, "single": 1e-4}
"""Relative; ``single`` if the table or the output is float32. The same as for golden examples. In float64 the
differences are about 1e-15 (sums in another order, another exp); the verdict has the greatest one."""

MOVES = 8
EPSILONS = 4
"""To measure how rounding changes the original's own output, it predicts a row ``MOVES`` times, each time with every
number moved at random by up to ``EPSILONS`` rounding errors. Another label is accepted if the original returns it for
one of these, or finds it as probable as its own except for ``EPSILONS`` rounding errors; another number, if it is
within twice their spread. At the thresholds of trees no difference is accepted."""


class Different(Exception):
    """The two models predict differently. The text says where and how often, without any value."""


class Comparison:
    """Compares a model with its compiled form, and counts the rows. What the compiled form of a model with a DataFrame
    rejects is answered by the model, so only the given rows must be accepted or rejected by both."""

    def __init__(
        self, original: Functions, compiled: Functions, signature: Signature, classes: Any, open_columns: list[int]
    ) -> None:
        self._rejects_alike = not signature.frame
        self._original, self._compiled, self._outputs = original, compiled, signature.outputs
        self._classes = classes  # the labels of a classifier, None of others
        self._open = open_columns  # that accept any number
        self._same: list[Array] = []
        self.deviation = 0.0
        """The greatest relative difference of a number so far."""

    @property
    def rows(self) -> int:
        """The number of rows with the same predictions so far."""
        return sum(map(len, self._same))

    def same(self) -> Array:
        """Return all rows so far for which both models have the same predictions."""
        return np.concatenate(self._same)

    def compare(self, rows: Rows) -> None:
        """Raise :class:`Different` unless both models predict all rows the same, or both reject a row."""
        table, kind, names = rows.table, rows.kind, [spec.name for spec in self._outputs]
        if not self._rejects_alike and kind != GIVEN:
            table = self._accepted(table, names)
            rows = replace(rows, table=table)
        if not len(table):
            return
        try:
            expected = self._original(table, names)
        except Exception as error:  # the model may raise anything
            if len(table) > 1:
                for half in np.array_split(table, 2):
                    self.compare(replace(rows, table=half))
            elif self._predict_compiled(table, names) is not None:
                raise Different(
                    f"ONNX accepts a row ({kind}) for which the model raises {type(error).__name__}"
                ) from error
            return
        got = self._predict_compiled(table, names)
        if got is None:
            raise Different(f"ONNX rejects a row ({kind}) that the model accepts")
        for spec, before, after in zip(self._outputs, expected, got, strict=True):
            self._compare_output(spec, before, after, rows)
        self._same.append(table)

    def _accepted(self, table: Array, names: list[str]) -> Array:
        """Return the rows that the compiled model accepts."""
        if not len(table) or self._predict_compiled(table, names) is not None:
            return table
        halves = np.array_split(table, 2) if len(table) > 1 else []
        return np.concatenate([table[:0], *(self._accepted(half, names) for half in halves)])

    def _predict_compiled(self, table: Array, names: list[str]) -> list[Array] | None:
        try:
            return self._compiled(table, names)
        except Exception:  # as above
            return None

    def _compare_output(self, spec: TensorSpec, before: Array, after: Array, rows: Rows) -> None:
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
            suspects = np.flatnonzero(wrong)
            wrong[suspects] = ~self._is_rounding(spec.name, table[suspects], before[suspects], after[suspects], numbers)
        if wrong.any():
            raise Different(f"{spec.name} differs in {wrong.sum():,} of {len(table):,} rows ({kind})")

    def _is_rounding(self, name: str, table: Array, before: Array, after: Array, numbers: bool) -> Array:
        """Return [rows]: whether the output differs no more than the original's own output under rounding errors."""
        random = np.random.default_rng(MOVES)
        moved = [self._original(self._moved(table, random), (name,))[0] for _ in range(MOVES)]
        if not numbers:
            same: Array = np.logical_or.reduce([labels == after for labels in moved])
            accepted: Array = same.reshape(len(same), -1).all(axis=1) | self._as_probable(table, before, after)
        else:
            apart, *spread = (np.abs(values - before).reshape(len(before), -1) for values in [after, *moved])
            accepted = np.asarray(np.max(apart, axis=1) <= 2 * np.max(spread, axis=(0, 2)))
        return accepted

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
    """Return [rows, columns]: the difference relative to each number plus a thousandth of the greatest; infinite where
    only one of the two is finite."""
    before, after = before.reshape(len(before), -1), after.reshape(len(after), -1)
    finite = np.isfinite(before) & np.isfinite(after)
    size = np.abs(np.where(finite, before, 0.0))
    apart = np.abs(np.where(finite, before - after, 0.0))
    relative = np.divide(apart, size + size.max(initial=0.0) / 1e3, out=np.zeros_like(apart), where=apart > 0)
    comparable = finite | (before == after) | (np.isnan(before) & np.isnan(after))
    return np.where(comparable, relative, np.inf)
