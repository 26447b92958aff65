"""Turn the given rows into v2 tensors, which are the inputs of a model and their datatypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from mlmodel_server.errors import UsageError
from mlmodel_server.formats.categories import placement
from mlmodel_server.formats.opened import MATRIX, UnplacedCategories
from mlmodel_server.manifest import Signature
from mlmodel_server.package import series
from mlmodel_server.package.series import missing_objects
from mlmodel_server.tensors import DTYPES, Array, Tensor, TensorSpec, datatype_of


def tensors_of(X: Any, *, integers: bool = False) -> tuple[Literal["columns", "matrix"], list[Tensor]]:
    """Return the layout and the tensors of ``X``: of a DataFrame one of shape [rows] per column, with its name; of an
    array of numbers one of shape [rows, columns]; of an array with text one per column, ``column-0``... An array of
    integers stays one only if ``integers``, because most models accept fractions too.

    Raise :class:`UsageError` if ``X`` is not a table.
    """
    if is_frame(X):
        names = [str(name) for name in X.columns]
        if len(set(names)) != len(names):
            raise UsageError("X has two columns of the same name: rename one")
        return "columns", [series.tensor(name, X.iloc[:, index]) for index, name in enumerate(names)]
    if hasattr(X, "toarray"):
        raise UsageError("X is sparse: pass X.toarray() of some rows")
    array = np.asarray(X)
    if array.ndim != 2 or not array.size:
        raise UsageError(f"X must be a table of shape [rows, columns], not {list(array.shape)}")
    if array.dtype.kind in "fiub":
        if not (integers and array.dtype.kind in "iu"):
            array = array.astype(np.float32 if array.dtype == np.float32 else np.float64)
        return "matrix", [Tensor(MATRIX, datatype_of(array.dtype), array)]
    return "columns", [_column(f"column-{index}", _narrowed(array[:, index])) for index in range(array.shape[1])]


def is_frame(X: Any) -> bool:
    """Whether ``X`` is a DataFrame."""
    return hasattr(X, "columns") and hasattr(X, "iloc")


def tensors_for(signature: Signature, X: Any) -> list[Tensor]:
    """Return ``X`` as the inputs that a model declares: ``X`` is a table for the layouts ``columns`` and ``matrix``,
    else an array, or one for each input, in a list or by name.

    Raise :class:`UsageError` if they do not fit.
    """
    specs = signature.inputs
    arrays: dict[str, Array]
    if signature.layout == "tensors":
        arrays = _by_name([spec.name for spec in specs], X)
    else:
        _, given = tensors_of(X)
        table = given[0].array if len(given) == 1 and given[0].array.ndim == 2 else None
        columns = [tensor.array for tensor in given] if table is None else list(table.T)
        if signature.layout == "matrix":
            arrays = {specs[0].name: np.column_stack(columns)}
        else:
            by_name = {tensor.name: tensor.array for tensor in given}
            known = table is None and all(spec.name in by_name for spec in specs)
            if not known and len(columns) != len(specs):
                raise UsageError(
                    f"X has {len(columns)} columns, but the model has {len(specs)}: pass the columns of its training"
                )
            arrays = by_name if known else {spec.name: column for spec, column in zip(specs, columns, strict=True)}
    tensors = [_cast(spec, arrays[spec.name]) for spec in specs]
    for spec, tensor in zip(specs, tensors, strict=True):
        shape = tensor.array.shape
        if len(shape) != len(spec.shape) or any(w not in (-1, s) for w, s in zip(spec.shape, shape, strict=True)):
            raise UsageError(f"{spec.name} of X must have the shape {list(spec.shape)}, not {list(shape)}")
    return tensors


def category_columns(categories: UnplacedCategories, X: Any) -> tuple[str, ...]:
    """Return the names of the columns that have the model's categories: those of ``X`` with the dtype category, else
    the only ones whose values fit.

    Raise :class:`UsageError` if the columns are not certain.
    """
    names, lists = list(categories.names), categories.lists
    if hasattr(X, "columns") and len(X.columns) == len(names):
        marked = [name for name, dtype in zip(names, X.dtypes, strict=True) if str(dtype) == "category"]
        if len(marked) == len(lists):
            return tuple(marked)
        if not marked:
            columns = [X.iloc[:, index] for index in range(len(names))]
            values = [set(column[column.notna()].tolist()) for column in columns]
            only = placement([[bool(column) and column <= set(known) for column in values] for known in lists])
            if only is not None:
                return tuple(names[index] for index in only)
    raise UsageError(
        f"the model has {len(lists)} columns of categories, but X does not say which: pass the DataFrame with these "
        "columns as categories, as in training"
    )


def tensors_as_given(X: Any) -> list[Tensor]:
    """Return ``X`` as inputs of a model that declares none: an array, or one for each input, in a list or by name."""
    if isinstance(X, Mapping):
        arrays = _by_name([str(name) for name in X], X)
    else:
        given = list(X) if isinstance(X, (list, tuple)) else [X]
        names = [f"input-{index}" for index in range(len(given))]
        arrays = _by_name(names, dict(zip(names, given, strict=True)))
    return [
        _cast(TensorSpec(name, "FP32" if array.dtype.kind == "f" else datatype_of(array.dtype), ()), array)
        for name, array in arrays.items()
    ]


def specs_of(tensors: list[Tensor]) -> tuple[TensorSpec, ...]:
    """Return the specifications of the tensors, for any number of rows."""
    return tuple(TensorSpec(t.name, t.datatype, (-1, *t.array.shape[1:])) for t in tensors)


def described(specs: tuple[TensorSpec, ...], X: Any) -> tuple[TensorSpec, ...]:
    """Return the specifications with what a DataFrame ``X`` says about its columns."""
    if not is_frame(X):
        return specs
    columns = {str(name): series.column(X.iloc[:, index]) for index, name in enumerate(X.columns)}
    return tuple(msgspec.structs.replace(spec, column=columns.get(spec.name)) for spec in specs)


def missing(array: Array) -> Array:
    """Return True where a value is missing (NaN or None), in the shape of ``array``."""
    if array.dtype.kind == "f":
        return np.asarray(np.isnan(array))
    return missing_objects(array) if array.dtype == object else np.zeros(array.shape, dtype=bool)


def _narrowed(column: Array) -> Array:
    """Return a column of an object array as numbers if all its values are numbers."""
    if all(isinstance(value, (int, float, np.number)) and not isinstance(value, bool) for value in column):
        return column.astype(np.float64)
    return column


def _column(name: str, values: Array) -> Tensor:
    datatype = datatype_of(values.dtype)
    return Tensor(name, datatype, _texts(values) if datatype == "BYTES" else values)


def _texts(values: Array) -> Array:
    """Return texts with None in place of every missing one, as requests have them."""
    texts: Array = values.astype(object)
    texts[missing_objects(texts)] = None
    return texts


def _by_name(names: list[str], X: Any) -> dict[str, Array]:
    if isinstance(X, Mapping):
        absent = [name for name in names if name not in X]
        if absent:
            raise UsageError(f"X lacks {', '.join(absent)}: pass a dictionary with {', '.join(names)}")
        given = [X[name] for name in names]
    else:
        given = list(X) if isinstance(X, (list, tuple)) and len(names) > 1 else [X]
    if len(given) != len(names):
        raise UsageError(f"X has {len(given)} arrays, but the model has {len(names)} inputs: pass {', '.join(names)}")
    arrays = [np.asarray(array) for array in given]
    if any(array.ndim == 0 or not len(array) for array in arrays):
        raise UsageError("X has no rows: pass arrays of shape [rows, ...]")
    return dict(zip(names, arrays, strict=True))


def _cast(spec: TensorSpec, array: Array) -> Tensor:
    try:
        if array.dtype == object and spec.datatype.startswith("FP"):
            array = np.where(missing_objects(array), np.nan, array)
        cast: Array = array.astype(DTYPES[spec.datatype])
        return Tensor(spec.name, spec.datatype, _texts(cast) if spec.datatype == "BYTES" else cast)
    except (TypeError, ValueError):
        raise UsageError(f"{spec.name} of X is not of the type {spec.datatype}: pass numbers") from None
