"""The interface of a source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mlmodel_server.errors import UnreachableSource
from mlmodel_server.manifest import MANIFEST


class Source(Protocol):
    """Some files, by name: POSIX paths relative to the model's directory, such as ``variables/variables.index``."""

    @property
    def entry(self) -> str:
        """The entry file: ``mlmodel.json`` of a package, ``MLmodel`` of an MLflow directory, ``saved_model.pb`` of a
        TensorFlow directory, or a bare model file."""
        ...

    @property
    def sha256(self) -> str:
        """The digest (hex) of all these files, which has been checked; "" if the digest is that of the entry file."""
        ...

    def names(self) -> tuple[str, ...]:
        """Return all files, sorted. Raise :class:`RefusedModel` if there are more than :data:`~..limits.MAX_FILES`."""
        ...

    def read(self, name: str) -> bytes:
        """Return the whole file. Raise :class:`UnreachableSource` if it cannot be read now, :class:`RefusedModel` if it
        is larger than :data:`~..limits.MAX_FILE`, or all files read are larger than :data:`~..limits.MAX_TOTAL`."""
        ...


class Memory:
    """Files in memory: built, downloaded or unpacked."""

    def __init__(self, files: Mapping[str, bytes], entry: str = MANIFEST, sha256: str = "") -> None:
        self._files, self.entry, self.sha256 = files, entry, sha256

    def names(self) -> tuple[str, ...]:
        """See :class:`Source`."""
        return tuple(sorted(self._files))

    def read(self, name: str) -> bytes:
        """See :class:`Source`."""
        if name not in self._files:
            raise UnreachableSource(f"{name} is missing from the package: write or pack it again")
        return self._files[name]


class Once:
    """A source of which each file is read once, so that what is opened is what was checked."""

    def __init__(self, source: Source) -> None:
        self._source, self.entry, self.sha256 = source, source.entry, source.sha256
        self._names: tuple[str, ...] | None = None
        self._read: dict[str, bytes] = {}

    def names(self) -> tuple[str, ...]:
        """See :class:`Source`."""
        if self._names is None:
            self._names = self._source.names()
        return self._names

    def read(self, name: str) -> bytes:
        """See :class:`Source`."""
        if name not in self._read:
            self._read[name] = self._source.read(name)
        return self._read[name]
