"""Open artefacts. :func:`open_model` opens every artefact, and no other code in the project parses a pickle.

A model file is a program, or can contain one, so its author could run any code in the pod. There are three levels of
trust:

``strict`` skops and joblib files may name only the globals of an exact list and are read as data (:mod:`.unpickle`);
the opened model is checked (:mod:`.audit`). Each other format's module rejects parts that do more than compute. This
contains a hostile file; it does not prove it harmless. The restrictions of the pod are the second barrier. ``signed``
any file whose signature was verified (:mod:`.load`): its author may run code in the pod. ``unsafe`` any file, for
experiments; only with ``--allow-unsafe``.
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
from mlmodel_server.loading.unpickle import Interpreter, Stream

Trust = Literal["strict", "signed", "unsafe"]

MAX_UNPACKED = 4 << 30
"""Maximum bytes that a compressed file may unpack to: more is a bomb, or needs another format."""

MAX_SCHEMA = 256 << 20
"""Maximum bytes of the JSON in a skops file, which takes ten times as much memory."""


def _zlib(stream: BinaryIO) -> Any:
    from joblib.compressor import BinaryZlibFile  # imported only for files that need it, like skops

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
_BOOSTERS = ("lightgbm", "xgboost")  # skops would pass their bytes to the library before they are checked
_CALLING_NODES = ("ConstructorFromReduceNode", "MethodNode", "OperatorFuncNode", "PartialNode")


def open_model(artefact: Artefact, format: Format, *, strict: bool = True, threads: int = 1) -> Opened:
    """Open the model in ``artefact``, whose bytes have been checked against their digests.

    Without ``strict`` the file may run code: its signature was verified, or the server allows unsafe models.
    ``threads`` is the number of threads of one prediction. Raise :class:`RefusedModel` with one sentence that names the
    file (never its path) and the rejected part.
    """
    if format in ("skops", "joblib"):
        table.library("sklearn")  # which the module imports
    module = table.module_of(format)
    with _explain_errors(artefact.name, format):
        if format in ("skops", "joblib"):
            return module.opened(_estimator(artefact.data, artefact.name, format, strict), format, threads)  # type: ignore[no-any-return]
        if strict:
            artefact = module.check(artefact) or artefact  # what was checked is what is opened
        return module.opened(artefact, threads)  # type: ignore[no-any-return]


def open_artefact(data: bytes, name: str, *, strict: bool = True) -> Any:
    """Open the estimator in ``data``, the content of a skops or joblib file called ``name``; see :func:`open_model`."""
    format = detect(name, data)
    if format not in ("skops", "joblib"):
        raise RefusedModel(f"{name} is {format}: a scikit-learn estimator must be in a skops or joblib file")
    with _explain_errors(name, format):
        return _estimator(data, name, format, strict)


@contextmanager
def _explain_errors(name: str, format: Format) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other versions of the library: the self-test decides
            yield
    except RefusedModel:
        raise
    except Exception as error:  # a damaged or hostile file makes the parsers raise anything
        reason = table.without_paths(f"{type(error).__name__}: {error}".splitlines()[0])[:300]
        raise RefusedModel(
            f"{name} cannot be read ({reason}): save it again {table.how_to_save(format)} "
            f"under {table.versions(format)}, which this server has"
        ) from None


def _estimator(data: bytes, name: str, format: Format, strict: bool) -> Any:
    def refuse(what: str) -> RefusedModel:
        return RefusedModel(
            f"refused {what} in {name}: a model file may only name scikit-learn's own estimators and numpy data; "
            f"replace that part of the model by a scikit-learn transformer and save it again"
        )

    if not strict:
        return _open_trusted(data, format)
    estimator = _skops(data, refuse) if format == "skops" else _joblib(data, refuse)
    audit(estimator, refuse)
    return estimator


def _open_trusted(data: bytes, format: Format) -> Any:
    if format == "skops":
        from skops import io as skops

        return skops.loads(data, trusted=skops.get_untrusted_types(data=data))
    import joblib

    return joblib.load(io.BytesIO(data))


def _joblib(data: bytes, refuse: Callable[[str], RefusedModel]) -> Any:
    stream = io.BytesIO(data)
    opener = next((opener for magic, opener in _OPENERS.items() if data.startswith(magic)), None)
    return Interpreter(Stream(opener(stream) if opener else stream, MAX_UNPACKED), refuse).load()


def _skops(data: bytes, refuse: Callable[[str], RefusedModel]) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED:
            raise ValueError("it unpacks to more than the limit")
        if archive.getinfo("schema.json").file_size > MAX_SCHEMA:
            raise ValueError("it unpacks to more than the limit")
        schema = json.loads(archive.read("schema.json"))
    for node in _nodes(schema):
        if node["__loader__"] in _CALLING_NODES:  # they call what the file names, with its arguments
            raise refuse(f"a call to {node.get('__module__')}.{node.get('__class__')}")
    from skops import io as skops  # takes 20 MB and 0.4 s, so only servers of skops files import it

    needed = skops.get_untrusted_types(data=data)
    listed = {
        f"{module}.{name}"
        for (module, name), kind in allowlist.kinds().items()
        if kind != "name" and module.partition(".")[0] not in _BOOSTERS
    }
    unknown = [name for name in needed if name not in listed]
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
