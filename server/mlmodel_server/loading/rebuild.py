"""The constructors that a pickle may call, each with a check of its arguments.

numpy and the compiled parts of scikit-learn trust their arguments: with a forged dtype numpy uses numbers as pointers,
``scalar`` reads past the end of its bytes, and an array reads past the end of a list that is too short. So each
argument is checked first. The list is complete: the calls of every estimator of the supported versions were recorded.
"""

from __future__ import annotations

import functools
import math
import re
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from mlmodel_server import registry
from mlmodel_server.errors import Unreadable
from mlmodel_server.formats import lightgbm_trees, xgboost_trees
from mlmodel_server.loading.named import Named, resolve
from mlmodel_server.registry.entry import empty

PARTIAL, VALIDATION = "functools.partial", "sklearn.utils.validation.check_array"
"""A histogram gradient boosting with categories has a partial of this function; no other partial may exist. Loading
makes the one of the other, and calls neither; the audit checks the arguments, and rejects every other use of them."""

_DTYPE = re.compile(r"[|<>=]?(?:[biufc?][0-9]{0,2}|[SUV][0-9]{1,9}|[mM]8?|O8?)")
_REFERENCES = 1 | 2 | 4  # a dtype's flags: its items are Python objects
_OBJECT_FLAGS = 63
_RANDOM = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_PYX = "__pyx_unpickle_"
_NUMBERS = (int, float, bool)
_KEYS = (str, bytes, int, float, bool, complex, type(None), np.generic)


def key(value: Any) -> Any:
    """Return ``value`` if it may be the key of a dictionary: a plain value, or a tuple of plain values.

    To hash a tuple that is nested a million deep overflows Python's stack.
    """
    if isinstance(value, _KEYS) or (isinstance(value, tuple) and all(isinstance(inner, _KEYS) for inner in value)):
        return value
    raise Unreadable(f"it has a {type(value).__name__} as a key")


def checked_dtype(dtype: Any) -> np.dtype[Any]:
    """Return ``dtype`` unless its flags or fields are forged: they claim Python objects, or memory beyond its items."""
    if not isinstance(dtype, np.dtype):
        raise Unreadable("it has an array without a data type")
    if dtype.names is not None:
        fields = [dtype.fields[name] for name in dtype.names] if dtype.fields else []
        if any(field[0].hasobject or field[0].subdtype or field[0].names for field in fields):
            raise Unreadable("it has a table whose columns are not plain numbers")
        layout: Any = {
            "names": list(dtype.names),
            "formats": [field[0] for field in fields],
            "offsets": [field[1] for field in fields],
            "itemsize": dtype.itemsize,
        }
        sound = np.dtype(layout)  # numpy checks that each column lies within the row
        if dtype.flags & _REFERENCES or sound != dtype:
            raise Unreadable("it has a forged data type")
        return dtype
    references = dtype.flags if dtype.kind == "O" else dtype.flags & _REFERENCES
    if dtype.subdtype or references != (_OBJECT_FLAGS if dtype.kind == "O" else 0):
        raise Unreadable("it has a forged data type")
    return dtype


def checked_shape(shape: Any) -> tuple[int, ...]:
    """Return ``shape`` if it is valid."""
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(size) is int and size >= 0 for size in shape):
        raise Unreadable("it has an array without a valid shape")
    return shape


def check_state(instance: Any, state: Any) -> None:
    """Raise ValueError if ``state`` would make the compiled code of ``instance`` read outside its memory. Replace the
    model in the state of a booster by what was read and checked."""
    kind = f"{type(instance).__module__}.{type(instance).__name__}"
    if kind == "xgboost.core.Booster":
        state["handle"] = bytearray(xgboost_trees.rewritten_pickled(bytes(state["handle"])))
    elif kind == "lightgbm.basic.Booster":
        name = "_handle" if "_handle" in state else "handle"
        state[name] = lightgbm_trees.rewritten(str(state[name]))
    elif isinstance(instance, (np.ndarray, np.dtype)):
        _check_array_state(instance, state)
    elif (entry := registry.entry_of(type(instance))) and (
        entry.state is not empty or not hasattr(instance, "__dict__")
    ):
        entry.state(state)


