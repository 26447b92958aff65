"""Check every object of an opened model against the registry: its class has an entry, and its state passes the check.

The interpreter limits what a file may name; skops creates objects with its own code. So this module checks the result,
which is the same for both: a class without an entry, a function that is not arithmetic, or an array that compiled code
would follow out of its memory is rejected.
"""

from __future__ import annotations

import functools
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mlmodel_server import registry
from mlmodel_server.errors import RefusedModel
from mlmodel_server.loading.named import Named, Unlisted
from mlmodel_server.registry import rules
from mlmodel_server.registry.entry import Entry, Forbidden, plain

_FUNCTIONS = (types.FunctionType, type(np.mean), np.ufunc)
_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray, slice, range, Named)
_RANDOM = (np.random.RandomState, np.random.Generator, np.random.BitGenerator)
_LISTS = (list, tuple, set, frozenset)
_DICTIONARIES = (dict, OrderedDict, defaultdict)
_CREATED_BY_SETSTATE = "scipy.interpolate._interpolate.interp1d"  # of an isotonic regression; a file cannot contain it


def audit(model: Any, refuse: Callable[[str], RefusedModel]) -> None:
    """Raise the error of ``refuse``, or ValueError for forged numbers, unless ``model`` can only compute."""
    seen: dict[int, Any] = {}  # with the parts, because no id may be used again during the audit
    stack, probes = [model], []
    try:
        while stack:  # no recursion: a hostile model may be nested deeper than Python's stack
            part = stack.pop()
            if id(part) in seen:
                continue
            seen[id(part)] = part
            entry = _entry(part, refuse)
            if entry is None:
                stack += _contents(part)
                continue
            stack += entry.contents(part)
            if hasattr(part, "__dict__"):
                rules.check_attributes(part)
            entry.check(part)
            if entry.probe is not plain:
                probes.append((entry.probe, part))
        for probe, part in probes:
            probe(part)
    except Forbidden as forbidden:
        raise refuse(str(forbidden)) from None


def _entry(part: Any, refuse: Callable[[str], RefusedModel]) -> Entry | None:
    """Return the entry of the object's class; None for plain data, which is checked here."""
    kind = type(part)
    if kind is Unlisted:
        raise refuse(part.name)
    if kind in _ATOMS or kind in _LISTS or kind in _DICTIONARIES or issubclass(kind, (np.generic, np.dtype)):
        return None
    if isinstance(part, np.ndarray):
        rules.check_array(part)
        return None
    if _is_validation(part):
        return None
    if isinstance(part, (type, *_FUNCTIONS)):
        _check_code(part, refuse)
        return None
    if isinstance(part, _RANDOM):
        rules.check_random(part)
        return None
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name in (_CREATED_BY_SETSTATE, "numpy.random.bit_generator.SeedSequence"):
        return None
    entry = registry.entry_of(kind)
    if entry is None:
        raise refuse(name)
    return entry


def _contents(part: Any) -> Iterable[Any]:
    if isinstance(part, _LISTS):
        return list(part)
    if isinstance(part, _DICTIONARIES):
        return [*part.keys(), *part.values()]
    if isinstance(part, np.ndarray) and part.dtype.hasobject:
        return list(part.ravel())
    return ()


def _is_validation(part: Any) -> bool:
    """Whether ``part`` is what a histogram gradient boosting makes of its columns of numbers: float64, also missing."""
    from sklearn.utils.validation import check_array

    return (
        type(part) is functools.partial
        and part.func is check_array
        and part.args == ()
        and part.keywords == {"dtype": [np.float64], "ensure_all_finite": False}
        and not vars(part)
    )


def _check_code(part: Any, refuse: Callable[[str], RefusedModel]) -> None:
    if isinstance(part, type):
        if not issubclass(part, (np.generic, bool, float, int, str)) and part is not object:
            raise refuse(f"{part.__module__}.{part.__qualname__}")
        return
    module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", getattr(part, "__name__", None))
    module = "numpy" if isinstance(part, np.ufunc) and (str(module), str(name)) not in registry.kinds() else module
    if registry.kinds().get((str(module), str(name))) != "value":
        raise refuse(f"{module}.{name}" if name else f"{type(part).__module__}.{type(part).__name__}")
