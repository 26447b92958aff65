"""What a source is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mlmodel_server.errors import UnreachableSource
from mlmodel_server.manifest import MANIFEST


class Source(Protocol):
    """Some files, by name: POSIX paths relative to the model's directory, such as ``variables/variables.index``."""

    @property
    def entry(self) -> str:
        """The file to begin with: ``mlmodel.json`` of a package, ``MLmodel`` of an MLflow directory,
        ``saved_model.pb`` of a TensorFlow one, or a bare model file."""
        ...

    @property
    def sha256(self) -> str:
        """The digest (hex) that pins these files and has been checked already; "" when it is the entry's own."""
        ...

    def names(self) -> tuple[str, ...]:
        """All files, sorted; :class:`RefusedModel` when there are more than :data:`~..limits.MAX_FILES`."""
        ...

    def read(self, name: str) -> bytes:
        """The whole file; :class:`UnreachableSource` when it is not there now, :class:`RefusedModel` when it is larger
        than :data:`~..limits.MAX_FILE`, or all that were read are larger than :data:`~..limits.MAX_TOTAL`."""
        ...


class Memory:
    """Files that were just made, downloaded or unpacked."""

    def __init__(self, files: Mapping[str, bytes], entry: str = MANIFEST, sha256: str = "") -> None:
        self._files, self.entry, self.sha256 = files, entry, sha256

    def names(self) -> tuple[str, ...]:
        """See :class:`Source`."""
        return tuple(sorted(self._files))

    def read(self, name: str) -> bytes:
        """See :class:`Source`."""
        if name not in self._files:
            raise UnreachableSource(f"{name} is missing from the package")
        return self._files[name]
