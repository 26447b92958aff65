"""Detect by trial predictions which input a model rejects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mlmodel_server.compile.domain import SINGLE, Domain
from mlmodel_server.compile.functions import MISSING_TEXT
from mlmodel_server.compile.plain import is_whole
from mlmodel_server.compile.verdict import Unsupported
from mlmodel_server.formats.boosters import Boosted
from mlmodel_server.formats.opened import PREDICT, Functions
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array

UNKNOWN_TEXT = "\x1f?"
"""A text that is not a category of any model."""

UNSEEN = 1_000_003
"""Added to a whole number, it makes one that is unlikely in a training row."""

MAX_CATEGORIES = 10_000


def text_columns(signature: Signature) -> list[bool]:
    """Return for each column of the model's table whether it is text."""
    if signature.layout == "matrix":
        return [False] * signature.inputs[0].shape[-1]
    return [spec.datatype == "BYTES" for spec in signature.inputs]


def detect_domain(functions: Functions, estimator: Any, signature: Signature, row: Array) -> Domain:
    """Return which changes to a single column of ``row`` ([1, columns]), which ``functions`` accept, they reject."""
    text = text_columns(signature)
    numbers = [column for column, is_text in enumerate(text) if not is_text]
    whole = {column for column, spec in enumerate(signature.inputs) if signature.frame and is_whole(spec)}

    def unseen(column: int) -> Any:
        return float(row[0, column]) + UNSEEN if column in whole else unseen_number(row, column)

    def rejects(value: float) -> tuple[bool, ...]:
        if row.dtype.kind not in "fO" or (row.dtype.itemsize < 8 and np.isfinite(value)):
            return ()  # such a value cannot be in the table
        if accepts(functions, changed(row, numbers, value)):
            return (False,) * len(numbers)
        return tuple(not accepts(functions, changed(row, [column], value)) for column in numbers)

    def accepted_of(column: int, values: list[Any]) -> list[Any]:
        """Return those categories of one encoder that a column accepts: all if it is the encoder of this column."""
        table = np.repeat(row, len(values), axis=0)
        table[:, column] = values
        if accepts(functions, table):
            return values
        tried = (
            [values[0], values[-1]] if signature.frame else []
        )  # the DataFrame answers what the compiled form rejects
        if tried and not any(accepts(functions, changed(row, [column], value)) for value in tried):
            return []
        return [value for value in values if accepts(functions, changed(row, [column], value))]

    def known(column: int) -> frozenset[Any] | None:
        """Return the only values that a column accepts; None if it accepts any."""
        unknown = UNKNOWN_TEXT if text[column] else unseen(column)
        if accepts(functions, changed(row, [column], unknown)):
            return None
        known = frozenset(value for values in lists[text[column]] for value in accepted_of(column, values))
        missing = text[column] and accepts(functions, changed(row, [column], None))
        return known | {MISSING_TEXT} if missing else known

    lists = {is_text: known_lists(estimator, is_text) for is_text in (False, True)}
    suspects = [column for column, is_text in enumerate(text) if is_text]
    all_unseen = row.copy()
    for column in numbers:
        all_unseen[0, column] = unseen(column)
    if not accepts(functions, all_unseen):
        suspects += numbers
    accepted = {column: values for column in suspects if (values := known(column)) is not None}
    return Domain(
        rejects(np.nan),
        # A column that only rejects one sign, or a number that float32 holds, is rejected behind another step: the
        # graph has the limit of that step.
        _both(rejects(np.inf), rejects(-np.inf)),
        _both(rejects(SINGLE), tuple(not rejected for rejected in rejects(float(np.nextafter(SINGLE, 0.0))))),
        {column: values for column, values in accepted.items() if text[column]},
        {column: values for column, values in accepted.items() if not text[column]},
    )


def _both(first: tuple[bool, ...], second: tuple[bool, ...]) -> tuple[bool, ...]:
    return tuple(a and b for a, b in zip(first, second, strict=True))


def unseen_number(row: Array, column: int) -> Any:
    """Return a number that is unlikely in a training row, and valid in a column that accepts any number."""
    present = row[0, column]
    if row.dtype.kind in "fO":
        return float(present) + 0.371
    if row.dtype.kind == "b":
        return not present
    limits = np.iinfo(row.dtype)
    return limits.max if present != limits.max else limits.min


def changed(row: Array, columns: list[int], value: Any) -> Array:
    """Return a copy with ``value`` in these columns."""
    copy = row.copy()
    copy[:, columns] = value
    return copy


def accepts(functions: Functions, table: Array) -> bool:
    """Whether the functions predict the table, rather than raise."""
    try:
        functions(table, (PREDICT,))
    except Exception:  # the server would respond to any exception with 500
        return False
    return True


def known_values(estimator: Any, text: bool) -> list[Any]:
    """Return all categories of this kind that any encoder in the estimator has.

    Raise :class:`Unsupported` if there are too many to try them.
    """
    return list({value for known in known_lists(estimator, text) for value in known})


def known_lists(estimator: Any, text: bool) -> list[list[Any]]:
    """Return the different lists of categories of this kind that any encoder in the estimator has for a column.

    Raise :class:`Unsupported` if there are too many to try them.
    """
    every = {
        tuple(value if text else float(value) for value in known if _is_of_kind(value, text)): None
        for part in _parts(estimator, set())
        for known in _lists(part)
    }
    if len({value for known in every for value in known}) > MAX_CATEGORIES:
        raise Unsupported(f"its encoders have more than {MAX_CATEGORIES:,} categories")
    return [list(known) for known in every if known]


def _is_of_kind(value: Any, text: bool) -> bool:
    return isinstance(value, str) if text else _is_number(value)


def _lists(part: Any) -> list[list[Any]]:
    categories = getattr(part, "categories_", ())
    if not isinstance(categories, (list, tuple)):
        return []
    return [(known.astype(np.float64) if known.dtype.kind == "M" else known).tolist() for known in categories]


def special_numbers(estimator: Any) -> set[float]:
    """Return the numbers among the parameters of all parts of the estimator: one of them may stand for missing or
    unknown, and so be treated unlike its neighbours."""
    if isinstance(estimator, Boosted):
        return {estimator.missing} - {np.nan}
    return {
        float(value)
        for part in _parts(estimator, set())
        for value in part.get_params(deep=False).values()
        if _is_number(value)
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(float(value)))


def _parts(part: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the estimators in an estimator, itself included."""
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, (list, tuple)):
        inner = list(part)
    elif hasattr(part, "get_params") and not isinstance(part, type):
        yield part
        inner = list(vars(part).values())
    else:
        return
    for value in inner:
        yield from _parts(value, seen)
