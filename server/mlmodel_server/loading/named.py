"""Globals that a pickle names."""

from __future__ import annotations

from typing import Any

from mlmodel_server.errors import Unreadable
from mlmodel_server.formats.table import library


class Named:
    """The name of a global without the object, in place of the global wherever the file uses it."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Unlisted:
    """What a file makes with a global that it may not use: no object, only the name and what the file puts into it.

    Nothing calls it. A model that keeps one is refused, unless only its training used it.
    """

    __slots__ = ("inside", "name")

    def __init__(self, name: str, *inside: Any) -> None:
        self.name, self.inside = name, list(inside)


def resolve(named: Named) -> Any:
    """Import and return the object."""
    module = named.module.replace("numpy.core.", "numpy._core.")
    try:
        return getattr(library(module), named.name)
    except (ImportError, AttributeError):
        raise Unreadable(f"it names {named}, which does not exist in the installed version") from None
