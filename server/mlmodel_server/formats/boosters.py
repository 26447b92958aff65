"""Common code of gradient-boosting libraries: turn their values into ``predict`` and ``predict_proba``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from mlmodel_server.formats.opened import CONTRIBUTIONS, MATRIX, PREDICT, PREDICT_PROBA, Table
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array, TensorSpec, datatype_of

Kind = Literal["number", "probability", "probabilities", "label"]
"""What a booster returns for a row: a number (or several), the probability of the second class (for several targets: of
each), the probabilities of all classes, or the index of the class."""


class BoosterFunctions:
    """The outputs of a booster. ``values(table)`` returns ``kind``, of shape [rows] or [rows, several]; ``labels`` are
    the classes."""

    def __init__(self, values: Callable[[Table], Array], kind: Kind, labels: Array | None) -> None:
        self._values, self._kind, self._labels = values, kind, labels

    def __call__(self, table: Table, outputs: Sequence[str]) -> list[Array]:
        """See :class:`~.opened.Functions`."""
        values = self._values(table)
        return [self._proba(values) if name == PREDICT_PROBA else self._predicted(values) for name in outputs]

    def _predicted(self, values: Array) -> Array:
        if self._kind == "number":
            return values
        if self._kind == "label":
            classes = values.astype(np.int64)
        elif self._kind == "probability":
            classes = (values > 0.5).astype(np.int64)
        else:
            classes = values.argmax(axis=1)
        return classes if self._labels is None else self._labels[classes]

    def _proba(self, values: Array) -> Array:
        return np.column_stack((1 - values, values)) if values.ndim == 1 else values


class ContributionFunctions:
    """The contributions of a booster. ``contributions(table)`` returns [rows, scores * (features + 1)], or these split
    by score."""

    def __init__(self, contributions: Callable[[Table], Array], width: int) -> None:
        self._contributions, self._width = contributions, width

    def __call__(self, table: Table, outputs: Sequence[str]) -> list[Array]:
        """See :attr:`~.opened.Opened.explain`."""
        array = np.asarray(self._contributions(table))
        split = array.reshape(len(array), -1, self._width + 1)
        return [split[:, 0] if split.shape[1] == 1 else split for name in outputs if name == CONTRIBUTIONS]


def signature_of(
    functions: BoosterFunctions, kind: Kind, labels: Array | None, names: Sequence[str], width: int, datatype: str
) -> Signature:
    """Return the signature of a booster with ``width`` features, whose ``names`` may be empty."""
    inputs = tuple(TensorSpec(name, datatype, (-1,)) for name in names)
    outputs = (PREDICT, PREDICT_PROBA) if kind.startswith("probabilit") else (PREDICT,)
    dtype = np.float32 if datatype == "FP32" else np.float64
    arrays = functions(np.zeros((1, width), dtype), outputs)  # the first prediction also initialises the library
    return Signature(
        "columns" if names else "matrix",
        inputs or (TensorSpec(MATRIX, datatype, (-1, width)),),
        tuple(
            TensorSpec(name, datatype_of(array.dtype), (-1, *array.shape[1:]))
            for name, array in zip(outputs, arrays, strict=True)
        ),
        () if labels is None else tuple(str(label) for label in labels),
    )
