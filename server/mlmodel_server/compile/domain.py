"""What a model refuses to answer. An ONNX graph answers everything, so a compiled model has to check this itself."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from mlmodel_server.tensors import Array

BEYOND = 1e39
"""Finite, but not in float32, which trees round to. What is still greater was not compared, so it is refused."""

_SINGLE = (2 - 2.0**-24) * 2.0**127
"""The least number that float32 rounds to infinity."""


class Domain(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of each column that is no text: is a missing, infinite, or for float32 too great a number refused?

    Empty where there can be no such number. ``texts`` and ``values``: what columns take that take nothing else, by
    their position in the table.
    """

    missing: tuple[bool, ...] = ()
    infinite: tuple[bool, ...] = ()
    beyond: tuple[bool, ...] = ()
    texts: dict[int, frozenset[str]] = {}
    values: dict[int, frozenset[float]] = {}


class Check:
    """Refuses rows that are not of a domain, with ValueError."""

    def __init__(self, domain: Domain) -> None:
        self._missing, self._infinite, self._beyond = (
            np.array(refused) if any(refused) else None for refused in (domain.missing, domain.infinite, domain.beyond)
        )
        self.known: list[tuple[int, frozenset[Any]]] = [*domain.texts.items(), *domain.values.items()]

    def numbers(self, numbers: Array) -> None:
        """Of [rows, columns], all columns that are no text."""
        if self._missing is not None and (np.isnan(numbers) & self._missing).any():
            raise ValueError("the model takes no missing number in this column")
        size = np.abs(numbers)
        great = size >= _SINGLE
        if not great.any():
            return
        infinite = np.isinf(size)
        if self._infinite is not None and (infinite & self._infinite).any():
            raise ValueError("the model takes no infinite number in this column")
        if self._beyond is not None and (great & ~infinite & self._beyond).any():
            raise ValueError("the model takes no number in this column that is too great for float32")
        if (size[~infinite] > BEYOND).any():
            raise ValueError("the compiled model takes no number greater than 1e39")

    def categories(self, table: Array) -> None:
        """Of [rows, columns], all columns."""
        for column, known in self.known:
            if not known.issuperset(table[:, column].tolist()):
                raise ValueError("the model takes only the categories of its training rows in this column")
