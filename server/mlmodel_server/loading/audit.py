"""Check every object of an opened model against the registry: its class has an entry, and its state passes the check.

The interpreter limits what a file may name; skops creates objects with its own code. So this module checks the result,
which is the same for both: a class without an entry, a function that is not arithmetic, or an array that compiled code
would follow out of its memory is rejected.
"""

from __future__ import annotations

import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mlmodel_server import registry
from mlmodel_server.errors import RefusedModel
from mlmodel_server.registry.entry import Forbidden

_FUNCTIONS = (types.FunctionType, type(np.mean), np.ufunc)
_ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray, slice, range),
    *(np.random.RandomState, np.random.Generator, np.random.SeedSequence),
)
_LISTS = (list, tuple, set, frozenset)
_DICTIONARIES = (dict, OrderedDict, defaultdict)
_CREATED_BY_SETSTATE = "scipy.interpolate._interpolate.interp1d"  # of an isotonic regression; a file cannot contain it


def audit(model: Any, refuse: Callable[[str], RefusedModel]) -> None:
    """Raise the error of ``refuse``, or ValueError for forged numbers, unless ``model`` can only compute."""
    seen: set[int] = set()
    kept: list[Any] = []  # contents that exist only during the audit, so that no id is used again
    stack = [model]
    while stack:  # no recursion: a hostile model may be nested deeper than Python's stack
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        kept.append(part)
        try:
            stack += _checked(part, refuse)
        except Forbidden as forbidden:
            raise refuse(str(forbidden)) from None


def _checked(part: Any, refuse: Callable[[str], RefusedModel]) -> Iterable[Any]:
    """Check one object and return those inside it."""
    kind = type(part)
    if kind in _ATOMS or issubclass(kind, (np.generic, np.dtype, np.random.BitGenerator)):
        return ()
    if kind in _LISTS:
        return list(part)
    if kind in _DICTIONARIES:
        return [*part.keys(), *part.values()]
    if isinstance(part, np.ndarray):
        return list(part.ravel()) if part.dtype.hasobject else ()
    if isinstance(part, (type, *_FUNCTIONS)):
        _check_code(part, refuse)
        return ()
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name == _CREATED_BY_SETSTATE:
        return ()
    entry = registry.entries().get(name.replace("_loss.", "sklearn._loss._loss.") if name[:6] == "_loss." else name)
    if entry is None:
        raise refuse(name)
    contents = entry.contents(part)
    entry.check(part)
    return contents


def _check_code(part: Any, refuse: Callable[[str], RefusedModel]) -> None:
    if isinstance(part, type):
        if not issubclass(part, (np.generic, bool, float, int, str)) and part is not object:
            raise refuse(f"{part.__module__}.{part.__qualname__}")
        return
    module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", getattr(part, "__name__", None))
    module = "numpy" if isinstance(part, np.ufunc) and (str(module), str(name)) not in registry.kinds() else module
    if registry.kinds().get((str(module), str(name))) != "value":
        raise refuse(f"{module}.{name}" if name else f"{type(part).__module__}.{type(part).__name__}")
