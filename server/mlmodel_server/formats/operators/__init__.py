"""Lists of what a model may consist of: one text file for each library, with the reasons."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def allowed(name: str) -> frozenset[str]:
    """Return the names in the list ``name``; lines that begin with ``#`` or ``[`` are comments and titles."""
    lines = (files(__name__) / f"{name}.txt").read_text("utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith(("#", "[")) for word in line.split())
