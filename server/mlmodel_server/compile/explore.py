"""Finds out, by asking a model, what it refuses to answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mlmodel_server.compile.domain import BEYOND, Domain
from mlmodel_server.compile.verdict import Unsupported
from mlmodel_server.formats.opened import PREDICT, Functions
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array

STRANGER = "\x1f?"
"""A text that is no category."""

MAX_KNOWN = 10_000


def text_columns(signature: Signature) -> list[bool]:
    """Of each column of the model's table: is it text?"""
    if signature.layout == "matrix":
        return [False] * signature.inputs[0].shape[-1]
    return [spec.datatype == "BYTES" for spec in signature.inputs]


def explore(functions: Functions, estimator: Any, signature: Signature, row: Array) -> Domain:
    """``row`` ([1, columns]) is one that ``functions`` answer; which single changes to it are refused?"""
    text = text_columns(signature)
    numbers = [column for column, is_text in enumerate(text) if not is_text]

    def refused(value: float) -> tuple[bool, ...]:
        if row.dtype.kind not in "fO" or (row.dtype.itemsize < 8 and np.isfinite(value)):
            return ()  # such a value cannot be in the table
        if answers(functions, changed(row, numbers, value)):
            return (False,) * len(numbers)
        return tuple(not answers(functions, changed(row, [column], value)) for column in numbers)

    def known(column: int) -> frozenset[Any] | None:
        """The values that a column takes, None when it takes any."""
        stranger = STRANGER if text[column] else strange(row, column)
        if answers(functions, changed(row, [column], stranger)):
            return None
        categories = _categories(estimator, text[column])
        return frozenset(value for value in categories if answers(functions, changed(row, [column], value)))

    suspects = [column for column, is_text in enumerate(text) if is_text]
    everything = row.copy()
    for column in numbers:
        everything[0, column] = strange(row, column)
    if not answers(functions, everything):
        suspects += numbers
    found = {column: values for column in suspects if (values := known(column)) is not None}
    return Domain(
        refused(np.nan),
        refused(np.inf),
        refused(BEYOND),
        {column: values for column, values in found.items() if text[column]},
        {column: values for column, values in found.items() if not text[column]},
    )


def strange(row: Array, column: int) -> Any:
    """A number that is in no training row, and fine where any number is."""
    present = row[0, column]
    if row.dtype.kind in "fO":
        return float(present) + 0.371
    if row.dtype.kind == "b":
        return not present
    limits = np.iinfo(row.dtype)
    return limits.max if present != limits.max else limits.min


def changed(row: Array, columns: list[int], value: Any) -> Array:
    """A copy with ``value`` in these columns."""
    copy = row.copy()
    copy[:, columns] = value
    return copy


def answers(functions: Functions, table: Array) -> bool:
    """Do they answer, rather than raise?"""
    try:
        functions(table, (PREDICT,))
    except Exception:  # whatever it raises, the server would answer 500
        return False
    return True


def _categories(estimator: Any, text: bool) -> list[Any]:
    """All categories of this kind that any encoder within the estimator knows."""
    found = {value for known in _encoders(estimator, set()) for value in known if isinstance(value, str) is text}
    if len(found) > MAX_KNOWN:
        raise Unsupported(f"its encoders know more than {MAX_KNOWN:,} categories")
    return [value if text else float(value) for value in found]


def _encoders(part: Any, seen: set[int]) -> Iterator[list[Any]]:
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, (list, tuple)):
        inner = list(part)
    elif hasattr(part, "get_params"):
        inner = list(vars(part).values())
        yield from (known.tolist() for known in getattr(part, "categories_", ()))
    else:
        return
    for value in inner:
        yield from _encoders(value, seen)
