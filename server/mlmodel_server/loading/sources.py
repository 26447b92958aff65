"""Where a model's files come from. Each source hands out whole files as bytes, bounded in size.

Files are read once into memory and the digest is taken of those very bytes, so nobody who can write to the volume can
swap a file between the check and the parse.
"""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from ..errors import RefusedModel, UnreachableSource
from ..manifest import MANIFEST

MAX_FILE = 1 << 30
"""Bytes of one file. Larger models need a format that can be memory-mapped."""

HTTPS_TIMEOUT = 20.0
"""Seconds without a byte before a download is given up; the kubelet starts the pod again."""

HTTPS_DEADLINE = 300.0
"""Seconds for one file."""

SUFFIXES = (".skops", ".joblib")


class Source(Protocol):
    """Some files, by name. ``entry`` is the file to begin with: ``mlmodel.json`` of a package, or a bare model file."""

    @property
    def entry(self) -> str: ...

    def read(self, name: str) -> bytes:
        """The whole file; :class:`UnreachableSource` when it is not there now."""
        ...


class Memory:
    """Files that were just made."""

    def __init__(self, files: Mapping[str, bytes], entry: str = MANIFEST) -> None:
        self._files, self.entry = files, entry

    def read(self, name: str) -> bytes:
        if name not in self._files:
            raise UnreachableSource(f"{name} is missing from the package")
        return self._files[name]


class Local:
    """A directory or a single file: a mounted ConfigMap or volume claim, or a path on a laptop."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise UnreachableSource("the model files are not there yet: check that the ConfigMap or claim has them")
        if path.is_file():
            self._directory, self.entry = path.parent, path.name
            return
        self._directory = path
        # A ConfigMap mount also holds "..data" and a dated directory, behind which its files are linked.
        names = [entry.name for entry in sorted(path.iterdir()) if not entry.name.startswith(".") and entry.is_file()]
        models = [name for name in names if name.endswith(SUFFIXES)]
        if MANIFEST in names:
            self.entry = MANIFEST
        elif len(models) == 1:
            self.entry = models[0]
        elif models:
            raise RefusedModel(f"there are several models ({', '.join(models[:5])}) and no {MANIFEST}: keep one")
        else:
            raise UnreachableSource(
                f"there is no {MANIFEST}, *.skops or *.joblib there yet: copy the model to the source"
            )

    def read(self, name: str) -> bytes:
        try:
            with (self._directory / name).open("rb") as file:
                return _bounded(file.read(MAX_FILE + 1), name)
        except OSError as error:
            raise UnreachableSource(f"{name} cannot be read now ({error.strerror})") from None


class Https:
    """One file by URL; when it is a ``mlmodel.json``, its neighbours are fetched relative to it.

    A private authority is trusted through OpenSSL's own ``SSL_CERT_FILE``.
    """

    def __init__(self, url: str) -> None:
        self._url, self.entry = url, urlsplit(url).path.rpartition("/")[2] or "model"
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=ssl.create_default_context()), _HttpsOnly()
        )

    def read(self, name: str) -> bytes:
        url = self._url if name == self.entry else urljoin(self._url, name)
        deadline = time.monotonic() + HTTPS_DEADLINE
        chunks, size = [], 0
        try:
            with self._opener.open(url, timeout=HTTPS_TIMEOUT) as response:
                while chunk := response.read(1 << 20):
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > MAX_FILE:
                        break
                    if time.monotonic() > deadline:
                        raise UnreachableSource(f"{name}: the download took longer than {HTTPS_DEADLINE:.0f} s")
        except urllib.error.HTTPError as error:
            raise UnreachableSource(f"{name}: {_host(url)} answered {error.code}: check the URL") from None
        except urllib.error.URLError as error:
            raise UnreachableSource(f"{name}: {_host(url)} cannot be reached ({_why(error.reason)})") from None
        except (OSError, HTTPException) as error:
            raise UnreachableSource(f"{name}: the download from {_host(url)} broke off ({_why(error)})") from None
        return _bounded(b"".join(chunks), name)


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """A redirect must not leave HTTPS: the reply could be read, and the request could reach an inner address."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if not newurl.startswith("https://"):
            raise RefusedModel("the https:// address redirects to one without TLS: give the final address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _bounded(data: bytes, name: str) -> bytes:
    if len(data) > MAX_FILE:
        raise RefusedModel(f"{name} is larger than {MAX_FILE >> 30} GiB: compress it, or train a smaller model")
    return data


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _why(reason: object) -> str:
    return getattr(reason, "strerror", None) or getattr(reason, "reason", None) or str(reason) or type(reason).__name__


def locate(uri: str, path: Path | None, sha256: str) -> Source:
    """The source that ``uri`` names; for ``configmap://`` and ``pvc://`` the operator mounted it at ``path``."""
    scheme = uri.partition("://")[0]
    if scheme == "builtin":
        from .. import builtin

        return Memory(builtin.build(uri.removeprefix("builtin://")))
    if scheme in ("configmap", "pvc"):
        if path is None:
            raise RefusedModel(f"{scheme}:// needs --path, the directory at which the source is mounted")
        return Local(path)
    if scheme == "https":
        if not sha256:
            raise RefusedModel("an https:// model needs its digest: give --sha256 (spec.model.sha256)")
        return Https(uri)
    raise RefusedModel(f"{uri[:80]!r} is no model source: use builtin://, configmap://, pvc:// or https://")
