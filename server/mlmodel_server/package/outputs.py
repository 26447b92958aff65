"""Which methods of an estimator a package has as outputs, and what they answer before and after it was saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlmodel_server.compile import left_out
from mlmodel_server.errors import UsageError
from mlmodel_server.formats.methods import (
    CHOSEN,
    MAX_NUMBERS,
    SERVED,
    MethodFunctions,
    is_by_row,
    methods_of,
    natural,
    outputs_of_method,
)
from mlmodel_server.formats.opened import PREDICT, PREDICT_PROBA
from mlmodel_server.manifest import Manifest
from mlmodel_server.tensors import Array
from mlmodel_server.texts import guess

WHOLE = (PREDICT, PREDICT_PROBA)
"""Methods that are called with all rows, for metrics and profile."""

COMPARED_ROWS = 1000
"""Maximum rows with which the other methods are called: only to compare their answers."""


class Answering(Protocol):
    """The methods of an estimator, called with rows of any kind."""

    def answers(self, rows: Any, method: str, /) -> dict[str, Array]:
        """Return all outputs of one method by name."""
        ...


@dataclass(frozen=True)
class Wanted:
    """The methods that the outputs of a package come from. ``method`` is that of a request that names no output; the
    package must have the outputs of ``required``."""

    methods: tuple[str, ...]
    method: str
    required: frozenset[str]

    def default(self, outputs: Sequence[str]) -> tuple[str, ...]:
        """Return the outputs of a request that names none, as a signature has them."""
        return () if self.method == PREDICT else outputs_of_method(self.method, outputs)

    def must_have(self, output: str, outputs: Sequence[str]) -> bool:
        """Whether the package is refused without this output."""
        return any(output in outputs_of_method(method, outputs) for method in self.required)


def wanted(estimator: Any, method: str, outputs: Sequence[str] | None) -> Wanted:
    """Return the methods of a package: all that the estimator has, or those that ``outputs`` names.

    Raise :class:`UsageError` if the estimator lacks one that is named.
    """
    found = methods_of(estimator)
    for name in (*([method] if method else ()), *(outputs or ())):
        if name not in found:
            raise UsageError(
                f"the model has no method {name[:40]!r}{guess(name, found)} that a server calls: "
                f"use one of {', '.join(found)}"
            )
    method = method or natural(list(found))
    named = {name for name in WHOLE if name in found} | {method, *(outputs or ())}
    listed = [name for name in (*SERVED, *CHOSEN) if name in named or (outputs is None and name in found)]
    return Wanted(tuple(name for name in listed if name in SERVED or name in named), method, frozenset(named))


def not_served(described: Manifest) -> tuple[str, ...]:
    """Return the outputs of a package that a server does not have, because it serves the compiled model alone."""
    compiled = described.compiled
    return left_out(described.signature) if compiled is not None and compiled.decisive else ()


def of_estimator(estimator: Any) -> Answering:
    """Return the methods of an estimator as its library calls them."""
    return MethodFunctions(methods_of(estimator))


def answers(functions: Answering, rows: Any, wanted: Wanted) -> dict[str, Array]:
    """Return the outputs by name: of the first rows, but all rows for ``predict`` and the probabilities.

    A method that is not required and raises is left out. Raise what a required one raises.
    """
    found: dict[str, Array] = {}
    for method in wanted.methods:
        asked = rows if method in WHOLE else _some(functions, rows, method)
        try:
            answer = functions.answers(asked, method)
            if method in wanted.required or is_by_row(answer, asked):
                found |= answer
        except Exception:  # anything that an estimator may raise
            if method in wanted.required:
                raise
    return found


def _some(functions: Answering, rows: Any, method: str) -> Any:
    """Return as many of the first rows as one response may have."""
    try:
        width = max(array.size for array in functions.answers(head(rows, 1), method).values())
    except Exception:  # it needs several rows
        width = 1
    return head(rows, max(1, min(COMPARED_ROWS, MAX_NUMBERS // max(1, width))))


def head(rows: Any, count: int) -> Any:
    """Return the first rows of a DataFrame, Series, array or list."""
    return rows.iloc[:count] if hasattr(rows, "iloc") else rows[:count]
