"""The ways to give the rows of X to a scikit-learn model, and the first one in which it answers as the library does.

An array is much faster than a DataFrame and needs no pandas, so it comes first where it is known to be equal. See
docs/adr/0020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from mlmodel_server.engine.model import Model
from mlmodel_server.formats import dates, documents
from mlmodel_server.formats.opened import Functions
from mlmodel_server.formats.prepare import in_double, is_own, module_of, parts
from mlmodel_server.manifest import Signature
from mlmodel_server.package.table import is_frame, missing
from mlmodel_server.tensors import Array, Tensor, TensorSpec

_PROBED = 500
"""Maximum number of columns that are tried one by one with a missing value."""


@dataclass(frozen=True)
class Way:
    """``frame``: the model gets a DataFrame, else an array; ``integers``: an array of integers stays one."""

    frame: bool = False
    integers: bool = False


def ways_of(estimator: Any, X: Any) -> list[Way]:
    """Return the ways to try for a model, in this order; ``estimator`` is None if it is not one of scikit-learn."""
    if estimator is None or type(estimator).__module__.startswith(("xgboost.", "lightgbm.")):
        return [Way()]
    if documents.takes(estimator) in ("texts", "dictionaries"):
        return [Way()]
    if is_frame(X):
        return [Way(frame=True)] if _needs_frame(estimator, X) else [Way(), Way(frame=True)]
    return [Way(), Way(integers=True)] if getattr(X, "dtype", np.dtype(object)).kind in "iu" else [Way()]


def _needs_frame(estimator: Any, X: Any) -> bool:
    """Whether a model may answer otherwise on arrays, although it may not for these rows: it has dates, or code that
    the census of models does not know."""
    if any(dates.DTYPE.fullmatch(str(dtype)) for dtype in X.dtypes):
        return True
    numbers = {dtype for dtype in X.dtypes if isinstance(dtype, np.dtype) and dtype.kind in "iuf"} - {np.dtype(float)}
    return any(_is_unknown(part, numbers) for part in (estimator, *parts(estimator)))


def _is_unknown(step: Any, numbers: set[np.dtype[Any]]) -> bool:
    if is_own(step):
        return True
    functions = [getattr(step, name, None) for name in ("func", "inverse_func")]
    return type(step).__name__ == "FunctionTransformer" and not all(
        _takes_arrays(function, numbers) for function in functions
    )


def _takes_arrays(function: Any, numbers: set[np.dtype[Any]]) -> bool:
    """Whether a function computes the same with an array of float64 as with a DataFrame that also has ``numbers``: the
    square of an int8 wraps."""
    inner = getattr(function, "func", function)  # of a partial
    if isinstance(inner, np.ufunc):
        return all(in_double(inner, dtype) for dtype in numbers)
    module = module_of(function)
    return function is None or module == "sklearn" or (module == "numpy" and not numbers)


def with_missing(functions: Functions, signature: Signature, tensors: list[Tensor]) -> tuple[TensorSpec, ...]:
    """Return the inputs of a model with columns of a DataFrame, and for each whether it may have a missing value: some
    rows of ``tensors`` have one, or the model answers a row with one."""
    inputs = signature.inputs
    if signature.layout != "columns" or any(spec.column is None for spec in inputs):
        return tuple(msgspec.structs.replace(spec, column=None) for spec in inputs)
    gaps = [missing(tensor.array) for tensor in tensors]
    complete = np.flatnonzero(~np.logical_or.reduce(gaps))
    row = [tensor.array[complete[:1] if len(complete) else slice(1)] for tensor in tensors]
    table = np.asarray(Model(functions, signature).table(_tensors(tensors, row)))
    tried = [place for place, spec in enumerate(inputs) if spec.column and spec.column.dtype != "bool"]
    accepted = set(tried)
    if not _answers(functions, signature, _without(table, tried, inputs)):
        accepted = {
            place for place in tried[:_PROBED] if _answers(functions, signature, _without(table, [place], inputs))
        }
    found = []
    for place, (spec, gap) in enumerate(zip(inputs, gaps, strict=True)):
        assert spec.column is not None
        may_be = place in accepted or bool(gap.any())
        found.append(msgspec.structs.replace(spec, column=msgspec.structs.replace(spec.column, missing=may_be)))
    return tuple(found)


def _tensors(tensors: list[Tensor], arrays: list[Array]) -> list[Tensor]:
    return [Tensor(t.name, t.datatype, array) for t, array in zip(tensors, arrays, strict=True)]


def _without(table: Array, columns: list[int], inputs: tuple[TensorSpec, ...]) -> Array:
    changed = table.copy()
    for column in columns:
        changed[:, column] = None if inputs[column].datatype == "BYTES" else np.nan
    return changed


def _answers(functions: Functions, signature: Signature, table: Array) -> bool:
    name = signature.outputs[0].name
    try:
        (answer,) = functions(table, (name,))
    except Exception:  # anything that a model may raise
        return False
    return answer.dtype.kind != "f" or bool(np.isfinite(answer).all())
