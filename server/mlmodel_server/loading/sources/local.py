"""Files on this machine: a mounted ConfigMap, volume or image, or a path on a laptop."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from mlmodel_server.errors import RefusedModel, UnreachableSource
from mlmodel_server.loading.limits import MAX_FILE, Allowance, check_count, checked_name, is_hidden
from mlmodel_server.loading.signing import SIGNATURE
from mlmodel_server.loading.sources.entry import HEAD_BYTES, MLFLOW, SAVED_MODEL, entry_of
from mlmodel_server.manifest import MANIFEST


class Local:
    """A directory or a single file.

    Links are followed if they stay in the directory, as those of a ConfigMap do (``model.skops`` →
    ``..data/model.skops``). Hidden files are ignored.
    """

    sha256 = ""

    def __init__(self, path: Path, entry: str = "") -> None:
        """``entry`` is the entry file of a directory; "" if it is to be found by the names and content of the files."""
        if not os.path.exists(path):
            raise UnreachableSource(
                "the model files do not exist: check the path, or in a cluster, that the ConfigMap or claim contains "
                "them"
            )
        path = path.resolve()
        self._allowance = Allowance()
        self._single = None if path.is_dir() else path.name
        self._root = path.parent if self._single else path
        self.entry = entry or self._single or entry_of(self.names(), self._head)

    def names(self) -> tuple[str, ...]:
        """See :class:`~.source.Source`. A bare file has only its signature beside it; other files are ignored."""
        if self._single is None or self._single in (MANIFEST, MLFLOW, SAVED_MODEL):
            return self._all_names
        return tuple(sorted((self._single, SIGNATURE))) if (self._root / SIGNATURE).is_file() else (self._single,)

    @cached_property
    def _all_names(self) -> tuple[str, ...]:
        names: list[str] = []
        for name in _walk(self._root, self._root, "", {self._root}):
            names.append(name)
            check_count(len(names))
        return tuple(sorted(names))

    def read(self, name: str) -> bytes:
        """See :class:`~.source.Source`."""
        return self._allowance.count(name, self._bytes(name, MAX_FILE + 1))

    def _head(self, name: str) -> bytes:
        return self._bytes(name, HEAD_BYTES)

    def _bytes(self, name: str, limit: int) -> bytes:
        try:
            target = os.path.realpath(self._root / (name if name == self._single else checked_name(name)), strict=True)
            _check_inside(target, self._root, name)
            if not stat.S_ISREG(os.stat(target).st_mode):
                raise RefusedModel(f"{name} is not a regular file: copy the file itself to the source")
            # O_NONBLOCK: a pipe that replaces the file just now does not block the server
            with open(os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                return file.read(limit)
        except OSError as error:
            raise UnreachableSource(
                f"{name} cannot be read now ({error.strerror}): copy it to the source, or check its permissions"
            ) from None


def _walk(folder: Path, root: Path, prefix: str, seen: set[Path]) -> Iterator[str]:
    """Yield the regular files below ``folder``. Each folder is visited once, so circular links end."""
    try:
        items = sorted(os.listdir(folder))
    except OSError as error:
        raise UnreachableSource(
            f"{prefix or 'the directory'} cannot be read now ({error.strerror}): check its permissions"
        ) from None
    check_count(len(items))
    for item in items:
        if is_hidden(item):
            continue
        name = checked_name(prefix + item)
        try:
            target = Path(os.path.realpath(folder / item, strict=True))
        except OSError:  # a link whose target does not exist yet
            continue
        _check_inside(target, root, name)
        if target.is_file():
            yield name
        elif target.is_dir() and target not in seen:
            seen.add(target)
            yield from _walk(target, root, f"{name}/", seen)


def _check_inside(target: str | Path, root: Path, name: str) -> None:
    if not Path(target).is_relative_to(root):
        raise RefusedModel(f"{name} is a link out of the model's directory: copy the file itself to the directory")
