"""What a model refuses to answer. An ONNX graph answers everything, so a compiled model has to check this itself."""

from __future__ import annotations

import msgspec
import numpy as np

from ...protocol.tensors import Array

BEYOND = 1e39
"""Finite, but not in float32, which trees round to. What is still greater was not compared, so it is refused."""


class Domain(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of each column that is no text: is a missing, infinite, or for float32 too great a number refused?

    ``known``: the values of each column that takes no others, by its position in the table.
    """

    missing: tuple[bool, ...] = ()
    infinite: tuple[bool, ...] = ()
    beyond: tuple[bool, ...] = ()
    texts: dict[int, frozenset[str]] = {}
    values: dict[int, frozenset[float]] = {}

    def check_numbers(self, numbers: Array) -> None:
        """ValueError when one of [rows, columns] is refused."""
        with np.errstate(over="ignore"):
            single = numbers.astype(np.float32)
        for refused, found in (
            (self.missing, np.isnan(numbers)),
            (self.infinite, np.isinf(numbers)),
            (self.beyond, np.isinf(single) & np.isfinite(numbers)),
        ):
            if refused and (found & np.array(refused)).any():
                raise ValueError("the model takes no missing, infinite or so great a number in this column")
        if (np.isfinite(numbers) & (np.abs(numbers) > BEYOND)).any():
            raise ValueError("the compiled model takes no number greater than 1e39")

    def check_known(self, table: Array) -> None:
        """ValueError when a column of the table holds a category that is refused."""
        for closed in (self.texts, self.values):
            for column, known in closed.items():
                if not known.issuperset(table[:, column].tolist()):
                    raise ValueError("the model takes only the categories of its training rows in this column")
