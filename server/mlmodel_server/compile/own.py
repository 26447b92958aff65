"""Steps of a model with a DataFrame that stay as they are beside its compiled form: the author's functions and classes.

Such a step gets a DataFrame with its columns, as within the model, and its answer is an input of the graph. So what it
computes need not be known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from mlmodel_server.compile.plain import EXACT
from mlmodel_server.formats.frame import Frames
from mlmodel_server.tensors import Array, TensorSpec


class OwnStep(msgspec.Struct, frozen=True):
    """A step: its place among the parts of the model, the columns of the request that it gets, and the width and the
    dtype of its answer."""

    part: int
    columns: tuple[int, ...]
    width: int
    dtype: str


class OwnSteps:
    """The answers of steps, by the names of the inputs of the graph. ``parts`` are those of the model, ``inputs`` the
    columns of a request. Safe to call from several threads, if the steps are."""

    def __init__(self, steps: Mapping[str, OwnStep], parts: Sequence[Any], inputs: Sequence[TensorSpec]) -> None:
        self._steps = [
            (name, step, parts[step.part].transform, list(step.columns), Frames([inputs[c] for c in step.columns]))
            for name, step in steps.items()
        ]

    def __call__(self, table: Array) -> dict[str, Array]:
        """Return the answers to the rows of a request. Raise ValueError for one that the graph was not made for, and
        anything that a step raises."""
        found = {}
        for name, step, transform, columns, frames in self._steps:
            answer = matrix_of(transform(frames(table[:, columns])), len(table))
            if (answer.shape[1], str(answer.dtype)) != (step.width, step.dtype):
                raise ValueError("a step returns another kind of table than for the example")
            found[name] = answer.astype(np.float64)
        return found


def matrix_of(answer: Any, rows: int) -> Array:
    """Return the answer of a step as numbers [rows, columns] that float64 holds exactly. Raise ValueError for others,
    and for single precision, in which the next steps would compute."""
    array: Array = np.asarray(answer)
    if (
        array.ndim != 2
        or len(array) != rows
        or array.dtype.kind not in "biuf"
        or array.dtype in (np.float16, np.float32)
    ):
        raise ValueError("it returns something other than a table of numbers in double precision")
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and (np.abs(array.astype(np.float64)) > EXACT).any():
        raise ValueError("it returns integers that are not exact as floating-point numbers")
    return array
