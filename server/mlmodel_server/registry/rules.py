"""Rules for every array and every object of a model, of any class.

The checks of a family only have to compare lengths and indices: the arrays that they see are plain, and an object has
the methods of its class and parameters that scikit-learn accepts.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from mlmodel_server.formats.trees import Damaged
from mlmodel_server.tensors import Array

OUT_OF_RANGE = "it has an index out of range"
_KINDS = "biufcSUOmMV"
_MT_WORDS, _PHILOX_WORDS = 624, 4


def check_array(array: Array) -> None:
    """Raise :class:`Damaged` unless the array is plain: native byte order, aligned, contiguous, not a matrix.

    Compiled code would refuse others, or copy them when it should not.
    """
    plain = array.dtype.kind in _KINDS and array.dtype.isnative and array.flags.aligned and array.flags.forc
    if type(array) not in (np.ndarray, np.ma.MaskedArray) or not plain:
        raise Damaged("it has an array that is not plain: train the model with numpy arrays and save it again")


def dense(value: Any, *shape: int | None, kinds: str = "f") -> Array:
    """Return ``value`` if it is a dense array of this shape (None: any length) and of these kinds of dtype."""
    if type(value) is not np.ndarray or value.dtype.kind not in kinds or value.ndim != len(shape):
        raise Damaged("it has an array of the wrong type")
    if any(given is not None and given != size for given, size in zip(shape, value.shape, strict=True)):
        raise Damaged("it has an array of the wrong length")
    return value


def whole_number(value: Any, lowest: int, highest: int) -> int:
    """Return ``value`` if it is an integer between the bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not lowest <= value <= highest:
        raise Damaged("it has a number out of range")
    return int(value)


def number(value: Any) -> float:
    """Return ``value`` if it is a finite real number."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or not math.isfinite(value):
        raise Damaged("it has a number out of range")
    return float(value)


def only(value: Any, *names: str) -> Any:
    """Return ``value`` if it is an instance of exactly one of the classes with these full names."""
    if f"{type(value).__module__}.{type(value).__qualname__}" not in names:
        raise Damaged(f"it has a {type(value).__name__} where {names[0].rpartition('.')[2]} is expected")
    return value


def check_indices(indices: Array, count: int) -> None:
    """Raise :class:`Damaged` unless every index is from 0 to ``count`` - 1."""
    if len(indices) and not 0 <= indices.min() <= indices.max() < count:
        raise Damaged(OUT_OF_RANGE)


def ordered(indices: Any, count: int) -> None:
    """Raise :class:`Damaged` unless ``indices`` has each of 0 to ``count`` - 1 once."""
    listed = list(indices)
    if len(listed) != count or not all(isinstance(index, (int, np.integer)) for index in listed):
        raise Damaged("it has an array of the wrong length")
    if sorted(listed) != list(range(count)):
        raise Damaged(OUT_OF_RANGE)


def check_attributes(part: Any) -> None:
    """Raise :class:`Damaged` if the state replaces a method of the class, or has a parameter that is not valid."""
    kind: Any = type(part)
    state = vars(part)
    replaced = next((name for name in state if not isinstance(name, str) or _is_method(kind, name)), None)
    if replaced is not None:
        raise Damaged(f"it replaces a method of {kind.__name__}")
    width = state.get("n_features_in_", 1)
    if type(width) is not int or width < 1:
        raise Damaged("its number of columns is not a positive integer")
    classes = state.get("classes_", ())
    for labels in classes if isinstance(classes, (list, tuple)) else [classes]:
        if isinstance(labels, np.ndarray) and labels.dtype.hasobject and not all(map(_is_label, labels.ravel())):
            raise Damaged("it has a class that is neither text nor a number")
    if kind.__module__.startswith("sklearn."):
        _check_parameters(kind, state)


@lru_cache(1 << 14)
def _is_method(kind: Any, name: str) -> bool:
    found = getattr(kind, name, None)
    return callable(found) or isinstance(found, property) or name in ("_impl", "_sparse_kernels", "_estimator_type")


def _is_label(value: Any) -> bool:
    return value is None or isinstance(value, (str, bytes, int, float, np.generic))


def _check_parameters(kind: Any, state: dict[str, Any]) -> None:
    constraints = getattr(kind, "_parameter_constraints", {})
    for name in constraints.keys() & state.keys():
        value = state[name]
        if constraints[name] == "no_validation":
            continue
        try:
            if type(value) in (bool, int, float, str, type(None)):
                _check_plain_parameter(kind, name, type(value).__name__, value)
            else:
                _check_parameter(kind, name, value)
        except ValueError:
            raise Damaged(f"its {kind.__name__} has a parameter {name} that is not valid") from None


@lru_cache(1 << 14)
def _check_plain_parameter(kind: Any, name: str, _type: str, value: Any) -> None:
    _check_parameter(kind, name, value)


def _check_parameter(kind: type, name: str, value: Any) -> None:
    from sklearn.utils._param_validation import validate_parameter_constraints

    validate_parameter_constraints({name: kind._parameter_constraints[name]}, {name: value}, kind.__name__)  # type: ignore[attr-defined]


def check_random(generator: Any) -> None:
    """Raise :class:`Damaged` if a random number generator would read behind its numbers."""
    bits = getattr(generator, "_bit_generator", getattr(generator, "bit_generator", generator))
    if isinstance(bits, np.random.BitGenerator):
        state: Any = bits.state
        name = state["bit_generator"]
        if name == "MT19937":
            whole_number(state["state"]["pos"], 0, _MT_WORDS)
        elif name == "Philox":
            whole_number(state["buffer_pos"], 0, _PHILOX_WORDS)
