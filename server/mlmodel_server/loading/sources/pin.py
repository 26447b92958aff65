"""Sources whose digest is not that of one file: archives, directories without ``mlmodel.json``, and ConfigMaps that the
operator has pinned."""

from __future__ import annotations

from collections.abc import Mapping

from mlmodel_server.errors import RefusedModel, UnreachableSource
from mlmodel_server.loading.archive import is_archive, unpack
from mlmodel_server.loading.sources.entry import HEAD_BYTES, MLFLOW, SAVED_MODEL, entry_of
from mlmodel_server.loading.sources.source import Memory, Source
from mlmodel_server.manifest import sha256 as digest_of


def pinned(source: Source, sha256: str) -> Source:
    """Return ``source``, or its files in memory if it is an archive or a bare directory.

    For these, ``sha256`` (hex, "" = not pinned) is the digest of the archive or of the directory (see
    :func:`directory_digest`). It is checked before anything is unpacked: raise :class:`RefusedModel` if it differs.
    """
    if is_archive(source.entry):
        data = source.read(source.entry)
        digest = check_digest(digest_of(data), sha256, source.entry)
        return in_memory(unpack(data, source.entry), source.entry, digest)
    if source.entry in (MLFLOW, SAVED_MODEL):
        files = {name: source.read(name) for name in source.names()}
        digest = check_digest(directory_digest(files), sha256, f"the directory with {source.entry}")
        return Memory(files, source.entry, digest)
    return source


def unchanged(source: Source, digest: str, uri: str) -> Memory:
    """Return the files of ``source`` in memory; raise :class:`RefusedModel` if ``digest`` (hex) is not that of all of
    them (see :func:`directory_digest`). The operator has computed it when the revision started."""
    files = {name: source.read(name) for name in source.names()}
    found = directory_digest(files)
    if found != digest:
        what = uri.replace("configmap://", "ConfigMap ")
        raise RefusedModel(
            f"{what} was changed after this revision started: give the changed model a new name and put it into "
            f"spec.model.uri, set spec.model.sha256 to the changed model's digest, or restore the former content "
            f"(its files have sha256 {found[:12]}, at the start {digest[:12]})"
        )
    return Memory(files, source.entry)


def in_memory(files: Mapping[str, bytes], whole: str, sha256: str = "") -> Memory:
    """Return the files of ``whole``. Raise :class:`RefusedModel` if they have no model: none can be added later."""
    try:
        return Memory(files, entry_of(sorted(files), lambda name: files[name][:HEAD_BYTES]), sha256)
    except UnreachableSource:
        raise RefusedModel(f"{whole} contains no model: pack the model's directory again") from None


def directory_digest(files: Mapping[str, bytes]) -> str:
    """Return one digest (hex) of many files. On the command line, in the directory (hidden files are ignored)::

    find . -type f -not -path '*/.*' -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum
    """
    return digest_of_digests({name: digest_of(data) for name, data in files.items()})


def digest_of_digests(digests: Mapping[str, str]) -> str:
    """Return :func:`directory_digest` of files whose own digests (hex) these are."""
    return digest_of("".join(f"{digests[name]}  {name}\n" for name in sorted(digests, key=str.encode)).encode())


def check_digest(digest: str, sha256: str, what: str) -> str:
    """Return ``digest`` (hex), that of ``what``; raise :class:`RefusedModel` if ``sha256`` requires another."""
    if sha256 and digest != sha256.lower():
        raise RefusedModel(
            f"{what} has sha256 {digest}, but {sha256} is required: "
            f"put the digest of the right one into spec.model.sha256 (--sha256)"
        )
    return digest
