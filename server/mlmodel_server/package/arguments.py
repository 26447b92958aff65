"""The arguments of ``package.save``: what several spellings mean, and errors that say what to type instead."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from mlmodel_server.errors import UsageError
from mlmodel_server.texts import guess, one_line

Code = ModuleType | str | os.PathLike[str]

CALL = "package.save(model, X, y, DIR), with None as y for a model without labels"
_TABLES = ("DataFrame", "Series", "ndarray", "list", "tuple", "dict", "NoneType")


class Choices(NamedTuple):
    """The arguments that name something, each in one form."""

    method: str
    outputs: tuple[str, ...] | None
    code: tuple[Code, ...]


def check(model: Any, X: Any, y: Any, version: Any, **limited: tuple[Any, Sequence[Any]]) -> None:
    """Raise :class:`UsageError` if an argument is of a kind that cannot be right. ``limited`` has for each other
    argument its value and the values that it may have."""
    if isinstance(model, type):
        raise UsageError(
            f"model is the class {model.__name__[:40]}: pass a fitted object, {model.__name__[:40]}().fit(X, y)"
        )
    if (kind := type(model).__name__) in _TABLES:
        raise UsageError(f"model is of the type {kind}, which is none: pass the fitted model first, as in {CALL}")
    if X is None or isinstance(X, (str, bytes, os.PathLike)):
        raise UsageError(f"X is of the type {type(X).__name__}: pass rows, such as a DataFrame or an array")
    if isinstance(y, (str, bytes, os.PathLike)):
        raise UsageError("y is a text: pass the label of each row, or None")
    if not isinstance(version, str):
        raise UsageError(f"version is {one_line(repr(version), 40)}: pass text, such as version='7'")
    for name, (value, known) in limited.items():
        if value not in known or isinstance(value, bool):
            similar = guess(value, known) if isinstance(value, str) and isinstance(known[0], str) else ""
            listed = f"{known[0]} (none) to {known[-1]} (smallest)" if isinstance(known, range) else _listed(known)
            raise UsageError(f"{name} is {one_line(repr(value), 40)}{similar}: use {listed}")


def directory(path: Any) -> Path:
    """Return the directory to write to. Raise :class:`UsageError` if it cannot be one."""
    if path is None:
        raise UsageError(f"the directory is missing: type {CALL}")
    found = Path(path)
    if found.exists() and not found.is_dir():
        raise UsageError(f"{found} is a file: give a directory to write the package to, or remove the file")
    return found


def choices(method: Any, outputs: Any, code: Any) -> Choices:
    """Return the names of methods and the modules; one is accepted instead of a list of one.

    Raise :class:`UsageError` if one is something else.
    """
    names = None if outputs is None else tuple(_name("outputs", name) for name in _several(outputs))
    modules = () if code is None else _several(code)
    for module in modules:
        if not isinstance(module, (ModuleType, str, os.PathLike)):
            own = getattr(module, "__module__", None)
            instead = f"its module, code=[{own}]" if isinstance(own, str) and callable(module) else "modules"
            raise UsageError(f"code has an object of the type {type(module).__name__[:40]}: give {instead}")
    return Choices("" if method is None else _name("method", method), names, tuple(modules))


def labels(y: Any, rows: int, predicted: Any) -> Any:
    """Return the labels as an array [rows], or [rows, targets] if the model predicts several.

    Raise :class:`UsageError` if they are not as many as the rows.
    """
    array = np.asarray(y)
    if len(array) != rows:
        raise UsageError(f"X has {rows} rows, but y has {len(array)}: pass one label for each row")
    if array.shape == (rows, 1) and np.ndim(predicted) == 1:  # a DataFrame with one column
        return array.ravel()
    return array


def _name(argument: str, name: Any) -> str:
    if isinstance(name, str):
        return name
    called = getattr(name, "__name__", None)
    instead = f"the name of the method, {called!r}" if isinstance(called, str) else "names of methods as text"
    raise UsageError(f"{argument} has an object of the type {type(name).__name__[:40]}: give {instead}")


def _several(given: Any) -> Sequence[Any]:
    return given if isinstance(given, (list, tuple, set, frozenset)) else (given,)  # type: ignore[return-value]


def _listed(known: Sequence[Any]) -> str:
    *first, last = [repr(value) for value in known]
    return f"{', '.join(first)} or {last}"
