"""The registry: every class that a model file may contain under ``strict``, and how the server treats it.

A class without an entry is refused, in joblib and in skops alike. The list has exact names and no prefixes, because
trusted packages contain gadgets (``sklearn.utils._testing`` runs programs, ``numpy.f2py`` evaluates strings,
``joblib.numpy_pickle.load`` opens further files). Each entry has a check of the state of an instance, in the module of
its family. The names are text, so a server imports only the modules that its model names.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from mlmodel_server.registry import (
    bayes,
    boosters,
    cluster,
    composed,
    decomposition,
    distances,
    functions,
    histograms,
    linear,
    losses,
    mixture,
    neighbours,
    networks,
    parts,
    preprocessing,
    processes,
    sparse,
    splines,
    text,
    trees,
    vectors,
)
from mlmodel_server.registry.entry import Entry

Kind = Literal["class", "value", "name"]

FAMILIES = (
    bayes, boosters, cluster, composed, decomposition, distances, histograms, linear, losses, mixture, neighbours,
    networks, parts, preprocessing, processes, sparse, splines, text, trees, vectors,
)  # fmt: skip


@cache
def entries() -> dict[str, Entry]:
    """Return each entry by the full name of its class, such as ``sklearn.svm._classes.SVC``."""
    return {f"{entry.module}.{entry.name}": entry for family in FAMILIES for entry in family.ENTRIES}


MOVED = {"__builtin__": "builtins", "_loss": "sklearn._loss._loss"}
"""Modules by the name that a file or a class has for them: Python 2; scikit-learn before 1.9."""


def entry_of(kind: type) -> Entry | None:
    """Return the entry of a class; None if it has none."""
    return entries().get(f"{MOVED.get(kind.__module__, kind.__module__)}.{kind.__qualname__}")


@cache
def kinds() -> dict[tuple[str, str], Kind]:
    """Return what a file gets for each global that it may name.

    ``class``: instances, created without the constructor. ``value``: the object. ``name``: only the name.
    """
    listed: dict[tuple[str, str], Kind] = {}
    for kind, table in (("name", functions.NAMES), ("value", functions.VALUES)):
        listed |= {(module, name): kind for module, names in table.items() for name in names.split()}  # type: ignore[misc]
    return listed | {(entry.module, entry.name): "class" for entry in entries().values()}
