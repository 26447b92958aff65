"""Files that are mounted into the pod, and change while it runs."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

RELOAD_SECONDS = 1.0
"""Maximum seconds until a changed file takes effect."""

Stamp = tuple[int, int]


class Watched:
    """Detects changes of a file, with at most one look at it per second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = stamp(path)
        self._next = 0.0

    def has_changed(self) -> bool:
        """Whether the file has changed since the last call, or since it was created, appeared or disappeared."""
        now = monotonic()
        if now < self._next:
            return False
        self._next = now + RELOAD_SECONDS
        before, self._stamp = self._stamp, stamp(self.path)
        return self._stamp != before


def stamp(path: Path) -> Stamp | None:
    """Return a value that changes with the file; it follows the links of a mounted volume. None without the file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns
