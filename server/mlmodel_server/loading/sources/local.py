"""Files on this machine: a mounted ConfigMap, volume or image, or a path on a laptop."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from mlmodel_server.errors import RefusedModel, UnreachableSource
from mlmodel_server.loading.limits import MAX_FILE, Allowance, at_most, checked_name, hidden
from mlmodel_server.loading.signing import SIGNATURE
from mlmodel_server.loading.sources.entry import HEAD_BYTES, MLFLOW, SAVED_MODEL, entry_of
from mlmodel_server.manifest import MANIFEST


class Local:
    """A directory or a single file.

    Links are followed as long as they stay in the directory, as those of a ConfigMap do (``model.skops`` →
    ``..data/model.skops``). Hidden files are not seen.
    """

    sha256 = ""

    def __init__(self, path: Path) -> None:
        if not os.path.exists(path):
            raise UnreachableSource(
                "the model files are not there yet: check the path, or that the ConfigMap or claim has them"
            )
        path = path.resolve()
        self._allowance = Allowance()
        self._alone = None if path.is_dir() else path.name
        self._root = path.parent if self._alone else path
        self.entry = self._alone or entry_of(self.names(), self._head)

    def names(self) -> tuple[str, ...]:
        """See :class:`~.source.Source`. A bare file is alone but for its signature, whatever else is beside it."""
        if self._alone is None or self._alone in (MANIFEST, MLFLOW, SAVED_MODEL):
            return self._scanned
        return tuple(sorted((self._alone, SIGNATURE))) if (self._root / SIGNATURE).is_file() else (self._alone,)

    @cached_property
    def _scanned(self) -> tuple[str, ...]:
        found: list[str] = []
        for name in _walk(self._root, self._root, "", {self._root}):
            found.append(name)
            at_most(len(found))
        return tuple(sorted(found))

    def read(self, name: str) -> bytes:
        """See :class:`~.source.Source`."""
        return self._allowance.took(name, self._bytes(name, MAX_FILE + 1))

    def _head(self, name: str) -> bytes:
        return self._bytes(name, HEAD_BYTES)

    def _bytes(self, name: str, limit: int) -> bytes:
        try:
            target = os.path.realpath(self._root / (name if name == self._alone else checked_name(name)), strict=True)
            _inside(target, self._root, name)
            if not stat.S_ISREG(os.stat(target).st_mode):
                raise RefusedModel(f"{name} is no regular file: copy the file itself to the source")
            # O_NONBLOCK: a pipe that takes the file's place in this moment does not hang the server
            with open(os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                return file.read(limit)
        except OSError as error:
            raise UnreachableSource(f"{name} cannot be read now ({error.strerror})") from None


def _walk(folder: Path, root: Path, prefix: str, seen: set[Path]) -> Iterator[str]:
    """The regular files below ``folder``. Each folder is seen once: links in a circle would never end."""
    try:
        items = sorted(os.listdir(folder))
    except OSError as error:
        raise UnreachableSource(f"{prefix or 'the directory'} cannot be read now ({error.strerror})") from None
    at_most(len(items))
    for item in items:
        if hidden(item):
            continue
        name = checked_name(prefix + item)
        try:
            target = Path(os.path.realpath(folder / item, strict=True))
        except OSError:  # a link to nothing: what it names is not there yet
            continue
        _inside(target, root, name)
        if target.is_file():
            yield name
        elif target.is_dir() and target not in seen:
            seen.add(target)
            yield from _walk(target, root, f"{name}/", seen)


def _inside(target: str | Path, root: Path, name: str) -> None:
    if not Path(target).is_relative_to(root):
        raise RefusedModel(f"{name} is a link out of the model's directory: copy the file itself there")
