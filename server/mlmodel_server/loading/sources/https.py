"""A file, archive or package by URL."""

from __future__ import annotations

from functools import cached_property
from urllib.parse import quote, unquote, urljoin, urlsplit

from mlmodel_server import manifest
from mlmodel_server.errors import RefusedModel
from mlmodel_server.loading.limits import Allowance, checked_name
from mlmodel_server.loading.signing import SIGNATURE
from mlmodel_server.loading.sources.entry import MLFLOW, SAVED_MODEL
from mlmodel_server.loading.sources.transfer import receive
from mlmodel_server.loading.sources.web import Download, Web
from mlmodel_server.manifest import MANIFEST


class Https:
    """A file. If it is ``mlmodel.json``, the other files of the package are beside it."""

    sha256 = ""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if not parts.hostname or "@" in parts.netloc:
            raise RefusedModel(
                "the URI of the model is not valid: give https://HOST/PATH, without user name or password"
            )
        self._url, self._web, self._allowance = url, Web(), Allowance()
        self.entry = checked_name(unquote(parts.path).rpartition("/")[2] or "model")
        if self.entry in (MLFLOW, SAVED_MODEL):
            raise RefusedModel(
                f"the directory of {self.entry} cannot be listed over https://: pack it as .tar.gz and give that URL"
            )

    def names(self) -> tuple[str, ...]:
        """See :class:`~.source.Source`. A web server lists no files: these are the files that the package lists, and
        the signature, which may not exist."""
        listed = manifest.parse(self.read(MANIFEST)).files if self.entry == MANIFEST else {}
        return tuple(sorted({self.entry, SIGNATURE, *listed}))

    def read(self, name: str) -> bytes:
        """See :class:`~.source.Source`."""
        if name == self.entry:
            return self._described
        return self._received(name, urljoin(self._url, quote(checked_name(name))))

    @cached_property
    def _described(self) -> bytes:
        """The entry file, downloaded once: the server could list other files the next time."""
        return self._received(self.entry, self._url)

    def _received(self, name: str, url: str) -> bytes:
        return receive(name, Download(self._web, url), self._allowance)
