"""Access control: API keys, of which the server has only hashes, the TLS certificate, and pages of other sites."""

from __future__ import annotations

import hashlib
import logging
import re
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path

from mlmodel_server.errors import RequestError, UsageError
from mlmodel_server.files import Watched, stamp
from mlmodel_server.tensors import quoted

_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,62})\s*:\s*([0-9a-f]{64})")
_BEARER = b"bearer "
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""The names of this machine for its own clients."""

logger = logging.getLogger(__name__)


class ApiKeys:
    """The keys of a file with a line ``NAME: SHA256`` for each, reloaded when the file changes.

    If the file becomes unreadable or has a wrong line, the former keys stay valid and the server logs the reason.
    """

    def __init__(self, path: Path) -> None:
        """Raise :class:`UsageError` if the file is missing or wrong: a server that requires keys never starts without
        them."""
        self._file = Watched(path)
        self._names = _parsed(path)

    def check(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the name of the key in ``Authorization: Bearer KEY`` or ``x-api-key: KEY``.

        Raise :class:`RequestError` 401 without a key, or if it is not known.
        """
        self._reload()
        sent = headers.get(b"authorization", b"")
        key = sent[len(_BEARER) :].strip() if sent[: len(_BEARER)].lower() == _BEARER else headers.get(b"x-api-key")
        if not key:
            raise RequestError("this model requires an API key: send it as 'Authorization: Bearer KEY'", 401)
        # The lookup is by hash, whose bytes a client cannot choose: its duration reveals nothing about other keys.
        name = self._names.get(hashlib.sha256(key).digest())
        if name is None:
            raise RequestError("this API key is not known: get one from the owner of the model", 401)
        return name

    def _reload(self) -> None:
        if not self._file.has_changed():
            return
        try:
            self._names = _parsed(self._file.path)
            logger.info("API keys reloaded", extra={"keys": len(self._names)})
        except UsageError as error:
            logger.error("API keys not reloaded, the former ones stay valid", extra={"error": error})


MAX_HOSTS = 64
"""Maximum number of values of Host that are remembered."""


class Hosts:
    """The names by which clients may reach a server on a laptop.

    Every page in a browser can send requests to 127.0.0.1. Its requests name the page's site in ``Origin``. A site
    whose name resolves to 127.0.0.1 (DNS rebinding) could also read the responses; its requests have that name in
    ``Host``.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._accepted: set[bytes] = set()
        """Values of Host that were checked before; a client sends the same one with each request."""

    def check(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Raise :class:`RequestError` 403 unless the request names this server, and no other site sent it.

        A link from another site to this server is followed: only a GET that opens a page.
        """
        sent = headers.get(b"host", b"")
        if sent not in self._accepted:
            self._check_host(sent)
        if b"origin" in headers or b"sec-fetch-site" in headers:
            self._check_site(method, headers)

    def _check_host(self, sent: bytes) -> None:
        host = sent.decode("latin-1")
        if not self._is_known(host):
            raise RequestError(
                f"the header Host is {quoted(host)}: send requests to {self._known}, or start the server with "
                "--allowed-hosts",
                403,
            )
        if len(self._accepted) < MAX_HOSTS:
            self._accepted.add(sent)

    def _check_site(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        origin = headers.get(b"origin")
        if origin is not None:
            scheme, separator, authority = origin.decode("latin-1").partition("://")
            if not separator or scheme not in ("http", "https") or not self._is_known(authority):
                raise RequestError(
                    f"a page of {quoted(origin.decode('latin-1'))} sent this request: only pages of {self._known} may, "
                    "or start the server with --allowed-hosts",
                    403,
                )
        elif headers.get(b"sec-fetch-site") == b"cross-site":
            opens_page = method in ("GET", "HEAD") and headers.get(b"sec-fetch-dest") == b"document"
            if not opens_page:
                raise RequestError(f"a page of another site sent this request: only pages of {self._known} may", 403)

    @property
    def _known(self) -> str:
        return " or ".join(sorted(self._names))

    def _is_known(self, authority: str) -> bool:
        match = _AUTHORITY.fullmatch(authority.lower())
        return match is not None and match[1] in self._names


class Certificate:
    """A TLS context that reloads its certificate when the file changes."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raise :class:`UsageError` if a file is missing or wrong, or the key does not match the certificate."""
        self._files = certificate, key
        self._stamp = stamp(certificate)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load()

    def _load(self) -> None:
        try:
            self.context.load_cert_chain(*self._files, password=lambda: "")
        except (OSError, ValueError) as error:  # SSLError is an OSError
            why = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
            raise UsageError(
                f"the certificate cannot be loaded ({why}): give PEM files with --tls-cert and --tls-key"
            ) from None

    def pem(self) -> tuple[bytes, bytes]:
        """Return the current content of the files: private key, certificate chain."""
        certificate, key = self._files
        return key.read_bytes(), certificate.read_bytes()

    def reload(self) -> None:
        """Load a changed certificate for new connections."""
        now = stamp(self._files[0])
        if now == self._stamp:
            return
        self._stamp = now
        try:
            self._load()
            logger.info("certificate reloaded")
        except UsageError as error:
            logger.error("certificate not reloaded, the former one stays in use", extra={"error": error})


def _parsed(path: Path) -> dict[bytes, str]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise UsageError(f"the file of API keys cannot be read ({why}): give another with --api-keys") from None
    names: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if not match:
            raise UsageError(
                f"line {number} of the API keys is not 'NAME: SHA256': "
                f"print the hash of a key with `printf %s KEY | sha256sum`"
            )
        names[bytes.fromhex(match[2])] = match[1]
    if not names:
        raise UsageError("the file of API keys has no key: add a line 'NAME: SHA256' for each")
    return names
