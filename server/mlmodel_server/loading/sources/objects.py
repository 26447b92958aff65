"""Models in object stores: Amazon S3 and compatible stores, Google Cloud Storage, Azure Blob Storage."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from mlmodel_server.errors import MLModelError, RefusedModel, UnreachableSource
from mlmodel_server.loading.limits import Allowance, check_count, checked_name, is_hidden
from mlmodel_server.loading.signing import SIGNATURE
from mlmodel_server.loading.sources.entry import HEAD_BYTES, MLFLOW, SAVED_MODEL, entry_of
from mlmodel_server.loading.sources.stores import KINDS, store_of
from mlmodel_server.loading.sources.transfer import TRANSIENT, Broken, Part, receive, with_retries
from mlmodel_server.manifest import MANIFEST

if TYPE_CHECKING:
    from obstore import ObjectMeta

BLOCK = 8 << 20
"""Bytes of one request. A broken connection loses at most these."""

T = TypeVar("T")


class Objects:
    """An object, or all objects below a prefix. ``uri`` is ``SCHEME://BUCKET/KEY``; a key that ends with a slash, or
    that is not the key of an object, is a prefix."""

    sha256 = ""

    def __init__(self, uri: str) -> None:
        scheme, _, rest = uri.partition("://")
        bucket, _, key = rest.partition("/")
        self._kind = KINDS[scheme]
        if not re.fullmatch(r"[A-Za-z0-9$][-._A-Za-z0-9]+", bucket) or not key:
            raise RefusedModel(f"the URI of the {self._kind.label} model is not valid: give {scheme}://BUCKET/PATH")
        folder = key.rstrip("/")
        checked_name(folder)
        self._store, self._where = store_of(self._kind, bucket)
        self._allowance = Allowance()
        self._metas: dict[str, ObjectMeta] = {}
        self._missing = f"{uri} has no model yet: copy it there, for example with " + self._kind.copy.format(
            uri=f"{scheme}://{rest.rstrip('/')}/", bucket=bucket, key=folder
        )
        above, _, name = folder.rpartition("/")
        if not key.endswith("/") and self._has(folder, name):
            self._folder, self.entry = above, name
        else:
            self._folder = folder
            self.entry = entry_of(self._listed, self._head)

    def names(self) -> tuple[str, ...]:
        """See :class:`~.source.Source`. A bare file has only its signature beside it; other files are ignored."""
        if self.entry in (MANIFEST, MLFLOW, SAVED_MODEL):
            return self._listed
        signed = self._has(self._path(SIGNATURE), SIGNATURE)
        return tuple(sorted((self.entry, SIGNATURE))) if signed else (self.entry,)

    def read(self, name: str) -> bytes:
        """See :class:`~.source.Source`."""
        checked_name(name)
        if name not in self._metas and not self._has(self._path(name), name):
            raise UnreachableSource(f"{name} is missing: {self._missing}")
        return receive(name, lambda offset: self._block(name, offset), self._allowance)

    def _block(self, name: str, offset: int) -> Part:
        size = self._metas[name]["size"]
        end = min(offset + BLOCK, size)
        return Part(offset, size, [self._range(name, offset, end)] if end > offset else [])

    def _head(self, name: str) -> bytes:
        end = min(HEAD_BYTES, self._metas[name]["size"])
        return bytes(with_retries(name, lambda: self._range(name, 0, end))) if end else b""

    def _range(self, name: str, start: int, end: int) -> memoryview:
        options: dict[str, Any] = {"range": (start, end)}
        if etag := self._metas[name]["e_tag"]:  # blocks of two files must not be mixed
            options["if_match"] = etag if '"' in etag else f'"{etag}"'  # some listings leave the quotes out

        def get() -> memoryview:
            return memoryview(self._store.get(self._path(name), options=options).bytes())  # type: ignore[arg-type]

        try:
            return self._call(get)
        except FileNotFoundError:
            raise UnreachableSource(f"{name} is missing: {self._missing}") from None

    def _has(self, path: str, name: str) -> bool:
        try:
            self._metas[name] = with_retries(name, lambda: self._call(lambda: self._store.head(path)))
        except FileNotFoundError:
            return False
        return True

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}" if self._folder else name

    @cached_property
    def _listed(self) -> tuple[str, ...]:
        """The objects below the prefix, without the empty ones that stand for folders."""
        metas = with_retries(self._folder or "the bucket", lambda: self._call(self._list))
        by_name = {meta["path"].removeprefix(self._folder).lstrip("/"): meta for meta in metas}
        folders = {name[:end] for name in by_name for end, letter in enumerate(name) if letter == "/"}
        names = sorted(checked_name(name) for name in by_name if name and name not in folders and not is_hidden(name))
        if not names:
            raise UnreachableSource(self._missing)
        self._metas.update((name, by_name[name]) for name in names)
        return tuple(names)

    def _list(self) -> list[ObjectMeta]:
        metas: list[ObjectMeta] = []
        for page in self._store.list(self._folder or None):
            metas += page
            check_count(len(metas))
        return metas

    def _call(self, call: Callable[[], T]) -> T:
        """Return what ``call`` returns. Replace obstore's errors, whose texts quote requests and responses."""
        from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError

        try:
            return call()
        except (FileNotFoundError, MLModelError):
            raise
        except (PermissionDeniedError, UnauthenticatedError):
            raise self._denied() from None
        except PreconditionError:
            raise UnreachableSource(
                "the model was replaced during the download: the next start reads it again"
            ) from None
        except ValueError:
            raise RefusedModel("the path has characters that the key of an object cannot have: rename it") from None
        except BaseError as error:
            match = re.search(r"status code: (\d{3})", str(error))
            status = int(match[1]) if match else 0
            if status in (401, 403):
                raise self._denied() from None
            if status == 404:
                raise UnreachableSource(self._missing) from None
            if not status:
                raise Broken(
                    f"{self._where} cannot be reached, or this machine has no identity there: "
                    f"check {self._kind.endpoints[0]}, {self._kind.credentials}"
                ) from None
            if status in TRANSIENT:
                raise Broken(f"{self._where} answered {status}") from None
            raise UnreachableSource(f"{self._where} answered {status}: check the URI and the region") from None

    def _denied(self) -> UnreachableSource:
        return UnreachableSource(
            f"{self._where} rejected the credentials: check {self._kind.credentials}, and that they may list and read "
            f"the bucket"
        )