def _check_array_state(instance: Any, state: Any) -> None:
    if not isinstance(state, tuple):
        raise Unreadable("it has an array without content")
    if isinstance(instance, np.dtype):
        if len(state) not in (8, 9) or state[2] is not None:
            raise Unreadable("it has a forged data type")
        return
    content = state if isinstance(state[0], tuple) else state[1:]  # all but old states begin with a version
    shape, dtype, _, data = content[:4]
    dtype, count = checked_dtype(dtype), math.prod(checked_shape(shape))
    if dtype.kind == "O":
        # numpy reads as many items as the shape says, even if the list has fewer.
        if not isinstance(data, list) or len(data) != count:
            raise Unreadable("it has an array whose length does not fit its shape")
    elif not isinstance(data, (bytes, bytearray)) or len(data) != count * dtype.itemsize:
        raise Unreadable("it has an array whose length does not fit its shape")


def _dtype(text: Any, _align: Any = False, _copy: Any = True) -> np.dtype[Any]:
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise Unreadable("it has a data type that is not plain")
    return np.dtype(text, copy=True)  # a copy, because the state that follows would change numpy's own


def _scalar(dtype: Any, data: Any) -> Any:
    if checked_dtype(dtype).hasobject or not isinstance(data, bytes) or len(data) != dtype.itemsize:
        raise Unreadable("it has a number whose length does not fit its type")
    return np.frombuffer(data, dtype)[0] if data else dtype.type()


def _reconstruct(cls: Any, shape: Any, _typecode: Any) -> Any:
    if str(cls) not in ("numpy.ndarray", "numpy.matrix") or shape != (0,):
        raise Unreadable("it has an array of an unknown kind")
    return np.ndarray.__new__(np.matrix if str(cls) == "numpy.matrix" else np.ndarray, (0,), "b")


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> Any:
    if checked_dtype(dtype).hasobject or not isinstance(data, (bytes, bytearray)) or axis_order is not None:
        raise Unreadable("it has an array of an unknown kind")
    return np.frombuffer(data, dtype).reshape(checked_shape(shape), order="F" if order == "F" else "C")


def _mareconstruct(cls: Any, base: Any, shape: Any, _typecode: Any) -> Any:
    if not str(cls).endswith(".MaskedArray") or str(base) != "numpy.ndarray" or shape != (0,):
        raise Unreadable("it has an array of an unknown kind")
    empty = np.ndarray.__new__(np.ndarray, (0,), "b")
    return np.ma.MaskedArray.__new__(np.ma.MaskedArray, empty, mask=np.zeros((0,), bool), dtype="b")


def _bit_generator(named: Any = "MT19937") -> Any:
    name = str(named).rpartition(".")[2]
    if name not in _RANDOM:
        raise Unreadable("it has an unknown random number generator")
    return getattr(np.random, name)()


def _random_state(generator: Any = "MT19937", *_constructor: Any) -> Any:
    return np.random.RandomState(_generator_of(generator))


def _generator(generator: Any = "MT19937", *_constructor: Any) -> Any:
    return np.random.Generator(_generator_of(generator))


def _generator_of(generator: Any) -> Any:
    return generator if isinstance(generator, np.random.BitGenerator) else _bit_generator(generator)


def of_numbers(*numbers: Any) -> tuple[Any, ...]:
    if not all(isinstance(number, _NUMBERS) for number in numbers):
        raise Unreadable("it has a loss function with an argument that is not a number")
    return numbers


def _validation(function: Any) -> Callable[..., Any]:
    """Return the function with which a histogram gradient boosting checks its columns of numbers."""
    if str(function) != VALIDATION:
        raise Unreadable(f"it calls functools.partial for {str(function)[:80]}")
    return resolve(function)  # type: ignore[no-any-return]


def partial_state(state: Any) -> tuple[Any, ...]:
    """Return the state of a :class:`functools.partial` with its function; :mod:`.audit` checks the arguments."""
    if not isinstance(state, tuple) or len(state) != 4 or not isinstance(state[0], Named):
        raise Unreadable("it calls functools.partial without a function")
    return (_validation(state[0]), *state[1:])


