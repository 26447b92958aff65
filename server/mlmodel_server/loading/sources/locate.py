"""From a URI to its source."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlmodel_server.errors import RefusedModel
from mlmodel_server.loading.sources.local import Local
from mlmodel_server.loading.sources.pin import pinned
from mlmodel_server.loading.sources.source import Source

MOUNTED = ("configmap", "pvc")
REMOTE = ("https", "s3", "gs", "az", "oci")


def locate(uri: str, path: Path | None, sha256: str) -> Source:
    """The source that ``uri`` names; for what the operator mounted, ``path`` is where.

    ``sha256`` (hex, "" = not pinned) must be given for what comes over a network. It is checked here if it is of an
    archive or of a whole directory; of a package and of a bare file it is left to who reads them.
    """
    return pinned(_source(uri, path, sha256), sha256)


def _source(uri: str, path: Path | None, sha256: str) -> Source:
    scheme, separator, _ = uri.partition("://")
    if not separator and os.path.exists(uri):
        return Local(Path(uri))
    if scheme in MOUNTED and path is None:
        raise RefusedModel(f"{scheme}:// needs --path, the directory at which the source is mounted")
    if path is not None and scheme in (*MOUNTED, "oci"):
        return Local(path)
    if scheme == "file":
        return _file(uri)
    if scheme in REMOTE:
        return _remote(scheme, uri, sha256)
    raise RefusedModel(
        f"{_shown(uri)} is no model source: use builtin://, configmap://, pvc://, https://, s3://, gs://, az:// or "
        f"oci://, or on this machine the path of a file or directory that exists"
    )


def _file(uri: str) -> Local:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise RefusedModel("a file:// address has three slashes and the whole path: file:///home/me/model.joblib")
    return Local(Path(unquote(parts.path)))


def _remote(scheme: str, uri: str, sha256: str) -> Source:
    """Each kind is imported only when it is used: it costs a server of a mounted model nothing."""
    if not sha256 and not (scheme == "oci" and "@sha256:" in uri):
        article = "an" if scheme in ("https", "s3", "az", "oci") else "a"
        or_that = ", or the digest in the reference: oci://HOST/NAME@sha256:..." if scheme == "oci" else ""
        raise RefusedModel(f"{article} {scheme}:// model needs its digest: give --sha256 (spec.model.sha256){or_that}")
    if scheme == "https":
        from mlmodel_server.loading.sources.https import Https

        return Https(uri)
    if scheme == "oci":
        from mlmodel_server.loading.sources.oci import pull

        return pull(uri)
    from mlmodel_server.loading.sources.objects import Objects

    return Objects(uri)


def _shown(uri: str) -> str:
    """The URI for a message: what stands before an "@" may be a password, behind a "?" a token."""
    scheme, separator, rest = uri.partition("?")[0].partition("://")
    return repr(f"{scheme}{separator}{rest.rpartition('@')[2]}"[:80])
