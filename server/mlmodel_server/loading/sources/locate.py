"""Find the source of a URI."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlmodel_server.errors import RefusedModel, UnreachableSource
from mlmodel_server.loading.sources.fetched import fetched
from mlmodel_server.loading.sources.local import Local
from mlmodel_server.loading.sources.pin import pinned, unchanged
from mlmodel_server.loading.sources.source import Source
from mlmodel_server.loading.uris import MOUNTED, REMOTE, checked_uri


def locate(uri: str, path: Path | None, sha256: str, files_sha256: str = "", fetched_to: Path | None = None) -> Source:
    """Return the source that ``uri`` names; ``path`` is where the operator mounted it, if it did, and ``fetched_to``
    the directory to which :func:`~.fetched.fetch` has fetched it, if it has.

    A source over a network requires ``sha256`` (hex, "" = not pinned). The digest of an archive or of a whole directory
    is checked here; the caller checks that of a package or a bare file. ``files_sha256`` (hex, "" = not pinned) is the
    digest of all files, which the operator has computed; it is checked here.
    """
    source = _source(uri, path, sha256) if fetched_to is None else fetched(fetched_to)
    return pinned(unchanged(source, files_sha256, uri) if files_sha256 else source, sha256)


def remote(uri: str, sha256: str) -> Source:
    """Return the source of a URI for which :func:`is_remote` is true."""
    return _remote(checked_uri(uri).partition("://")[0], uri, sha256)


def _source(uri: str, path: Path | None, sha256: str) -> Source:
    scheme, separator, _ = uri.partition("://")
    if scheme in (*MOUNTED, *REMOTE):
        checked_uri(uri)
    if not separator and os.path.exists(uri):
        return Local(Path(uri))
    if scheme in MOUNTED and path is None:
        raise RefusedModel(f"{scheme}:// requires --path, the directory at which the source is mounted")
    if path is not None and scheme in (*MOUNTED, "oci"):
        if not path.exists():
            raise UnreachableSource(
                "the model files do not exist yet: check that the ConfigMap, claim or image contains them, and --path"
            )
        return Local(path)
    if scheme == "file":
        return _file(uri)
    if scheme in REMOTE:
        return _remote(scheme, uri, sha256)
    if not separator:
        raise RefusedModel(
            f"{_without_secrets(uri)} does not exist: give the path of a model file or of the directory of a package, "
            "or an address such as s3://BUCKET/PATH"
        )
    raise RefusedModel(
        f"{_without_secrets(uri)} is not a model source: use builtin://, configmap://, pvc://, https://, s3://, gs://, "
        f"az:// or oci://, or on this machine the path of an existing file or directory"
    )


def _file(uri: str) -> Local:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise RefusedModel("the file:// URI has no absolute path: give three slashes, file:///home/me/model.joblib")
    return Local(Path(unquote(parts.path)))


def _remote(scheme: str, uri: str, sha256: str) -> Source:
    """Import the module of a remote source only when it is used, so that other servers do not load it."""
    if not sha256 and not (scheme == "oci" and "@sha256:" in uri):
        article = "an" if scheme in ("https", "s3", "az", "oci") else "a"
        or_pinned = ", or the digest in the reference: oci://HOST/NAME@sha256:..." if scheme == "oci" else ""
        raise RefusedModel(
            f"{article} {scheme}:// model requires its digest: give --sha256 (spec.model.sha256){or_pinned}"
        )
    if scheme == "https":
        from mlmodel_server.loading.sources.https import Https

        return Https(uri)
    if scheme == "oci":
        from mlmodel_server.loading.sources.oci import pull

        return pull(uri)
    from mlmodel_server.loading.sources.objects import Objects

    return Objects(uri)


def _without_secrets(uri: str) -> str:
    """Return the URI for a message, without what may be a password (before "@") or a token (after "?")."""
    scheme, separator, rest = uri.partition("?")[0].partition("://")
    return repr(f"{scheme}{separator}{rest.rpartition('@')[2]}"[:80])
