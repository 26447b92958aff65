"""Who may ask: API keys, of which the server only has hashes, and the certificate that it shows."""

from __future__ import annotations

import hashlib
import logging
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from time import monotonic

from mlmodel_server.errors import RequestError, UsageError

RELOAD_SECONDS = 1.0
"""A changed file counts after this time at the latest."""

_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,62})\s*:\s*([0-9a-f]{64})")
_BEARER = b"bearer "

logger = logging.getLogger(__name__)


class ApiKeys:
    """The keys of a file with a line ``NAME: SHA256`` for each, read again when it changes.

    A file that cannot be read any more, or that has a wrong line, changes nothing: who had access keeps it, nobody else
    gets it, and the log says so.
    """

    def __init__(self, path: Path) -> None:
        """:class:`UsageError` when the file is not there or is wrong: a server that shall ask for keys never starts
        without."""
        self._path = path
        self._stamp = _stamp(path)
        self._names = _parsed(path)
        self._next = 0.0

    def check(self, headers: Mapping[bytes, bytes]) -> str:
        """The name that belongs to the key in ``Authorization: Bearer KEY`` or ``x-api-key: KEY``.

        :class:`RequestError` 401 without a key that is known.
        """
        self._reload()
        given = headers.get(b"authorization", b"")
        key = given[len(_BEARER) :].strip() if given[: len(_BEARER)].lower() == _BEARER else headers.get(b"x-api-key")
        if not key:
            raise RequestError("this model asks for an API key: send it as 'Authorization: Bearer KEY'", 401)
        # Looked up by its hash, whose bytes nobody can choose: how long that takes tells nothing of other keys.
        name = self._names.get(hashlib.sha256(key).digest())
        if name is None:
            raise RequestError("this API key is not known: ask the owner of the model for one", 401)
        return name

    def _reload(self) -> None:
        now = monotonic()
        if now < self._next:
            return
        self._next = now + RELOAD_SECONDS
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._names = _parsed(self._path)
            logger.info("API keys reloaded", extra={"keys": len(self._names)})
        except UsageError as error:
            logger.error("API keys not reloaded, those from before stay valid", extra={"error": error})


class Certificate:
    """A TLS context whose certificate is read again when its file changes."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """:class:`UsageError` when they are not there or do not belong together."""
        self._files = certificate, key
        self._stamp = _stamp(certificate)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load()

    def _load(self) -> None:
        try:
            self.context.load_cert_chain(*self._files, password=lambda: "")
        except (OSError, ValueError) as error:  # SSLError is an OSError
            why = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
            raise UsageError(
                f"the certificate cannot be used ({why}): give PEM files with --tls-cert and --tls-key"
            ) from None

    def pem(self) -> tuple[bytes, bytes]:
        """Return private key and certificate chain as they are in the files now."""
        certificate, key = self._files
        return key.read_bytes(), certificate.read_bytes()

    def reload(self) -> None:
        """Connections made from now on see the present certificate."""
        stamp = _stamp(self._files[0])
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._load()
            logger.info("certificate reloaded")
        except UsageError as error:
            logger.error("certificate not reloaded, the one from before stays", extra={"error": error})


def _stamp(path: Path) -> tuple[int, int] | None:
    """Differs when the file was replaced or rewritten; follows the links of a mounted Secret."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _parsed(path: Path) -> dict[bytes, str]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no text"
        raise UsageError(f"the file of API keys cannot be read ({why}): give one with --api-keys") from None
    names: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if not found:
            raise UsageError(
                f"line {number} of the API keys is not 'NAME: SHA256': "
                f"the hash of a key is what `printf %s KEY | sha256sum` prints"
            )
        names[bytes.fromhex(found[2])] = found[1]
    if not names:
        raise UsageError("the file of API keys has none: add a line 'NAME: SHA256' for each")
    return names
