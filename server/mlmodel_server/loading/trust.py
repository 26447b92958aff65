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
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any, BinaryIO, Literal

from mlmodel_server import registry
from mlmodel_server.errors import OR_SIGN, RefusedModel, Unreadable
from mlmodel_server.formats import table
from mlmodel_server.formats.opened import Artefact, Opened, max_unpacked, parts
from mlmodel_server.loading import own_code, versions
from mlmodel_server.loading.audit import audit
from mlmodel_server.loading.detect import COMPRESSED, Format, detect
from mlmodel_server.loading.rebuild import PARTIAL, VALIDATION
from mlmodel_server.loading.unpickle import OLD_PROTOCOL, TOO_MUCH, Interpreter, Stream
from mlmodel_server.tensors import TensorSpec
from mlmodel_server.texts import reason_of

Trust = Literal["strict", "signed", "unsafe"]

_SEARCHED = 16 << 20
"""Bytes of a rejected file in which its version is searched."""

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
_NAMES = re.compile(r"[\w., '=()<>]{1,300}", re.ASCII)
"""What may be refused by name: the names of Python objects. Anything else is content of the file."""

_INSTANCE_NODES = ("ObjectNode", "TreeNode", "LossNode", "SparseMatrixNode")
_NODES = frozenset({
    *("BytearrayNode", "BytesNode", "CachedNode", "DTypeNode", "DefaultDictNode", "DictNode", "FunctionNode"),
    *("JsonNode", "ListNode", "LossNode", "MaskedArrayNode", "NdArrayNode", "ObjectNode", "RandomGeneratorNode"),
    *("RandomStateNode", "SetNode", "SliceNode", "SparseMatrixNode", "TreeNode", "TupleNode", "TypeNode"),
    "_DictWithDeprecatedKeysNode",
})  # fmt: skip
"""Kinds of parts of a skops file. The others call what the file names, with its arguments."""

_ALSO = (PARTIAL, VALIDATION, "collections.OrderedDict")
"""What a skops file may contain besides: the audit checks how a model uses the first two; LightGBM's scores are in a
dictionary of the third."""

_BOOSTERS = ("lightgbm.basic.Booster", "xgboost.core.Booster")


def open_model(
    artefact: Artefact,
    format: Format,
    *,
    strict: bool = True,
    threads: int = 1,
    alone: bool = False,
    frame: Sequence[TensorSpec] = (),
    code: Mapping[str, own_code.Module] | None = None,
) -> Opened:
    """Open the model in ``artefact``, whose bytes have been checked against their digests.

    Without ``strict`` the file may run code: its signature was verified, or the server allows unsafe models. ``code``
    are the modules of a package that it may use then; None for what this process itself has imported. ``threads`` is
    the number of threads of one prediction, ``frame`` the columns of the DataFrame that a scikit-learn model gets.
    ``alone`` promises that this process opens no other model. Raise :class:`RefusedModel` with one sentence that names
    the file (never its path) and the rejected part.
    """
    if format in ("skops", "joblib"):
        if alone:
            table.import_alone(format)
        else:
            table.library("sklearn")  # which the module imports
    module = table.module_of(format)
    with _explain_errors(artefact.name, format, artefact.data) as warned:
        if format in ("skops", "joblib"):
            estimator = _estimator(artefact.data, artefact.name, format, strict, code)
            opened = module.opened(estimator, format, threads, frame)
            return replace(opened, saved_with=_saved_with(warned))  # type: ignore[no-any-return]
        if strict:  # before an error about a missing library: a rejected file does not need it
            # Formats whose parts are written anew return what was checked, so that nothing else is opened.
            artefact = module.check(artefact) or artefact
        if alone:
            table.import_alone(format)
        return module.opened(artefact, threads)  # type: ignore[no-any-return]


def open_artefact(
    data: bytes, name: str, *, strict: bool = True, code: Mapping[str, own_code.Module] | None = None
) -> Any:
    """Open the estimator in ``data``, the content of a skops or joblib file called ``name``; see :func:`open_model`."""
    format = detect(name, data)
    if format not in ("skops", "joblib"):
        raise RefusedModel(f"{name} is {format}: a scikit-learn estimator must be in a skops or joblib file")
    with _explain_errors(name, format, data):
        return _estimator(data, name, format, strict, code)


@contextmanager
def _explain_errors(name: str, format: Format, data: bytes) -> Iterator[list[warnings.WarningMessage]]:
    """Turn any error into one sentence, and collect the warnings about other versions of the library."""
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield warned
    except RefusedModel as error:
        if saved := _other_version(format, data):
            raise RefusedModel(f"{error}; {versions.advice(saved)}") from None
        raise
    except Exception as error:  # a damaged or hostile file makes the parsers raise anything
        if saved := _other_version(format, data):
            raise RefusedModel(f"{name} cannot be read ({reason_of(error)}): {versions.advice(saved)}") from None
        raise RefusedModel(
            f"{name} cannot be read ({reason_of(error)}): copy it again, or save it again "
            f"{table.how_to_save(format)} under {table.versions(format)}, which this server has"
        ) from None


def _other_version(format: Format, data: bytes) -> str:
    """Return the version of scikit-learn that saved a rejected file; "" if it is not another than the installed one."""
    try:
        if format == "skops":
            with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open("schema.json") as schema:
                return versions.saved_with(schema.read(_SEARCHED))
        return versions.saved_with(_unpacked(data).read(_SEARCHED)) if format == "joblib" else ""
    except Exception:  # it is damaged, which the caller reports
        return ""


