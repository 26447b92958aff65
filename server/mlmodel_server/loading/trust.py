"""The choke point: :func:`open_artefact` is the only place in the project that parses a model file.

A pickle (joblib) is a program, and whoever writes one could run anything in the serving pod. Here it may only name the
globals of an exact list (see :mod:`.allowlist`); skops files are audited against skops' own trusted types and the same
list. This contains, it does not prove: the pod's own restrictions are the second wall.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from typing import Any, BinaryIO, Literal

from joblib.compressor import BinaryZlibFile
from joblib.numpy_pickle import NumpyUnpickler

from ..errors import RefusedModel
from . import allowlist

Format = Literal["skops", "joblib"]

MAX_UNPACKED = 4 << 30
"""Bytes that may come out of a compressed file: one that unpacks to more is a bomb, or needs another format."""

_ZIP_MAGIC = b"PK\x03\x04"
_OPENERS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x78": lambda stream: BinaryZlibFile(stream, "rb"),
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZ": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"\x5d\x00": lzma.LZMAFile,
}

allowed = cache(allowlist.read)


def format_of(data: bytes) -> Format:
    """The format by content: a zip archive is skops, everything else is tried as joblib."""
    return "skops" if data.startswith(_ZIP_MAGIC) else "joblib"


def open_artefact(data: bytes, name: str) -> Any:
    """The estimator in ``data``, the content of a ``.skops`` or ``.joblib`` file called ``name``.

    The bytes must already have been checked against their digest. Raises :class:`RefusedModel` with one sentence that
    names the file (never its path) and the global or type that was refused.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # another scikit-learn version: the self-test judges, not a warning
            return _open_skops(data, name) if format_of(data) == "skops" else _open_joblib(data, name)
    except RefusedModel:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes the parsers raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise RefusedModel(
            f"{name} cannot be read ({reason}): save it again with joblib.dump or skops.io.dump "
            f"under {_versions()}, the versions of this server"
        ) from None


def _versions() -> str:
    from importlib.metadata import version

    return f"scikit-learn {version('scikit-learn')} and numpy {version('numpy')}"


def _refuse(what: str, name: str) -> RefusedModel:
    return RefusedModel(
        f"refused {what} in {name}: a model file may only name scikit-learn's own estimators and numpy data; "
        f"replace that part of the model by a scikit-learn transformer and save it again"
    )


class _BoundedReader:
    """The part of a file that the unpickler uses (it reads from pure Python), with a cap on what it hands out."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self._left = stream, limit

    def _take(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("it unpacks to more than the limit")
        return data

    def read(self, size: int = -1) -> bytes:
        return self._take(self._stream.read(size if 0 <= size <= self._left else self._left + 1))

    def readline(self) -> bytes:
        return self._take(self._stream.readline(self._left + 1))


class _StrictUnpickler(NumpyUnpickler):  # type: ignore[misc]  # joblib has no types
    """joblib's unpickler with an exact list of globals.

    joblib >= 1.6 sends the nested pickle of an object array through this ``find_class`` as well (GHSA-m62q-453p-gv66).
    The wrappers of joblib < 0.10, which open further files with ``allow_pickle``, are not on the list.
    """

    def __init__(self, stream: _BoundedReader, name: str) -> None:
        super().__init__("", stream, ensure_native_byte_order=True)
        self._artefact = name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in allowed():
            raise _refuse(f"{module}.{name}", self._artefact)
        return super().find_class(module, name)

    def persistent_load(self, _pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def _open_joblib(data: bytes, name: str) -> Any:
    stream = io.BytesIO(data)
    opener = next((opener for magic, opener in _OPENERS.items() if data.startswith(magic)), None)
    return _StrictUnpickler(_BoundedReader(opener(stream) if opener else stream, MAX_UNPACKED), name).load()


def _open_skops(data: bytes, name: str) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED:
            raise ValueError("it unpacks to more than the limit")
    from skops import io as skops  # costs 20 MB and 0.4 s, so only servers of skops files pay it

    needed = skops.get_untrusted_types(data=data)
    listed = {f"{module}.{attribute}" for module, attribute in allowed()}
    unknown = [wanted for wanted in needed if wanted not in listed]
    if unknown:
        raise _refuse(", ".join(unknown[:5]), name)
    return skops.loads(data, trusted=needed)
