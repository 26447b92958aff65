"""Text that came from outside, made fit for a terminal, a log, a status and a response."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from heapq import nsmallest

from mlmodel_server.errors import Unreadable

_PLACE = re.compile(r"\((byte \d+)\)|at `([$.\[\]\w]*)`")
"""Where msgspec found an error: a byte, or the path of a field, which has our own names only."""
_QUOTED = re.compile(r"(['\"`]).*\1")
_NAME = re.compile(r"[A-Za-z_][\w.]{0,99}", re.ASCII)


_COMPARED = 100
_COMPARED_LENGTH = 64
"""Maximum number of names that are compared with an unknown one, and its length: a client may send many."""


_SIMILAR = 0.7
"""Similarity of names, of difflib, from which the one may be meant by the other."""


def one_line(text: str, limit: int) -> str:
    """Return the text in one line of at most ``limit`` printable characters."""
    return printable(" ".join(text.split()))[:limit]


def guess(unknown: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'NAME'?)" if a known name is like the unknown one, else "": it follows the unknown name in
    an error."""
    if len(unknown) > _COMPARED_LENGTH:
        return ""
    spelled, names = unknown.casefold(), dict[str, str]()
    for name in known:
        names.setdefault(name.casefold(), name)
    if spelled in names:
        likely = [spelled]
    else:
        similar = nsmallest(_COMPARED, names, key=lambda name: abs(len(name) - len(spelled)))
        likely = get_close_matches(spelled, similar, n=1, cutoff=_SIMILAR)
    return f" (did you mean {one_line(repr(names[likely[0]]), 80)}?)" if likely else ""


def printable(text: str) -> str:
    """Return the text with an escape for every character that is not printable, such as the start of a terminal's
    command or a change of the direction of writing."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def reason_of(error: BaseException) -> str:
    """Return why a library could not read a file: the kind of the error, and its position if the library gives it.

    The text of a library may quote the file or name a path, so it is left out. Only the sentence of an
    :class:`~.errors.Unreadable` is returned, without what it quotes, and the name of a module that is missing.
    """
    kind = type(error).__name__[:60]
    if isinstance(error, ImportError) and error.name and _NAME.fullmatch(error.name):
        return f"{kind}: {error.name}"
    if isinstance(error, Unreadable):
        return one_line(_QUOTED.sub("…", str(error)), 200)
    if kind == "error":  # of zlib or struct
        kind = f"{type(error).__module__[:40]}.{kind}"
    place = _place_of(error)
    return f"{kind} at {place}" if place else kind


def _place_of(error: BaseException) -> str:
    mark = getattr(error, "problem_mark", None) or error  # of YAML; json has the same numbers in the error itself
    line, column = getattr(mark, "line", None), getattr(mark, "column", None)
    if isinstance(line, int) and isinstance(column, int):
        return f"line {line + 1}, column {column + 1}"
    line, column = getattr(error, "lineno", None), getattr(error, "colno", None)
    if isinstance(line, int) and isinstance(column, int):
        return f"line {line}, column {column}"
    if type(error).__module__ == "msgspec":
        found = _PLACE.search(str(error))
        return next(filter(None, found.groups()), "") if found else ""
    return f"byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if ord(character) > 0x7F else f"\\u{ord(character):04x}"
