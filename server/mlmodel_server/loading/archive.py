"""Unpacking a directory of model files from a tar or zip archive, into memory and never onto a disk.

An archive is a program for the unpacker, written by whoever made the model: names that climb out, links, devices and
bombs are refused, with the member's name.
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
from mlmodel_server.loading.limits import MAX_FILE, MAX_TOTAL, at_most, checked_name, hidden

MAX_RATIO = 200
"""Bytes that may come out per byte of the archive; tables of numbers rarely shrink to a tenth."""

SMALL = 64 << 20
"""Bytes that may come out of any archive, however well it shrank."""

_MAX_ENTRIES = 100_000
"""Entries in a zip's directory. Each costs a kilobyte once it is parsed; a nested zip is counted too."""

_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_OPENERS: dict[bytes, Callable[[io.BytesIO], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}


def is_archive(name: str) -> bool:
    """Whether a file of this name is a directory packed into one file. The formats that are zip files by themselves
    (``.skops``, ``.keras``, ``.pt``) are none."""
    return name.lower().endswith(_SUFFIXES)


def unpack(data: bytes, name: str) -> dict[str, bytes]:
    """The files in the archive ``data``, called ``name``: one common top directory is left out.

    :class:`RefusedModel` when it is damaged, holds anything but plain files and directories below its top, or unpacks
    to more than :data:`MAX_RATIO` times its size (and :data:`SMALL`), ``MAX_FILE`` per file, ``MAX_TOTAL`` or
    ``MAX_FILES``.
    """
    return without_common_top(members(data, name))


def members(data: bytes, name: str) -> dict[str, bytes]:
    """Like :func:`unpack`, with every name as it stands in the archive."""
    left = min(MAX_TOTAL, max(SMALL, MAX_RATIO * len(data)))
    files: dict[str, bytes] = {}
    try:
        for member, content in (_zip if data.startswith(_ZIP_MAGIC) else _tar)(data, name, left):
            if member in files:
                raise RefusedModel(f"{name} holds {member} twice: pack it again")
            files[member] = content
    except MLModelError:
        raise
    except Exception as error:  # whatever a damaged or hostile archive makes the parsers raise
        raise RefusedModel(
            f"{name} cannot be unpacked ({type(error).__name__}): pack the model's directory with tar or zip again"
        ) from None
    for member in files:
        for end in range(member.count("/")):
            above = "/".join(member.split("/")[: end + 1])
            if above in files:
                raise RefusedModel(f"{name} holds {above} as a file and as a directory: pack it again")
    return files


def without_common_top(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files without the one directory that all of them are in, if there is one."""
    tops = {name.partition("/")[0] for name in files}
    if len(tops) != 1 or any("/" not in name for name in files):
        return dict(files)
    return {name.partition("/")[2]: content for name, content in files.items()}


def _tar(data: bytes, name: str, left: int) -> Iterator[tuple[str, bytes]]:
    if data.startswith(_ZSTD_MAGIC):
        raise RefusedModel(f"{name} is compressed with zstd, which this server cannot read: pack it as .tar.gz")
    opened = next((opener for magic, opener in _OPENERS.items() if data.startswith(magic)), lambda stream: stream)
    stream: Any = _Bounded(opened(io.BytesIO(data)), left, name)  # Any: a reader is all that tarfile needs
    # "r|" reads strictly forward, so that the bound on what comes out of the decompressor holds for headers as well
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for count, entry in enumerate(archive, 1):
            at_most(count)  # of all entries: tarfile keeps each in memory
            if entry.isdir():
                _member(entry.name, name)
                continue
            if not entry.isreg() or entry.issparse():
                kind = "link" if entry.issym() or entry.islnk() else "special file"
                raise RefusedModel(f"{name} holds {entry.name[:80]!r}, a {kind}: pack only plain files")
            member = _member(entry.name, name)
            if entry.size > MAX_FILE:
                raise _too_large(name)
            content = archive.extractfile(entry)
            if member and content:
                yield member, content.read()


def _zip(data: bytes, name: str, left: int) -> Iterator[tuple[str, bytes]]:
    if data.count(b"PK\x01\x02") > _MAX_ENTRIES:
        raise RefusedModel(f"{name} holds more than {_MAX_ENTRIES:,} entries: pack only the model's files")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        at_most(len(archive.infolist()))
        for entry in archive.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise RefusedModel(
                    f"{name} holds {entry.filename[:80]!r}, a link or special file: pack only plain files"
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
    """The path as a file's name, "" for what is no part of a model; :class:`RefusedModel` when it climbs out."""
    parts = [part for part in path.rstrip("/").split("/") if part != "."]
    if ".." in parts or path.startswith("/"):
        raise RefusedModel(f"{name} holds {path[:80]!r}, a path out of its directory: pack it again from inside")
    # Also the "__MACOSX/._model.skops" that a Mac adds to what it packs
    if not parts or hidden("/".join(parts)):
        return ""
    return checked_name("/".join(parts))


def _too_large(name: str) -> RefusedModel:
    return RefusedModel(
        f"{name} unpacks to more than a model may have (or to {MAX_RATIO} times its size, like a bomb): pack only the "
        f"model's files"
    )


class _Bounded:
    """A stream that hands out a bounded number of bytes."""

    def __init__(self, stream: Any, left: int, name: str) -> None:
        self._stream, self._left, self._name = stream, left, name

    def read(self, size: int) -> bytes:
        data: bytes = self._stream.read(min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise _too_large(self._name)
        return data
