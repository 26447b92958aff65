"""Limits on the size, number and names of a model's files: the same for every source and archive."""

from __future__ import annotations

from mlmodel_server.errors import RefusedModel

MAX_FILE = 1 << 30
"""Maximum bytes of one file. Larger models need a format that can be memory-mapped."""

MAX_TOTAL = 4 << 30
"""Maximum bytes of all files of a model."""

MAX_FILES = 2_000

_MAX_NAME = 1_024
_STEPS = frozenset({"", ".", ".."})  # parts of a path that are not names


class Allowance:
    """Counts the bytes that were read from a source. A file that is read again counts once."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}

    def check(self, name: str, size: int) -> None:
        """Raise :class:`RefusedModel` if a file of ``size`` bytes, or more, exceeds a limit."""
        if size > MAX_FILE:
            raise RefusedModel(f"{name} is larger than {MAX_FILE >> 30} GiB: compress it, or train a smaller model")
        if size + sum(other for known, other in self._sizes.items() if known != name) > MAX_TOTAL:
            raise RefusedModel(
                f"the model's files are larger than {MAX_TOTAL >> 30} GiB in total: train a smaller model"
            )

    def count(self, name: str, data: bytes) -> bytes:
        """Count and return ``data``."""
        self.check(name, len(data))
        self._sizes[name] = len(data)
        return data


def is_hidden(name: str) -> bool:
    """Whether a part of the path begins with a dot, as in ``.git/HEAD``: such files are not part of a model."""
    return any(part.startswith(".") and part not in _STEPS for part in name.split("/"))


def checked_name(name: str) -> str:
    """Return ``name`` if it is a plain path below the model's directory; raise :class:`RefusedModel` otherwise.

    Names come from archives, listings and descriptions, and end up in paths and messages.
    """
    steps = _STEPS.intersection(name.split("/"))
    if steps or is_hidden(name) or "\\" in name or not name.isprintable() or len(name) > _MAX_NAME:
        raise RefusedModel(
            f"{name[:80]!r} is not a valid file name: use a relative path without '..', hidden folders or "
            f"backslashes, such as model/weights.bin"
        )
    return name


def check_count(files: int) -> None:
    """Raise :class:`RefusedModel` if there are more than :data:`MAX_FILES` files."""
    if files > MAX_FILES:
        raise RefusedModel(f"the model has more than {MAX_FILES:,} files: give a directory with only the model")
