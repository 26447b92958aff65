"""The input that a model rejects. An ONNX graph rejects nothing, so a compiled model needs this check."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from mlmodel_server.compile.own import OwnStep
from mlmodel_server.tensors import Array

SAFE = 1e30
"""If the squares of numbers add up to less, none is missing, infinite or so great that a model rejects it."""

BEYOND = 1e39
"""Finite in float64, but not in float32, to which trees round. Greater numbers were not compared and are rejected."""

SINGLE = (2 - 2.0**-24) * 2.0**127
"""The smallest number that float32 rounds to infinity."""


class Limit(msgspec.Struct, frozen=True, array_like=True):
    """What a step accepts from the step before it: a missing number, an infinite one; and whether it rounds to float32
    before it checks, so that a number that float32 cannot hold is infinite."""

    missing: bool
    infinite: bool
    single: bool

    def rejects(self, numbers: Array) -> bool:
        """Whether the step raises on these numbers."""
        flat = numbers.ravel()
        if flat.dot(flat) < SAFE:
            return False
        if not self.missing and np.isnan(numbers).any():
            return True
        return not self.infinite and bool((np.abs(numbers) >= (SINGLE if self.single else np.inf)).any())


class Domain(msgspec.Struct, frozen=True, omit_defaults=True):
    """For each column that is not text: does the model reject a missing number, an infinite one, or one that float32
    cannot hold? Empty if the table cannot contain such numbers.

    ``own`` are the steps whose answers are inputs of the graph, by the names of these. ``texts`` and ``values``: the
    only values that a column accepts, by its position in the table. ``steps``: what the steps of the model accept from
    the step before, by the name of the tensor between them.
    """

    missing: tuple[bool, ...] = ()
    infinite: tuple[bool, ...] = ()
    beyond: tuple[bool, ...] = ()
    texts: dict[int, frozenset[str]] = {}
    values: dict[int, frozenset[float]] = {}
    steps: dict[str, tuple[Limit, ...]] = {}
    own: dict[str, OwnStep] = {}


class Check:
    """Raises ValueError for rows outside a domain."""

    def __init__(self, domain: Domain) -> None:
        self._missing, self._infinite, self._beyond = (
            np.array(rejects) if any(rejects) else None for rejects in (domain.missing, domain.infinite, domain.beyond)
        )
        self.known: list[tuple[int, frozenset[Any]]] = [*domain.texts.items(), *domain.values.items()]

    def numbers(self, numbers: Array) -> None:
        """Check [rows, columns], all columns that are not text."""
        if self._missing is not None and (np.isnan(numbers) & self._missing).any():
            raise ValueError("the model accepts no missing number in this column")
        size = np.abs(numbers)
        great = size >= SINGLE
        if not great.any():
            return
        infinite = np.isinf(size)
        if self._infinite is not None and (infinite & self._infinite).any():
            raise ValueError("the model accepts no infinite number in this column")
        if self._beyond is not None and (great & ~infinite & self._beyond).any():
            raise ValueError("the model accepts no number in this column that float32 cannot hold")
        if (size[~infinite] > BEYOND).any():
            raise ValueError("the compiled model accepts no number greater than 1e39")

    def categories(self, table: Array) -> None:
        """Check [rows, columns], all columns."""
        for column, known in self.known:
            if not known.issuperset(table[:, column].tolist()):
                raise ValueError("the model accepts only the categories of its training rows in this column")