def tree(features: Any, classes: Any, outputs: Any) -> Any:
    from sklearn.tree._tree import Tree

    plain = isinstance(classes, np.ndarray) and classes.dtype == np.intp and classes.ndim == 1
    if not (plain and type(features) is int and type(outputs) is int and len(classes) == outputs > 0 < features):
        raise Unreadable("it has a tree of an unknown kind")
    if classes.min() < 1:
        raise Unreadable("it has a tree without classes")
    return Tree(features, classes, outputs)


def _slice(*bounds: Any) -> slice:
    if not all(isinstance(bound, (str, *_KEYS)) for bound in bounds):
        raise Unreadable("it has a slice of an unknown kind")
    return slice(*bounds)


def _bytearray(data: Any = b"", *_encoding: Any) -> bytearray:
    return bytearray(data.encode("latin1") if isinstance(data, str) else bytes(memoryview(data)))


def _encoded(text: Any, _encoding: Any) -> bytes:
    return bytes(text, "latin1")


def _range(*bounds: Any) -> range:
    return range(*bounds)


def _members(items: Any = ()) -> list[Any]:
    if not isinstance(items, (list, tuple)):
        raise Unreadable("it has a set of an unknown kind")
    return [key(item) for item in items]


_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encoded,
    "builtins.bytearray": _bytearray,
    "builtins.bytes": lambda: b"",
    "builtins.complex": lambda *parts: complex(*of_numbers(*parts)),
    "builtins.frozenset": lambda items=(): frozenset(_members(items)),
    "builtins.range": lambda *bounds: _range(*of_numbers(*bounds)),
    "builtins.set": lambda items=(): set(_members(items)),
    "builtins.slice": _slice,
    PARTIAL: lambda function: functools.partial(_validation(function)),
    "collections.OrderedDict": lambda: OrderedDict(),
    "collections.defaultdict": lambda _factory=None: defaultdict(),  # no prediction needs new values
    "numpy.dtype": _dtype,
    "numpy.ma.core._mareconstruct": _mareconstruct,
    "numpy.random._pickle.__bit_generator_ctor": _bit_generator,
    "numpy.random._pickle.__generator_ctor": _generator,
    "numpy.random._pickle.__randomstate_ctor": _random_state,
    "sklearn.tree._tree.Tree": tree,
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _frombuffer for core in ("core", "_core")},
}

LOSSES = ("sklearn._loss._loss", "sklearn.linear_model._sgd_fast")
"""Modules of compiled loss functions, whose arguments are numbers."""


def constructor(named: Named) -> Callable[..., Any] | None:
    """Return the checked constructor for ``named``, a global on the list; None if the file may not call it."""
    known = _CONSTRUCTORS.get(str(named))
    if known or not named.module.startswith(("sklearn.", "numpy.")):
        return known
    if named.name == "newObj":
        return lambda cls: _blank(named, cls)
    if named.name.startswith(_PYX):
        return lambda cls, checksum, state: _compiled(named, cls, checksum, state)
    if named.module in LOSSES:
        return lambda *numbers: resolve(named)(*of_numbers(*numbers))
    return None


def _blank(named: Named, cls: Any) -> Any:
    """Return an instance of a compiled class, of the module of ``newObj``, without its state."""
    if getattr(cls, "module", None) != named.module:
        raise Unreadable(f"it calls {named} for a class of another module")
    kind = resolve(cls)
    return kind.__new__(kind)


def _compiled(named: Named, cls: Any, checksum: Any, state: Any) -> Any:
    """Return an instance of a compiled class from Cython's constructor for that class."""
    if getattr(cls, "name", None) != named.name.removeprefix(_PYX) or not isinstance(checksum, int):
        raise Unreadable(f"it calls {named} for another class")
    if not (state is None or isinstance(state, tuple)):
        raise Unreadable(f"it calls {named} without a state")
    return resolve(named)(resolve(cls), checksum, state)
