"""The code that proves that a copy of a request comes from a pod of the same model.

One side signs, the other verifies, both with the same message authentication code (HMAC). Its key is made of the nonce
of the rehearsal and the file of API keys: so a copy needs no API key, and two revisions with different keys have no
rehearsal.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import NamedTuple

MARK = b"x-mlmodel-copy"
"""Header of a copy: the time in milliseconds since 1970, and the code. The router removes it from clients' requests."""

TARGET = b"x-mlmodel-copy-target"
"""Header of a copy: the path and query of the request, or ``grpc``."""

DRAW = b"x-mlmodel-copy-draw"
"""Header of a copy: a number that selects the row of the answer to compare, and its own code. A server of an older
release does not know it, and answers all rows."""

PATH = "/rehearsal"
"""Where a server accepts copies, with POST."""

GRPC = b"grpc"
"""The target of a gRPC call."""

CONTENT_TYPE, JSON_LENGTH, ENCODING = b"content-type", b"inference-header-content-length", b"content-encoding"

SECONDS = 60.0
"""Maximum age of a copy: clocks of two nodes differ by less."""

_MARK = re.compile(rb"([0-9]{1,15}) ([0-9a-f]{64})")
_DRAW = re.compile(rb"([0-9]{1,20}) ([0-9a-f]{64})")


class Content(NamedTuple):
    """What a client sent: all that its answer depends on, as received. b"" is a header that was not sent."""

    target: bytes
    content_type: bytes
    json_length: bytes
    encoding: bytes
    body: bytes

    @property
    def kind(self) -> str:
        """Return "grpc" or "http"."""
        return "grpc" if self.target == GRPC else "http"

    def headers(self) -> dict[bytes, bytes]:
        """Return the headers that were sent."""
        named = {CONTENT_TYPE: self.content_type, JSON_LENGTH: self.json_length, ENCODING: self.encoding}
        return {name: value for name, value in named.items() if value}


def content_of(target: bytes, headers: Mapping[bytes, bytes], body: bytes) -> Content:
    """Return the content of a request with these headers, by lower-case name."""
    return Content(
        target, headers.get(CONTENT_TYPE, b""), headers.get(JSON_LENGTH, b""), headers.get(ENCODING, b""), body
    )


HELLO = Content(b"hello", b"", b"", b"", b"")
"""What the sender asks on each new connection, before it sends a request of a client: a name of a candidate that has
gone may lead to another server, even outside of the cluster."""


def welcome(key: bytes, headers: Mapping[bytes, bytes]) -> bytes:
    """Return the answer to a copy of :data:`HELLO` with these headers, which only a server with the key can give."""
    return hmac.new(key, b"welcome\n" + headers[MARK], hashlib.sha256).hexdigest().encode()


def key_of(nonce: str, api_keys: bytes) -> bytes:
    """Return the key of a rehearsal; ``api_keys`` is the content of the file, b"" if the server requires none."""
    return hashlib.sha256(nonce.encode() + b"\n" + api_keys).digest()


def sign(key: bytes, revision: str, content: Content, now: float, draw: int | None = None) -> dict[bytes, bytes]:
    """Return the headers of a copy for the server of ``revision``; ``now`` is in seconds since 1970.

    With ``draw``, 0 to 2^64, the server answers the row that it selects, and no other.
    """
    time = b"%d" % (now * 1000)
    mark = time + b" " + _code(key, time, revision, content)
    drawn = {} if draw is None else {DRAW: b"%d %s" % (draw, _draw_code(key, mark, b"%d" % draw))}
    return {MARK: mark, TARGET: content.target, **drawn, **content.headers()}


def is_recent(headers: Mapping[bytes, bytes], now: float) -> bool:
    """Whether the headers, by lower-case name, could be those of a copy; the body need not be known."""
    found = _MARK.fullmatch(headers.get(MARK, b""))
    return found is not None and TARGET in headers and abs(now * 1000 - int(found[1])) <= SECONDS * 1000


def verify(key: bytes, revision: str, headers: Mapping[bytes, bytes], body: bytes, now: float) -> Content | None:
    """Return the content of a copy for the server of ``revision``; None if it is not one, forged or too old."""
    if not is_recent(headers, now):
        return None
    time, code = headers[MARK].split(b" ")
    content = content_of(headers[TARGET], headers, body)
    return content if hmac.compare_digest(code, _code(key, time, revision, content)) else None


def draw_of(key: bytes, headers: Mapping[bytes, bytes]) -> int | None:
    """Return the number with which the sender of a verified copy selects a row; None if it wants all."""
    found = _DRAW.fullmatch(headers.get(DRAW, b""))
    if not found or not hmac.compare_digest(found[2], _draw_code(key, headers[MARK], found[1])):
        return None
    return int(found[1])


def _draw_code(key: bytes, mark: bytes, draw: bytes) -> bytes:
    return hmac.new(key, b"draw\n" + mark + b"\n" + draw, hashlib.sha256).hexdigest().encode()


def _code(key: bytes, time: bytes, revision: str, content: Content) -> bytes:
    digest = hashlib.sha256(content.body).hexdigest().encode()
    signed = b"\n".join((time, revision.encode(), *content[:4], digest))  # no header contains a line break
    return hmac.new(key, signed, hashlib.sha256).hexdigest().encode()
