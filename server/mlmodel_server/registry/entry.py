"""An entry of the registry: what the server knows about one class that a model file may contain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mlmodel_server.formats.trees import Damaged

Check = Callable[[Any], None]
"""Raises :class:`~mlmodel_server.formats.trees.Damaged` for a forged state, or :class:`Forbidden` for a part that would
do more than predict. It reads the object and changes nothing."""


class Forbidden(Exception):
    """The model has a part that would do more than predict; the text names the part."""


ABSENT: Any = object()
"""In place of an attribute that is removed."""


def plain(_part: Any) -> None:
    """Accept any state: only Python and numpy read it, and both check each index.

    The rules of :mod:`.rules` still apply to each array and parameter of the object.
    """


def empty(state: Any) -> None:
    """Reject any state: the constructor gives the instance all that it has."""
    if state is not None and not (isinstance(state, (tuple, dict)) and not state):
        raise Damaged("it has a state for an object that has none")


def attributes(part: Any) -> Iterable[Any]:
    """Return the values of the attributes, and the items of a class that extends a dictionary, list or tuple."""
    inside = list(vars(part).values()) if hasattr(part, "__dict__") else []
    if isinstance(part, dict):
        return [*inside, *part.keys(), *part.values()]
    return [*inside, *part] if isinstance(part, (list, tuple, set, frozenset)) else inside


def compiled_state(part: Any) -> Iterable[Any]:
    """Return what a compiled object would write into a file."""
    return part.__getstate__()  # type: ignore[no-any-return]


def opaque(_part: Any) -> Iterable[Any]:
    """Return nothing: the library has its own memory, and its bytes were checked before it read them."""
    return ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One class. ``module`` and ``name`` are those that a file names."""

    module: str
    name: str
    check: Check = plain
    """Checks the state of an instance."""
    state: Check = empty
    """Checks what a file has for a compiled instance, before the instance reads it."""
    probe: Check = plain
    """Calls the object, after each part of the model has passed its check, where the state does not show enough."""
    contents: Callable[[Any], Iterable[Any]] = attributes
    """Returns the objects inside an instance, which are checked too."""
    parameters: tuple[str, ...] = ()
    """Parameters of a wrapper that change its predictions but are not part of its booster. Empty for all other classes:
    the server predicts with the object itself, so each of its parameters applies."""

    unneeded: Mapping[str, Any] = field(default_factory=dict)
    """Attributes that only the training used, such as a scorer, and what replaces each if the file has an object there
    that is not listed. The value is one that the class accepts, and no prediction depends on it."""


def of(
    module: str,
    names: str,
    check: Check = plain,
    *,
    state: Check = empty,
    probe: Check = plain,
    contents: Callable[[Any], Iterable[Any]] = attributes,
    parameters: tuple[str, ...] = (),
    unneeded: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Entry]:
    """Yield the entries of classes in ``module`` that share a check; ``names`` has spaces between them."""
    for name in names.split():
        yield Entry(module, name, check, state, probe, contents, parameters, unneeded)
