"""What every format's module gives: a function on tables, and what the artefact itself tells about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..manifest import Signature
from ..protocol.tensors import Array

Table = Array | Mapping[str, Array]
"""The rows of one or several requests. For the layouts ``columns`` and ``matrix`` one array of shape [rows, columns]:
numbers, or objects when a column holds text. For the layout ``tensors`` one array per input, as it was sent."""


class Functions(Protocol):
    """What a model can be asked. Safe to call from several threads: predicting changes nothing."""

    def __call__(self, table: Table, wanted: Sequence[str]) -> list[Array]:
        """One array for each of the ``wanted`` outputs, in that order. May raise anything: the caller turns it into a
        :class:`~mlmodel_server.errors.ModelFailure`."""
        ...


@dataclass(frozen=True)
class Opened:
    """An opened artefact.

    ``signature`` is what the artefact says of its inputs and outputs; None when only a package can tell. ``estimator``
    is the scikit-learn estimator, for what may be compiled. A model that is not ``fork_safe`` (its library has started
    threads that a forked process lacks) is opened again by each worker.
    """

    format: str
    platform: str
    functions: Functions
    signature: Signature | None = None
    estimator: Any = None
    fork_safe: bool = True
