"""A model that one process fetches into a directory and another opens.

The process that fetches has the credentials of the store, checks digests and opens nothing. It ends before another
process, which has no credentials, opens the files and answers requests. That process checks the digests again, so a
restart needs neither the store nor trust in what was written.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from mlmodel_server import manifest
from mlmodel_server.errors import UnreachableSource
from mlmodel_server.loading.archive import is_archive
from mlmodel_server.loading.limits import checked_name
from mlmodel_server.loading.sources.entry import MLFLOW, SAVED_MODEL
from mlmodel_server.loading.sources.local import Local
from mlmodel_server.loading.sources.pin import check_digest, digest_of_digests
from mlmodel_server.loading.sources.source import Source
from mlmodel_server.manifest import MANIFEST
from mlmodel_server.manifest import sha256 as digest_of

FILES = "files"
DESCRIPTION = "fetched.json"
"""Written last: without it, the files are not complete."""

_MAX_DESCRIPTION = 16 << 10


class _Fetched(msgspec.Struct):
    entry: str


def fetch(source: Source, sha256: str, directory: Path, *, everything: bool) -> int:
    """Write the model to ``directory``, and return its size in bytes.

    ``sha256`` (hex, "" = the source has checked it) is the digest as for :func:`~.locate.locate`. ``everything`` is
    whether to write all files, as a signature requires, instead of those that are opened. Each file is held in memory
    only while it is written. Raise :class:`RefusedModel` or :class:`UnreachableSource`.
    """
    entry, whole = source.entry, source.entry in (MLFLOW, SAVED_MODEL)
    files = directory / FILES
    try:
        (directory / DESCRIPTION).unlink(missing_ok=True)  # of an attempt that was interrupted
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir(mode=0o700)
        data = source.read(entry)
        if sha256 and not whole:
            check_digest(digest_of(data), sha256, entry)
        listed = manifest.parse(data).files if entry == MANIFEST else {}
        packed = is_archive(entry)  # with its signature inside
        names = source.names() if whole or (everything and not packed) else (entry, *listed)
        digests, size = {}, 0
        for name in dict.fromkeys(names):
            content = data if name == entry else source.read(name)
            digests[name], size = digest_of(content), size + len(content)
            if name in listed and digests[name] != listed[name].sha256:
                raise manifest.differs(name, digests[name], listed[name].sha256)
            _write(files / checked_name(name), content)
        if sha256 and whole:
            check_digest(digest_of_digests(digests), sha256, f"the directory with {entry}")
        _write(directory / DESCRIPTION, msgspec.json.encode(_Fetched(entry)))
    except OSError as error:
        raise UnreachableSource(
            f"the model cannot be written to --fetch-to ({error.strerror}): give a directory with room for the model"
        ) from None
    return size


def fetched(directory: Path) -> Source:
    """Return the model that :func:`fetch` has written to ``directory``."""
    try:
        with (directory / DESCRIPTION).open("rb") as file:
            entry = msgspec.json.decode(file.read(_MAX_DESCRIPTION), type=_Fetched).entry
    except (OSError, msgspec.DecodeError):
        raise UnreachableSource(
            "the directory of --fetched has no model: fetch it first, with the same options and --fetch-to"
        ) from None
    return Local(directory / FILES, checked_name(entry))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400), "wb") as file:
        file.write(content)
