"""Since when an address does not answer the operator, or a router does not follow its routes.

A router or Service that is silent for a moment is busy or new; one that stays silent is probably behind a
NetworkPolicy, which sends no event. Only this process remembers it: another one asks again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

Key = tuple[str, str]


class Silences:
    """The addresses of each model that did not answer, or not as they should, when they were last asked."""

    def __init__(self) -> None:
        self._since: dict[Key, dict[str, dict[str, float]]] = defaultdict(dict)

    def note(self, key: Key, kind: str, answered: Mapping[str, bool], now: float) -> Mapping[str, float]:
        """Store which addresses of one ``kind`` have ``answered``, by name; return since when the others are silent.

        Addresses that were not asked are forgotten.
        """
        before = self._since[key].get(kind, {})
        silent = {name: before.get(name, now) for name, has_answered in answered.items() if not has_answered}
        self._since[key][kind] = silent
        return silent

    def forget(self, key: Key) -> None:
        """Drop what is stored about a model."""
        self._since.pop(key, None)