def _unpacked(data: bytes) -> Any:
    stream = io.BytesIO(data)
    opener = next((opener for magic, opener in _OPENERS.items() if data.startswith(magic)), None)
    return opener(stream) if opener else stream


def _saved_with(warned: list[warnings.WarningMessage]) -> dict[str, str]:
    """Return the version of scikit-learn that saved the model, if it is another one than that of this server."""
    versions = [getattr(warning.message, "original_sklearn_version", "") for warning in warned]
    return next(({"scikit-learn": str(version)[:40]} for version in versions if version), {})


def _estimator(
    data: bytes, name: str, format: Format, strict: bool, code: Mapping[str, own_code.Module] | None = None
) -> Any:
    def refuse(what: str) -> RefusedModel:
        named = what if _NAMES.fullmatch(what) else "a name that is not one of Python"
        return RefusedModel(f"refused {named} in {name}: {_instead(named)}")

    if not strict:
        return _open_trusted(data, name, format, code)
    estimator = _skops(data, refuse) if format == "skops" else _joblib(data, refuse)
    audit(estimator, refuse)
    return estimator


def _instead(refused: str) -> str:
    """Return what to do about the refused object, whose name is the last word."""
    if refused in OLD_PROTOCOL:
        return (
            "the file is a pickle of protocol 0 or 1, which the server does not read: save the model again with "
            "joblib.dump(model, FILE)"
        )
    module = refused.split(",")[0].rpartition(" ")[2].partition(".")[0]
    if module == "__main__":
        return f"only the script or notebook that defined it has it: {own_code.MOVE}"
    if "." in refused and module.isidentifier() and not own_code.is_library(module):
        return f"in strict mode no code of your own runs: {own_code.HOW.format(module=module)}"
    return (
        "in strict mode a model may contain only numpy data and the estimators of scikit-learn, XGBoost and LightGBM "
        "that the server can check; replace that part by a scikit-learn transformer and save the model again, "
        f"{OR_SIGN}"
    )


def _open_trusted(data: bytes, name: str, format: Format, code: Mapping[str, own_code.Module] | None) -> Any:
    with nullcontext() if code is None else own_code.importable(code):
        if format == "skops":
            from skops import io as skops

            return skops.loads(data, trusted=skops.get_untrusted_types(data=data))
        import joblib

        try:
            return joblib.load(io.BytesIO(data))
        except AttributeError as error:
            if f"on {sys.modules['__main__']!r}" in str(error):  # "Can't get attribute 'Clip' on <module …>"
                raise RefusedModel(
                    f"{name} has a class or function of __main__, which only the script or notebook that defined it "
                    f"has: {own_code.MOVE}"
                ) from None
            raise


def _joblib(data: bytes, refuse: Callable[[str], RefusedModel]) -> Any:
    return Interpreter(Stream(_unpacked(data), max_unpacked(len(data))), refuse).load()


def _skops(data: bytes, refuse: Callable[[str], RefusedModel]) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if sizes.get("schema.json", 0) > min(MAX_SCHEMA, max_unpacked(len(data))):
            raise Unreadable(TOO_MUCH)
        schema = json.loads(archive.read("schema.json"))
    nodes = list(_nodes(schema))
    # Each part that names a file reads it again.
    if sum(sizes.get(str(node.get("file")), 0) for node in nodes) > max_unpacked(len(data)):
        raise Unreadable(TOO_MUCH)
    for node in nodes:
        if node["__loader__"] not in _NODES and not _is_validation(node):
            raise refuse(f"a call to {node.get('__module__')}.{node.get('__class__')}")
        if node["__loader__"] in _INSTANCE_NODES and _name(node) not in _listed():
            raise refuse(_name(node))
        if node["__loader__"] != "ObjectNode" and _name(node) in _BOOSTERS:  # which alone is checked before it is read
            raise refuse(f"a call to {_name(node)}")
    from mlmodel_server.loading import checked_skops  # takes 20 MB and 0.4 s, so only servers of skops files import it

    needed = checked_skops.untrusted(data)
    unknown = [name for name in needed if name not in _listed() and name not in _ALSO]
    if unknown:
        kinds = registry.kinds()
        if all(kinds.get((name.rpartition(".")[0], name.rpartition(".")[2])) == "name" for name in unknown):
            # A function that the model keeps from its training: a pickle holds its name, and skops the function.
            raise RefusedModel(f"{unknown[0]} is not served from a skops file: save the model with joblib.dump")
        raise refuse(", ".join(unknown[:5]))
    return checked_skops.loads(data, needed)


@cache
def _listed() -> frozenset[str]:
    """Return the names of what a skops file may contain."""
    values = (f"{module}.{name}" for (module, name), kind in registry.kinds().items() if kind == "value")
    return frozenset((*values, *registry.entries()))


def _name(node: dict[str, Any]) -> str:
    module = str(node.get("__module__"))
    return f"{registry.MOVED.get(module, module)}.{node.get('__class__')}"


def _is_validation(node: dict[str, Any]) -> bool:
    """Whether a node is a partial of the one function that may be in a partial."""
    function = node["content"].get("func") if isinstance(node.get("content"), dict) else None
    if node["__loader__"] != "PartialNode" or not isinstance(function, dict):
        return False
    name = f"{function.get('__module__')}.{function.get('__class__')}"
    return function.get("__loader__") == "FunctionNode" and (
        f"{node.get('__module__')}.{node.get('__class__')}",
        name,
    ) == (PARTIAL, VALIDATION)


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    return (part for part in parts(schema) if isinstance(part, dict) and "__loader__" in part)
