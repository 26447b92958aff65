"""Source to model: digests first, then the choke point."""

from __future__ import annotations

from dataclasses import dataclass

from .. import manifest
from ..errors import RefusedModel
from ..formats.opened import Opened
from ..manifest import MANIFEST, Manifest
from .sources import Source
from .trust import format_of, open_artefact


@dataclass(frozen=True)
class Loaded:
    """An opened model. ``manifest`` is None for a bare file; ``sha256`` is of ``mlmodel.json`` or of that file."""

    opened: Opened
    manifest: Manifest | None
    sha256: str


def load(source: Source, sha256: str = "", format: str = "auto") -> Loaded:
    """Open the model of ``source``.

    ``sha256`` (hex, "" = not pinned) is checked on the entry file, and a package's own digests on every file it lists,
    all before anything but ``mlmodel.json`` is parsed. ``format`` other than ``auto`` is what the file must be.
    """
    entry = source.read(source.entry)
    digest = manifest.sha256(entry)
    if sha256 and digest != sha256.lower():
        raise RefusedModel(
            f"{source.entry} has sha256 {digest}, but {sha256} was asked for: "
            f"put the digest of the file you mean into spec.model.sha256"
        )
    described, name, artefact = None, source.entry, entry
    if source.entry == MANIFEST:
        described = manifest.parse(entry)
        contents = {}
        for file, expected in described.files.items():
            contents[file] = source.read(file)
            found = manifest.sha256(contents[file])
            if found != expected.sha256:
                raise RefusedModel(
                    f"{file} has sha256 {found}, but {MANIFEST} lists {expected.sha256}: save the package again"
                )
        name, artefact = described.artefact, contents[described.artefact]
    found_format = format_of(artefact)
    if format not in ("auto", found_format):
        raise RefusedModel(
            f"{name} is {found_format}, but the format asked for is {format}: set spec.model.format: auto"
        )
    from ..formats import sklearn

    return Loaded(sklearn.opened(open_artefact(artefact, name), found_format), described, digest)
