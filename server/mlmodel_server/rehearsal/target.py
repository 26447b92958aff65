"""The file that names the candidate of a rehearsal: an entry of the model's routes, which the operator writes.

    candidate REVISION NONCE KEYS

A rehearsal needs the file with exactly this content. KEYS may be any word, and is not read.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from mlmodel_server.files import Watched
from mlmodel_server.rehearsal import authentic

MAX_BYTES = 1024
"""Maximum size of the file."""

_LINE = re.compile(r"candidate ([0-9a-z]{1,63}) ([0-9a-f]{64})(?: [!-~]{1,253})?\n?")


class Target(NamedTuple):
    """The candidate, the nonce of its rehearsal, and the key of the copies."""

    revision: str
    nonce: str
    key: bytes

    @property
    def session(self) -> str:
        """Return what the page shows of the nonce: the operator knows which rehearsal it is, and no one the key."""
        return hashlib.sha256(b"session\n" + self.nonce.encode()).hexdigest()[:16]


class TargetFile:
    """The file, read again when it or the file of API keys has changed. Each process has its own reader."""

    def __init__(self, path: Path, api_keys: Path | None = None) -> None:
        """``api_keys`` is the file of API keys, None if the server requires none."""
        self._file = Watched(path)
        self._keys = Watched(api_keys) if api_keys else None
        self._target = self._read()

    def target(self) -> Target | None:
        """Return the target, None without a rehearsal. Takes no time: it looks at the files once a second."""
        changed = self._file.has_changed()
        if self._keys and self._keys.has_changed():
            changed = True
        if changed:
            self._target = self._read()
        return self._target

    def _read(self) -> Target | None:
        try:
            with self._file.path.open("rb") as file:
                text = file.read(MAX_BYTES).decode("ascii")
            api_keys = self._keys.path.read_bytes() if self._keys else b""
        except (OSError, UnicodeDecodeError):
            return None
        match = _LINE.fullmatch(text)
        return Target(match[1], match[2], authentic.key_of(match[2], api_keys)) if match else None
