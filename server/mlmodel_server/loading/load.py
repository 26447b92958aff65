"""Source to model: digests and signatures first, then the choke point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import get_args

from mlmodel_server import manifest
from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats import table
from mlmodel_server.formats.opened import Artefact, Opened
from mlmodel_server.loading import mlflow
from mlmodel_server.loading.detect import Format, detect
from mlmodel_server.loading.signing import SIGNATURE, verify
from mlmodel_server.loading.sources import Source
from mlmodel_server.loading.trust import Trust, open_model
from mlmodel_server.manifest import MANIFEST, Manifest


@dataclass
class Loaded:
    """A model that is here, whole and as it was meant to be. ``manifest`` is None for what is no package; ``sha256`` is
    of ``mlmodel.json``, of the bare file, or what pinned the directory; ``signed_by`` is the fingerprint of the key
    that signed it, "" if none did; ``compiled`` is the ONNX model that the package brings beside the artefact."""

    format: Format
    manifest: Manifest | None
    sha256: str
    signed_by: str = ""
    compiled: bytes | None = None
    _open: Callable[[], Opened] = field(kw_only=True, repr=False)

    @cached_property
    def opened(self) -> Opened:
        """The artefact, opened at the first use: what is compiled can do without. Raises :class:`RefusedModel`."""
        return self._open()


def load(
    source: Source,
    sha256: str = "",
    format: str = "auto",
    *,
    trust: str = "strict",
    keys: Sequence[bytes] = (),
    allow_unsafe: bool = False,
    threads: int = 1,
) -> Loaded:
    """Read the model of ``source``, and check everything that can be checked before it is opened.

    ``sha256`` (hex, "" = not pinned) is checked on the entry file, and a package's own digests on every file it lists,
    all before anything but ``mlmodel.json`` is parsed. ``format`` other than ``auto`` is what the file must be.
    ``trust`` is one of :data:`~.trust.Trust`: for ``signed`` one of ``keys`` (public, PEM) must have signed all files
    (``model.sig`` beside them), and ``unsafe`` needs ``allow_unsafe``. ``threads`` is how many the model may use for a
    prediction. Raises :class:`RefusedModel` and :class:`~mlmodel_server.errors.UnreachableSource`.
    """
    strict = _strict(trust, keys, allow_unsafe)
    if trust == "signed" and SIGNATURE not in source.names():
        raise RefusedModel(f"the model is not signed: sign it with mlmodel package --sign KEY, which adds {SIGNATURE}")
    entry = source.read(source.entry)
    digest = source.sha256 or manifest.sha256(entry)
    if sha256 and digest != sha256.lower():
        raise RefusedModel(
            f"{source.entry} has sha256 {digest}, but {sha256} was asked for: "
            f"put the digest of the file you mean into spec.model.sha256"
        )
    files = {source.entry: entry}
    signed_by = ""
    if trust == "signed":
        files = {name: source.read(name) for name in source.names() if name != SIGNATURE}
        signed_by = verify(files, source.read(SIGNATURE), keys)
    described = manifest.parse(entry) if source.entry == MANIFEST else None
    if described is not None:
        files = _listed(source, described, files)
        name = described.artefact
    else:
        if detect(source.entry, entry) in ("mlflow", "savedmodel"):
            files = {name: files.get(name) or source.read(name) for name in source.names() if name != SIGNATURE}
        name = source.entry
    found, artefact, flavour = _detected(name, files, format)

    def opened() -> Opened:
        model = open_model(artefact, found, strict=strict, threads=threads)
        return model if flavour is None else replace(model, signature=mlflow.joined(model.signature, flavour))

    compiled = files.get(described.compiled.file) if described and described.compiled else None
    return Loaded(found, described, digest, signed_by, compiled, _open=opened)


def _strict(trust: str, keys: Sequence[bytes], allow_unsafe: bool) -> bool:
    if trust not in get_args(Trust):
        raise RefusedModel(f"trust is {trust[:40]!r}: use {', '.join(get_args(Trust))}")
    if trust == "unsafe" and not allow_unsafe:
        raise RefusedModel(
            "trust is unsafe, which this server was not started for: use strict or signed, "
            "or have the administrator add --allow-unsafe"
        )
    if trust == "signed" and not keys:
        raise RefusedModel("trust is signed, but no public key is known: give one, or have the administrator add it")
    return trust == "strict"


def _listed(source: Source, described: Manifest, read: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a package, each with the digest that its description has."""
    contents = {}
    for file, expected in described.files.items():
        contents[file] = read[file] if file in read else source.read(file)
        found = manifest.sha256(contents[file])
        if found != expected.sha256:
            raise RefusedModel(
                f"{file} has sha256 {found}, but {MANIFEST} lists {expected.sha256}: save the package again"
            )
    return contents


def _detected(name: str, files: Mapping[str, bytes], format: str) -> tuple[Format, Artefact, mlflow.Flavour | None]:
    """What the model that begins with the file ``name`` is: that file alone, or all in its directory."""
    found: Format = detect(name, files[name])
    artefact, flavour = _below(name, files), None
    if found == "mlflow":
        flavour = mlflow.flavour_of(artefact)
        artefact = _below(flavour.path, artefact.files)
        found = detect(artefact.name, artefact.data)
    if found not in table.FAMILIES.get(format, (format,)) and format not in ("auto", "mlflow" if flavour else "auto"):
        raise RefusedModel(f"{name} is {found}, but the format asked for is {format}: set spec.model.format: auto")
    return found, artefact, flavour


def _below(name: str, files: Mapping[str, bytes]) -> Artefact:
    directory, _, last = name.rpartition("/")
    prefix = f"{directory}/" if directory else ""
    return Artefact(last, {path.removeprefix(prefix): data for path, data in files.items() if path.startswith(prefix)})
