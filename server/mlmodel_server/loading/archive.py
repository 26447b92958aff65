"""Unpack a directory of model files from a tar or zip archive, into memory and never onto a disk.

An archive is not trusted: paths out of its directory, links, devices and bombs are rejected, with the member's name.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlmodel_server.errors import MLModelError, RefusedModel
from mlmodel_server.loading.limits import MAX_FILE, MAX_TOTAL, check_count, checked_name, is_hidden

MAX_RATIO = 200
"""Maximum ratio of unpacked to packed bytes; tables of numbers rarely compress to a tenth."""

SMALL = 64 << 20
"""Bytes that any archive may unpack to, at any ratio."""

_MAX_ENTRIES = 100_000
"""Maximum number of entries in a zip's directory, nested zips included. Parsing takes a kilobyte for each."""

_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_OPENERS: dict[bytes, Callable[[io.BytesIO], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}


def is_archive(name: str) -> bool:
    """Whether a file of this name is a packed directory. Formats that are zip files (``.skops``, ``.keras``, ``.pt``)
    are not archives."""
    return name.lower().endswith(_SUFFIXES)


def unpack(data: bytes, name: str) -> dict[str, bytes]:
    """Return the files in the archive ``data``, called ``name``, without a common top directory.

    Raise :class:`RefusedModel` if it is damaged, contains anything but plain files and directories below its top, or
    unpacks to more than :data:`MAX_RATIO` times its size (and :data:`SMALL`), ``MAX_FILE`` per file, ``MAX_TOTAL`` or
    ``MAX_FILES``.
    """
    return without_common_top(members(data, name))


def members(data: bytes, name: str) -> dict[str, bytes]:
    """Like :func:`unpack`, with the common top directory."""
    left = min(MAX_TOTAL, max(SMALL, MAX_RATIO * len(data)))
    files: dict[str, bytes] = {}
    try:
        for member, content in (_zip if data.startswith(_ZIP_MAGIC) else _tar)(data, name, left):
            if member in files:
                raise RefusedModel(f"{name} contains {member} twice: pack it again")
            files[member] = content
    except MLModelError:
        raise
    except Exception as error:  # a damaged or hostile archive makes the parsers raise anything
        raise RefusedModel(
            f"{name} cannot be unpacked ({type(error).__name__}): pack the model's directory with tar or zip again"
        ) from None
    for member in files:
        for end in range(member.count("/")):
            above = "/".join(member.split("/")[: end + 1])
            if above in files:
                raise RefusedModel(f"{name} contains {above} as a file and as a directory: pack it again")
    return files


def without_common_top(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files without the top directory that all of them share, if there is one."""
    tops = {name.partition("/")[0] for name in files}
    if len(tops) != 1 or any("/" not in name for name in files):
        return dict(files)
    return {name.partition("/")[2]: content for name, content in files.items()}


def _tar(data: bytes, name: str, left: int) -> Iterator[tuple[str, bytes]]:
    if data.startswith(_ZSTD_MAGIC):
        raise RefusedModel(f"{name} is compressed with zstd, which this server cannot read: pack it as .tar.gz")
    opened = next((opener for magic, opener in _OPENERS.items() if data.startswith(magic)), lambda stream: stream)
    stream: Any = _Bounded(opened(io.BytesIO(data)), left, name)  # Any: tarfile needs only read
    # "r|" only reads forward, so that the limit covers headers as well
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for count, entry in enumerate(archive, 1):
            check_count(count)  # of all entries: tarfile keeps each in memory
            if entry.isdir():
                _member(entry.name, name)
                continue
            if not entry.isreg() or entry.issparse():
                kind = "link" if entry.issym() or entry.islnk() else "special file"
                raise RefusedModel(f"{name} contains {entry.name[:80]!r}, a {kind}: pack only plain files")
            member = _member(entry.name, name)
            if entry.size > MAX_FILE:
                raise _too_large(name)
            content = archive.extractfile(entry)
            if member and content:
                yield member, content.read()


def _zip(data: bytes, name: str, left: int) -> Iterator[tuple[str, bytes]]:
    if data.count(b"PK\x01\x02") > _MAX_ENTRIES:
        raise RefusedModel(f"{name} contains more than {_MAX_ENTRIES:,} entries: pack only the model's files")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        check_count(len(archive.infolist()))
        for entry in archive.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise RefusedModel(
                    f"{name} contains {entry.filename[:80]!r}, a link or special file: pack only plain files"
                )
            if entry.flag_bits & 1:
                raise RefusedModel(f"{name} is encrypted: pack it without a password")
            member = _member(entry.filename, name)
            if not member or entry.is_dir():
                continue
            left -= entry.file_size
            if entry.file_size > MAX_FILE or left < 0:
                raise _too_large(name)
            yield member, archive.read(entry)


def _member(path: str, name: str) -> str:
    """Return ``path`` as a file's name, "" if a model has no such file; raise :class:`RefusedModel` if it leads out."""
    parts = [part for part in path.rstrip("/").split("/") if part != "."]
    if ".." in parts or path.startswith("/"):
        raise RefusedModel(
            f"{name} contains {path[:80]!r}, a path out of its directory: pack it again with relative paths"
        )
    # Also "__MACOSX/._model.skops", which macOS adds
    if not parts or is_hidden("/".join(parts)):
        return ""
    return checked_name("/".join(parts))


def _too_large(name: str) -> RefusedModel:
    return RefusedModel(
        f"{name} unpacks to more than a model may have ({MAX_FILE >> 30} GiB per file, {MAX_TOTAL >> 30} GiB in total, "
        f"{MAX_RATIO} times its size): pack only the model's files"
    )


class _Bounded:
    """A stream that raises :class:`RefusedModel` after ``left`` bytes."""

    def __init__(self, stream: Any, left: int, name: str) -> None:
        self._stream, self._left, self._name = stream, left, name

    def read(self, size: int) -> bytes:
        data: bytes = self._stream.read(min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise _too_large(self._name)
        return data
