"""Load a model from a source: check digests and signature, then open it with :mod:`.trust`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import get_args

from mlmodel_server import manifest
from mlmodel_server.errors import SIGN, SIGNING, RefusedModel
from mlmodel_server.formats import table
from mlmodel_server.formats.opened import Artefact, Opened, UnplacedCategories
from mlmodel_server.loading import mlflow, own_code
from mlmodel_server.loading.detect import Format, detect
from mlmodel_server.loading.signing import SIGNATURE, verify
from mlmodel_server.loading.sources import Memory, Once, Source
from mlmodel_server.loading.sources.pin import check_digest
from mlmodel_server.loading.trust import Trust, open_model
from mlmodel_server.manifest import MANIFEST, Manifest


@dataclass
class Loaded:
    """A model whose digests and signature were checked. ``manifest`` is None if it is not a package; ``sha256`` is the
    digest of ``mlmodel.json``, of the bare file, or of the archive or directory; ``signed_by`` is the fingerprint of
    the key that signed it, or ""; ``compiled`` is the ONNX model that the package contains beside the artefact."""

    format: Format
    manifest: Manifest | None
    sha256: str
    signed_by: str = ""
    compiled: bytes | None = None
    _open: Callable[[], Opened] = field(kw_only=True, repr=False)

    @cached_property
    def opened(self) -> Opened:
        """The artefact, opened on first use: a compiled model may not need it. Raises :class:`RefusedModel`."""
        return self._open()


def load(
    source: Source,
    sha256: str = "",
    format: str = "auto",
    *,
    trust: str = "strict",
    keys: Sequence[bytes] = (),
    allow_unsafe: bool = False,
    name: str = "",
    threads: int = 1,
    alone: bool = False,
) -> Loaded:
    """Read the model of ``source``, and check all that can be checked before it is opened.

    ``sha256`` (hex, "" = not pinned) is checked on the entry file, and a package's own digests on every file that it
    lists, all before anything but ``mlmodel.json`` is parsed. ``format``, unless ``auto``, is the format that the file
    must have. ``trust`` is one of :data:`~.trust.Trust`: ``signed`` requires that one of ``keys`` (public, PEM) signed
    all files (``model.sig`` beside them) as the model ``name``, ``unsafe`` requires ``allow_unsafe``. ``threads`` is
    the number of threads of one prediction. ``alone`` promises that this process opens no other model, so that it
    imports less. Each file is read once: the bytes that were checked are those that are opened. Raise
    :class:`RefusedModel` or :class:`~mlmodel_server.errors.UnreachableSource`.
    """
    strict = _strict(trust, keys, allow_unsafe)
    source = Once(source)
    if trust == "signed" and SIGNATURE not in source.names():
        raise RefusedModel(
            f"the model is not signed: put it alone into a directory DIR, and type "
            f"{SIGN.replace('NAME', name or 'NAME')}, which adds {SIGNATURE}"
        )
    entry = source.read(source.entry)
    digest = source.sha256 or manifest.sha256(entry)
    check_digest(digest, sha256, source.entry)
    files = {source.entry: entry}
    signed_by = ""
    if trust == "signed":
        files = {file: source.read(file) for file in source.names() if file != SIGNATURE}
        signed_by = verify(files, source.read(SIGNATURE), keys, name)
        source = Memory(files, source.entry, source.sha256)  # from here on, no file that is not signed can be read
    described = manifest.parse(entry) if source.entry == MANIFEST else None
    if described is not None:
        files = _listed_files(source, described)
    elif detect(source.entry, entry) in ("mlflow", "savedmodel"):
        files = {file: source.read(file) for file in source.names() if file != SIGNATURE}
    code = _code(files, strict) if described is not None else {}
    main = source.entry if described is None else described.artefact
    detected, artefact, flavour = _identify(main, files, format)

    frame = described.signature.inputs if described and described.signature.frame else ()

    def open_it() -> Opened:
        model = open_model(artefact, detected, strict=strict, threads=threads, alone=alone, frame=frame, code=code)
        if model.categories:
            model = placed(model.categories, described.categories if described else None)
        if flavour is None:
            return model
        return mlflow.chosen(replace(model, signature=mlflow.joined(model.signature, flavour)), flavour)

    compiled = files.get(described.compiled.file) if described and described.compiled else None
    return Loaded(detected, described, digest, signed_by, compiled, _open=open_it)


def placed(categories: UnplacedCategories, names: Sequence[str] | None) -> Opened:
    """Return the model with its categories in the columns with these names, which a package lists."""
    if not names:
        raise RefusedModel(
            f"the file does not say which {len(categories.lists)} of its columns have the categories that it lists: "
            "write a package with package.save(model, X), with the DataFrame of its training as X"
        )
    unknown = [name for name in names if name not in categories.names]
    if unknown:
        raise RefusedModel(
            f"the model has no column {unknown[0][:40]!r}, which its package lists: save the package again"
        )
    return categories.placed(sorted(categories.names.index(name) for name in names))


def _strict(trust: str, keys: Sequence[bytes], allow_unsafe: bool) -> bool:
    if trust not in get_args(Trust):
        raise RefusedModel(f"trust is {trust[:40]!r}: use {', '.join(get_args(Trust))}")
    if trust == "unsafe" and not allow_unsafe:
        raise RefusedModel(
            "trust is unsafe, which this server does not allow: use strict or signed, "
            "or add --allow-unsafe (in a cluster, an administrator does)"
        )
    if trust == "signed" and not keys:
        raise RefusedModel(
            "trust is signed, but the server has no public key: give --signing-keys a file "
            "with PEM public keys (in a cluster, an administrator does)"
        )
    return trust == "strict"


def _listed_files(source: Source, described: Manifest) -> dict[str, bytes]:
    """Return the files of a package, each with the digest that its description lists."""
    contents = {}
    for file, expected in described.files.items():
        contents[file] = source.read(file)
        digest = manifest.sha256(contents[file])
        if digest != expected.sha256:
            raise manifest.differs(file, digest, expected.sha256)
    return contents


def _code(files: Mapping[str, bytes], strict: bool) -> dict[str, own_code.Module]:
    """Return the modules of a package with code. Raise :class:`RefusedModel` if they may not run."""
    modules = own_code.modules_of(files)
    if modules and strict:
        raise RefusedModel(
            f"the package has Python code ({', '.join(own_code.tops(files))[:200]}), which strict never runs: {SIGNING}"
        )
    return modules


def _identify(name: str, files: Mapping[str, bytes], format: str) -> tuple[Format, Artefact, mlflow.Flavour | None]:
    """Return format, artefact and MLflow flavour of the model whose entry file is ``name``."""
    detected: Format = detect(name, files[name])
    artefact, flavour = _artefact(name, files), None
    if detected == "mlflow":
        flavour = mlflow.flavour_of(artefact)
        artefact = _artefact(flavour.path, artefact.files)
        detected = detect(artefact.name, artefact.data)
    accepted = table.FAMILIES.get(format, (format,))
    if detected not in accepted and format not in ("auto", "mlflow" if flavour else "auto"):
        raise RefusedModel(
            f"{name} is {detected}, but the required format is {format}: set spec.model.format (--format) to auto"
        )
    return detected, artefact, flavour


def _artefact(name: str, files: Mapping[str, bytes]) -> Artefact:
    """Return the file ``name`` with all others in its directory."""
    directory, _, last = name.rpartition("/")
    prefix = f"{directory}/" if directory else ""
    return Artefact(last, {path.removeprefix(prefix): data for path, data in files.items() if path.startswith(prefix)})
