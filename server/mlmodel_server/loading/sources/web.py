"""Send requests over HTTPS only, with error messages that have no address, token or path.

OpenSSL's ``SSL_CERT_FILE`` adds a private authority.
"""

from __future__ import annotations

import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from mlmodel_server.errors import RefusedModel, UnreachableSource
from mlmodel_server.loading.sources.transfer import TRANSIENT, Broken, Part

TIMEOUT = 20.0
"""Seconds without a byte before a connection counts as broken."""

CHUNK = 1 << 20


class Web:
    """An HTTPS client. ``authorize`` turns the challenge of a 401 (the header ``WWW-Authenticate``) into the header
    ``Authorization``, which no target of a redirect gets. ``advice`` returns what to check for a status code."""

    def __init__(
        self,
        authorize: Callable[[str], str] | None = None,
        advice: Callable[[int], str] = lambda _: "check the URL",
        authorization: str = "",
    ) -> None:
        """``authorization`` is the header of the first request."""
        self._authorize, self._advice, self._authorization = authorize, advice, authorization
        context = ssl.create_default_context()
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _HttpsOnly())

    def open(self, url: str, headers: Mapping[str, str] | None = None) -> HTTPResponse:
        """Return the response of a GET. Raise :class:`Broken` if a retry may help, else :class:`UnreachableSource`."""
        try:
            return self._get(url, headers or {})
        except urllib.error.HTTPError as error:
            challenge = error.headers.get("WWW-Authenticate", "")
            ours = urlsplit(error.url).netloc == urlsplit(url).netloc  # a redirect's target must not get our token
            if error.code == 401 and self._authorize and challenge and ours:
                self._authorization = self._authorize(challenge)
            else:
                raise self._failure(error) from None
        try:
            return self._get(url, headers or {})
        except urllib.error.HTTPError as error:
            raise self._failure(error) from None

    def _get(self, url: str, headers: Mapping[str, str]) -> HTTPResponse:
        request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310  # only https is ever opened
        if self._authorization:
            request.add_unredirected_header("Authorization", self._authorization)
        try:
            response: HTTPResponse = self._opener.open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError as error:
            problem = f"{host(url)} cannot be reached ({why(error.reason)})"
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise UnreachableSource(f"{problem}: set SSL_CERT_FILE to its certificate authority") from None
            raise Broken(f"{problem}: check the URL and the network") from None
        except (OSError, HTTPException) as error:
            raise Broken(f"the connection to {host(url)} failed ({why(error)})") from None
        return response

    def _failure(self, error: urllib.error.HTTPError) -> Exception:
        problem = f"{host(error.url)} answered {error.code}: {self._advice(error.code)}"
        return Broken(problem) if error.code in TRANSIENT else UnreachableSource(problem)


class Download:
    """One file, which can resume after an interruption (``open_at`` of :func:`~.transfer.receive`)."""

    def __init__(self, web: Web, url: str) -> None:
        self._web, self._url, self._validator = web, url, ""

    def __call__(self, offset: int) -> Part:
        headers = {}
        if offset and self._validator:
            headers = {"Range": f"bytes={offset}-", "If-Range": self._validator}
        response = self._web.open(self._url, headers)
        start, length = 0, response.length
        if response.status == 206:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if not match or int(match[1]) != offset:
                raise Broken(f"{host(self._url)} returned another part than requested")
            start = offset
        etag = response.headers.get("ETag", "")
        self._validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
        total = None if length is None else start + length
        return Part(start, total, self._chunks(response, length))

    def _chunks(self, response: HTTPResponse, length: int | None) -> Iterator[bytes]:
        try:
            with response:
                while chunk := response.read(CHUNK):
                    yield chunk
                    length = None if length is None else length - len(chunk)
        except (OSError, HTTPException) as error:
            raise Broken(f"the download from {host(self._url)} was interrupted ({why(error)})") from None
        if length:
            raise Broken(f"the download from {host(self._url)} was interrupted")


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Rejects redirects out of HTTPS: others could read the response, or the request could reach an inner address."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://"):
            raise RefusedModel("the https:// address redirects to one without TLS: give the final address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def host(url: str) -> str:
    """Return host and port of a URL, without user name and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def why(reason: object) -> str:
    """Return the short reason of a network error, without the response if that is not HTTP: it may contain anything."""
    if isinstance(reason, HTTPException):
        return type(reason).__name__
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
