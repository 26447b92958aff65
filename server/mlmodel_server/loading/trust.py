"""The choke point: every artefact is opened by :func:`open_model`, and nothing else in the project parses a pickle.

A model file is a program, or can hold one, and whoever writes it could run anything in the serving pod. How far it is
believed is one of three:

``strict``
    skops and joblib files may name only the globals of an exact list and are read as data (:mod:`.unpickle`); what was
    opened is looked through (:mod:`.audit`); each other format is checked by its own module for parts that do more than
    compute. This contains, it does not prove: the pod's own restrictions are the second wall.
``signed``
    any file whose signature was verified (:mod:`.load`): its author is trusted with the pod.
``unsafe``
    any file at all, for experiments; only where the server was started with ``--allow-unsafe``.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats import table
from mlmodel_server.formats.opened import Artefact, Opened
from mlmodel_server.loading import allowlist
from mlmodel_server.loading.audit import audit
from mlmodel_server.loading.detect import COMPRESSED, Format, detect
from mlmodel_server.loading.unpickle import Machine, Stream

Trust = Literal["strict", "signed", "unsafe"]

MAX_UNPACKED = 4 << 30
"""Bytes that may come out of a compressed file: one that unpacks to more is a bomb, or needs another format."""

MAX_SCHEMA = 256 << 20
"""Bytes of the JSON in a skops file, which takes ten times as much memory."""


def _zlib(stream: BinaryIO) -> Any:
    from joblib.compressor import BinaryZlibFile  # like skops, only for files that need it

    return BinaryZlibFile(stream, "rb")


_OPENERS: dict[bytes, Callable[[BinaryIO], Any]] = dict(
    zip(
        COMPRESSED,
        (
            _zlib,
            lambda stream: gzip.GzipFile(fileobj=stream),
            bz2.BZ2File,
            lzma.LZMAFile,
            lzma.LZMAFile,
        ),
        strict=True,
    )
)
_BOOSTERS = ("lightgbm", "xgboost")  # skops would hand their bytes to the library before they have been looked at
_CALLING_NODES = ("ConstructorFromReduceNode", "MethodNode", "OperatorFuncNode", "PartialNode")


def open_model(artefact: Artefact, format: Format, *, strict: bool = True, threads: int = 1) -> Opened:
    """The model in ``artefact``, whose bytes have been checked against their digests.

    ``strict`` False believes the file: its signature was verified, or the server runs unsafe models. ``threads`` is
    how many the model may use for one prediction. Raises :class:`RefusedModel` with one sentence that names the file
    (never its path) and what in it was refused.
    """
    if format in ("skops", "joblib"):
        table.library("sklearn")  # its module builds on it
    module = table.module_of(format)
    with _explained(artefact.name, format):
        if format in ("skops", "joblib"):
            return module.opened(_estimator(artefact.data, artefact.name, format, strict), format, threads)  # type: ignore[no-any-return]
        if strict:
            module.check(artefact)  # before anything is said of libraries: what is refused needs none
        return module.opened(artefact, threads)  # type: ignore[no-any-return]


def open_artefact(data: bytes, name: str, *, strict: bool = True) -> Any:
    """The estimator in ``data``, the content of a skops or joblib file called ``name``; see :func:`open_model`."""
    format = detect(name, data)
    if format not in ("skops", "joblib"):
        raise RefusedModel(f"{name} is {format}, not skops or joblib: only those hold a scikit-learn estimator")
    with _explained(name, format):
        return _estimator(data, name, format, strict)


@contextmanager
def _explained(name: str, format: Format) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # another version of the library: the self-test judges, not a warning
            yield
    except RefusedModel:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes the parsers raise
        reason = table.without_paths(f"{type(error).__name__}: {error}".splitlines()[0])[:300]
        raise RefusedModel(
            f"{name} cannot be read ({reason}): save it again {table.how_to_save(format)} "
            f"under {table.versions(format)}, as this server has"
        ) from None


def _estimator(data: bytes, name: str, format: Format, strict: bool) -> Any:
    def refuse(what: str) -> RefusedModel:
        return RefusedModel(
            f"refused {what} in {name}: a model file may only name scikit-learn's own estimators and numpy data; "
            f"replace that part of the model by a scikit-learn transformer and save it again"
        )

    if not strict:
        return _believed(data, format)
    estimator = _skops(data, refuse) if format == "skops" else _joblib(data, refuse)
    audit(estimator, refuse)
    return estimator


def _believed(data: bytes, format: Format) -> Any:
    if format == "skops":
        from skops import io as skops

        return skops.loads(data, trusted=skops.get_untrusted_types(data=data))
    import joblib

    return joblib.load(io.BytesIO(data))


def _joblib(data: bytes, refuse: Callable[[str], RefusedModel]) -> Any:
    stream = io.BytesIO(data)
    opener = next((opener for magic, opener in _OPENERS.items() if data.startswith(magic)), None)
    return Machine(Stream(opener(stream) if opener else stream, MAX_UNPACKED), refuse).load()


def _skops(data: bytes, refuse: Callable[[str], RefusedModel]) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED:
            raise ValueError("it unpacks to more than the limit")
        if archive.getinfo("schema.json").file_size > MAX_SCHEMA:
            raise ValueError("it unpacks to more than the limit")
        schema = json.loads(archive.read("schema.json"))
    for node in _nodes(schema):
        if node["__loader__"] in _CALLING_NODES:  # they call what the file names, with what it gives
            raise refuse(f"a call of {node.get('__module__')}.{node.get('__class__')}")
    from skops import io as skops  # costs 20 MB and 0.4 s, so only servers of skops files pay it

    needed = skops.get_untrusted_types(data=data)
    listed = {
        f"{module}.{name}"
        for (module, name), kind in allowlist.kinds().items()
        if kind != "name" and module.partition(".")[0] not in _BOOSTERS
    }
    unknown = [wanted for wanted in needed if wanted not in listed]
    if unknown:
        raise refuse(", ".join(unknown[:5]))
    return skops.loads(data, trusted=needed)


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    stack = [schema]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            if "__loader__" in part:
                yield part
            stack += part.values()
        elif isinstance(part, list):
            stack += part
