"""Common code of gradient-boosting libraries: turn their values into ``predict`` and ``predict_proba``.

``predict`` means what it means in the library. A booster alone returns its values: a probability, several, a number or
the index of a class, as its objective says. A wrapper for scikit-learn that classifies returns classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mlmodel_server.formats.categories import Categories
from mlmodel_server.formats.opened import CONTRIBUTIONS, MATRIX, PREDICT, PREDICT_PROBA, Table, names_of_classes
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array, TensorSpec, datatype_of

Kind = Literal["number", "probability", "probabilities", "margins", "each"]
"""What ``predict`` makes of the values of a booster: a ``number`` is returned as it is, one or several. A classifier
returns classes of the ``probability`` of the second class, of the ``probabilities`` of all classes, of their
``margins`` (logarithms that do not add up to one), or 0 or 1 for ``each`` of several targets."""


@dataclass(frozen=True)
class Boosted:
    """A booster with all that decides its predictions; what is served and what is compiled.

    ``labels`` are the classes of a classifier. ``missing`` is a number that means missing, beside NaN. ``iterations``
    are the first boosting round and the one after the last; (0, 0) is all. ``options`` are the parameters of the
    wrapper that change its predictions. ``categories`` map a DataFrame's categories to the codes in the trees.
    """

    library: Literal["xgboost", "lightgbm"]
    booster: Any
    kind: Kind = "number"
    labels: Array | None = None
    missing: float = np.nan
    iterations: tuple[int, int] = (0, 0)
    options: Mapping[str, Any] = field(default_factory=dict)
    categories: Categories | None = None


class BoosterFunctions:
    """The outputs of a booster. ``values(table)`` returns its values, of shape [rows] or [rows, several]."""

    def __init__(self, values: Callable[[Table], Array], boosted: Boosted) -> None:
        self._values, self._kind, self._labels = values, boosted.kind, boosted.labels
        self._encode = boosted.categories.encode if boosted.categories else None

    def __call__(self, table: Table, outputs: Sequence[str]) -> list[Array]:
        """See :class:`~.opened.Functions`."""
        values = self._values(self._encode(table) if self._encode else table)
        return [self._proba(values) if name == PREDICT_PROBA else self._predicted(values) for name in outputs]

    def _predicted(self, values: Array) -> Array:
        if self._kind == "number":
            return values
        if self._kind == "each":
            return (values > 0.5).astype(np.float64)
        classes = (values > 0.5).astype(np.int64) if self._kind == "probability" else values.argmax(axis=1)
        return classes if self._labels is None else self._labels[classes]

    def _proba(self, values: Array) -> Array:
        if self._kind == "margins":
            powers = np.exp(values - values.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
        return np.column_stack((1 - values, values)) if values.ndim == 1 else values


class ContributionFunctions:
    """The contributions of a booster. ``contributions(table)`` returns [rows, scores * (features + 1)], or these split
    by score."""

    def __init__(self, contributions: Callable[[Table], Array], width: int, boosted: Boosted) -> None:
        self._contributions, self._width = contributions, width
        self._encode = boosted.categories.encode if boosted.categories else None

    def __call__(self, table: Table, outputs: Sequence[str]) -> list[Array]:
        """See :attr:`~.opened.Opened.explain`."""
        array = np.asarray(self._contributions(self._encode(table) if self._encode else table))
        split = array.reshape(len(array), -1, self._width + 1)
        return [split[:, 0] if split.shape[1] == 1 else split for name in outputs if name == CONTRIBUTIONS]


def signature_of(
    functions: BoosterFunctions, boosted: Boosted, names: Sequence[str], width: int, datatype: str
) -> Signature:
    """Return the signature of a booster with ``width`` features, whose ``names`` may be empty."""
    datatypes = boosted.categories.datatypes if boosted.categories else {}
    inputs = tuple(TensorSpec(name, datatypes.get(index, datatype), (-1,)) for index, name in enumerate(names))
    outputs = (PREDICT,) if boosted.kind == "number" else (PREDICT, PREDICT_PROBA)
    table: Array = np.zeros((1, width), np.float32 if datatype == "FP32" else np.float64)
    if boosted.categories:
        table = boosted.categories.example(table)
    arrays = functions(table, outputs)  # the first prediction also initialises the library
    return Signature(
        "columns" if names else "matrix",
        inputs or (TensorSpec(MATRIX, datatype, (-1, width)),),
        tuple(
            TensorSpec(name, datatype_of(array.dtype), (-1, *array.shape[1:]))
            for name, array in zip(outputs, arrays, strict=True)
        ),
        () if boosted.labels is None else names_of_classes(boosted.labels),
    )
