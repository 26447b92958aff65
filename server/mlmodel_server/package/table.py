"""Turn the given rows into v2 tensors, which are the inputs of a model and their datatypes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from mlmodel_server.errors import UsageError
from mlmodel_server.formats import dates, learnt
from mlmodel_server.formats.categories import placement
from mlmodel_server.formats.opened import MATRIX, UnplacedCategories
from mlmodel_server.manifest import Signature
from mlmodel_server.package import series
from mlmodel_server.package.series import missing_objects
from mlmodel_server.tensors import DTYPES, Array, Tensor, TensorSpec, datatype_of
from mlmodel_server.texts import guess


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


def has_single(X: Any) -> bool:
    """Whether ``X`` is a DataFrame with a column of single or half precision."""
    return is_frame(X) and any(str(dtype).lower() in ("float16", "float32") for dtype in X.dtypes)


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
            require_columns([spec.name for spec in specs], X)
            arrays = {tensor.name: tensor.array for tensor in given}
    tensors = [_cast(spec, arrays[spec.name]) for spec in specs]
    for spec, tensor in zip(specs, tensors, strict=True):
        shape = tensor.array.shape
        if len(shape) != len(spec.shape) or any(w not in (-1, s) for w, s in zip(spec.shape, shape, strict=True)):
            raise UsageError(f"{spec.name} of X must have the shape {list(spec.shape)}, not {list(shape)}")
    return tensors


def check_rows(estimator: Any, X: Any) -> None:
    """Raise :class:`UsageError` if ``X`` lacks names or types of columns that a scikit-learn estimator knows."""
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    if names == [f"Column_{index}" for index in range(len(names))]:  # LightGBM names the columns of an array
        names = []
    if names and not is_frame(X):
        require_columns(names, X)
    dated = learnt.dates(estimator, len(names) or getattr(estimator, "n_features_in_", 0))
    if dated and not is_frame(X):
        raise _array_of_dates("X")
    for name in [names[column] for column in dated if names]:
        if name in X.columns and not dates.DTYPE.fullmatch(str(X[name].dtype)):  # each would be unknown to the encoder
            raise UsageError(
                f"column {name!r} of X has the dtype {str(X[name].dtype)[:40]}, but the model was fitted on dates: "
                f"convert it with pandas.to_datetime, or add --dates {name} on the command line"
            )
    _check_units(names, estimator, X)


_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_YEAR = 3.2e7
"""Seconds. Around 1970, the size of a number does not say its unit."""

_NEAR = 5.0
"""Factor by which a number of the training may differ from the median of X, both in seconds, to be of this unit."""


def _check_units(names: Sequence[str], estimator: Any, X: Any) -> None:
    """Raise :class:`UsageError` if dates have another unit than in training: a scaler or an imputer computed with their
    numbers, and pandas before 3 made nanoseconds of them, later versions microseconds."""
    learned = learnt.locations(estimator, len(names)) if names and is_frame(X) else {}
    for column, values in learned.items():
        match = dates.DTYPE.fullmatch(str(X[names[column]].dtype)) if names[column] in X.columns else None
        units = _units_of(values, X[names[column]], match[1]) if match else set()
        if match and units and match[1] not in units:
            name, unit = names[column], min(units)
            dtype = shlex.quote(f"{name}=datetime64[{unit}{', ' + match[2] if match[2] else ''}]")
            raise UsageError(
                f"the dates of column {name!r} of X are {match[0]}, but those of the training had the unit {unit}: "
                f"convert them with X[{name!r}].dt.as_unit({unit!r}), or on the command line with --dtypes {dtype}"
            )


def _units_of(values: Sequence[float], series: Any, unit: str) -> set[str]:
    """Return the units in which numbers of the training are near the dates of a column; empty if that is not known."""
    given = np.asarray(series.dropna().astype("int64"), float) / _UNITS[unit]
    usual = abs(float(np.median(given))) if len(given) else 0.0
    if usual < _YEAR:
        return set()
    return {
        unit
        for unit, parts in _UNITS.items()
        for value in values
        if usual / _NEAR <= abs(value) / parts <= usual * _NEAR
    }


def require_columns(names: Sequence[str], X: Any) -> None:
    """Raise :class:`UsageError` unless ``X`` is a DataFrame with the columns that a model knows by name.

    An array may have the same columns in another order, or of other types, and nothing would show it.
    """
    listed = ", ".join(map(str, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    if not is_frame(X):
        raise UsageError(
            f"X is of the type {type(X).__name__[:40]}, but the model knows its columns by name ({listed}): pass a "
            "DataFrame with these columns, such as X_test and not X_test.values"
        )
    given = [str(name) for name in X.columns]
    absent = [str(name) for name in names if str(name) not in given]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise UsageError(
            f"X lacks the column {absent[0]!r}{guess(absent[0], given)}{more}: pass the columns that the model was "
            f"fitted on, which are {listed}"
        )


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
    """Return a column of an object array as numbers or booleans if all its values are."""
    if all(isinstance(value, (bool, np.bool_)) for value in column):
        return column.astype(bool)
    if all(isinstance(value, (int, float, np.number)) and not isinstance(value, bool) for value in column):
        return column.astype(np.float64)
    return column


def _column(name: str, values: Array) -> Tensor:
    """Return a column of an array that is not all numbers. Raise :class:`UsageError` if it is neither text nor
    numbers."""
    datatype = datatype_of(values.dtype)
    if datatype != "BYTES":
        return Tensor(name, datatype, values)
    texts = _texts(values)
    other = next((value for value in texts if value is not None and not isinstance(value, str)), None)
    if other is not None:
        if type(other).__name__ in ("datetime64", "datetime", "date", "Timestamp"):
            raise _array_of_dates(f"{name} of X")
        raise UsageError(
            f"{name} of X has values that are neither all text nor all numbers, such as one of the type "
            f"{type(other).__name__[:40]}, which no request can have: convert it to one of them, and fit again"
        )
    return Tensor(name, datatype, texts)


def _array_of_dates(what: str) -> UsageError:
    return UsageError(
        f"{what} has dates, and an array does not say of which type: fit the model on a DataFrame, and pass such a "
        "DataFrame as X"
    )


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
