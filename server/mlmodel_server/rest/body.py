"""The headers of an inference request, and its body within the limits."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec

from mlmodel_server.errors import RequestError
from mlmodel_server.protocol.invocations import CSV
from mlmodel_server.serving.context import Limits
from mlmodel_server.tensors import quoted

JSON = b"application/json"
FORM = b"application/x-www-form-urlencoded"
"""The content type that ``curl -d`` sends. No endpoint expects a form: it is read as JSON, but not from a browser."""

ENCODING = b"content-encoding"
TIMEOUT = b"x-mlmodel-timeout-ms"
JSON_LENGTH = b"inference-header-content-length"

MAX_DIGITS = 12
"""Maximum number of digits of the integer in a header."""


class Head(msgspec.Struct, frozen=True, eq=False):
    """The parsed headers of one request."""

    deadline: float
    """Reading of ``perf_counter``."""
    json_length: int | None
    """Bytes of JSON before binary tensors; None if the whole body is JSON."""
    content_type: bytes
    encoding: bytes


def head_of(headers: Mapping[bytes, bytes], content_types: frozenset[bytes], started: float, limits: Limits) -> Head:
    """Parse the headers, by lower-case name. Raise :class:`RequestError` 400, 413 or 415, which names the wrong one."""
    length = int(headers.get(b"content-length", 0))  # the HTTP parser has checked that it is a number
    if length > limits.max_body:
        raise RequestError(f"the body has {length} bytes, the limit is {limits.max_body}: send fewer rows", 413)
    content_type = headers.get(b"content-type", b"")
    if content_type not in content_types:
        content_type = content_type_of(headers, content_types)
    encoding = headers.get(ENCODING, b"")
    if encoding:
        encoding = encoding.strip().lower()
        if encoding not in (b"", b"identity", b"gzip", b"deflate"):
            raise RequestError(f"Content-Encoding {_quoted(encoding)} is not supported: use gzip or deflate", 415)
    return Head(
        started + (_integer(headers[TIMEOUT], TIMEOUT) / 1000 if TIMEOUT in headers else limits.timeout),
        _integer(headers[JSON_LENGTH], JSON_LENGTH) if JSON_LENGTH in headers else None,
        content_type,
        b"" if encoding == b"identity" else encoding,
    )


def content_type_of(headers: Mapping[bytes, bytes], content_types: frozenset[bytes]) -> bytes:
    """Return the content type without parameters; JSON for a missing one and for a form. Raise :class:`RequestError`
    415 if it is not one of ``content_types``.

    A page of another site can make a browser send a form, plain text or no type, but no other type. So a missing one
    and a form stand for JSON only from clients that are not browsers: these send neither ``Origin`` nor
    ``Sec-Fetch-Site``.
    """
    content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if content_type in (b"", FORM) and JSON in content_types:
        if b"origin" in headers or b"sec-fetch-site" in headers:
            raise RequestError("a page in a browser must say what it sends: add Content-Type: application/json", 415)
        return JSON
    if content_type not in content_types:
        supported = " or ".join(sorted(name.decode() for name in content_types))
        other = ", or send CSV to POST /invocations" if content_type == CSV else ""
        raise RequestError(f"Content-Type {_quoted(content_type)} is not supported: use {supported}{other}", 415)
    return content_type


async def read(receive: Callable[[], Awaitable[MutableMapping[str, Any]]], limits: Limits) -> bytes | None:
    """Return the body as sent; None if the client disconnects. Raise :class:`RequestError` 413 over the limit."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body") or message["type"] != "http.request":
        chunks, size = [body], len(body)
        while message["type"] == "http.request" and message.get("more_body"):
            if size > limits.max_body:  # chunked, without its length
                raise _too_long(limits)
            message = await receive()
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
        if message["type"] != "http.request":
            return None
        body = b"".join(chunks)
    if len(body) > limits.max_body:
        raise _too_long(limits)
    return body


def decompress(body: bytes, encoding: bytes, limits: Limits) -> bytes:
    """Return the body without its ``encoding``; b"" is none. Raise :class:`RequestError` 400, or 413 over the limit."""
    if not encoding:
        return body
    decompressor = zlib.decompressobj(wbits=31 if encoding == b"gzip" else 15)
    try:
        plain = decompressor.decompress(body, limits.max_body + 1)
    except zlib.error:
        raise RequestError(f"the body is not {encoding.decode()}: compress it, or remove Content-Encoding") from None
    if len(plain) > limits.max_body:
        raise _too_long(limits)
    if not decompressor.eof or decompressor.unused_data:
        raise RequestError(f"the compressed body is cut off or has trailing bytes: send one {encoding.decode()} stream")
    return plain


def _too_long(limits: Limits) -> RequestError:
    return RequestError(f"the body is longer than the limit of {limits.max_body} bytes: send fewer rows", 413)


def _integer(value: bytes, name: bytes) -> int:
    if not value.isdigit() or len(value) > MAX_DIGITS:
        raise RequestError(f"the header {name.decode()} must be an integer of 1 to {MAX_DIGITS} digits")
    return int(value)


def _quoted(value: bytes) -> str:
    return quoted(value.decode("latin-1"))
