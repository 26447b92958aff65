"""Which requests were sent for a candidate, in anonymous shared memory: a process that replaces another goes on there.

A request is noted before it is sent, so one that ends the process is not sent by the next one again.
"""

from __future__ import annotations

import mmap

LATEST = 20_000
"""Requests that are noted, the latest: more than a sample keeps."""

_NAME = 256
_WORD = 8


class Progress:
    """The name of a rehearsal, and digests of requests. One process writes at a time."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _NAME + (1 + LATEST) * _WORD)
        self._words = memoryview(self._memory)[_NAME:].cast("q")

    def begin(self, name: bytes) -> list[int]:
        """Return what was noted for the rehearsal of this ``name`` (at most 255 bytes), oldest first; another one
        begins with nothing."""
        if self._memory[1 : 1 + self._memory[0]] != name:
            self._words[0] = 0
            self._memory[: 1 + len(name)] = bytes([len(name)]) + name
        end = self._words[0]
        return [self._words[1 + number % LATEST] for number in range(max(0, end - LATEST), end)]

    def note(self, digest: int) -> None:
        """Note a request that is about to be sent."""
        end = self._words[0]
        self._words[1 + end % LATEST] = digest
        self._words[0] = end + 1

    def undo(self) -> None:
        """Forget the request that was noted last: it is to be sent again."""
        self._words[0] -= 1
