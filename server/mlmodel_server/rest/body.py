"""The headers that matter for an inference request, and its body within bounds."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from mlmodel_server.errors import RequestError
from mlmodel_server.serving.context import Limits

JSON = b"application/json"
FORM = b"application/x-www-form-urlencoded"
"""What ``curl -d`` says of everything; no form is ever expected here, so it is taken for JSON."""

ENCODING = b"content-encoding"
TIMEOUT = b"x-mlmodel-timeout-ms"
JSON_LENGTH = b"inference-header-content-length"


@dataclass(slots=True)
class Head:
    """What the headers of one request say."""

    deadline: float
    """A reading of ``perf_counter``."""
    length: int
    """Bytes of the body; 0 when it comes in chunks without its length."""
    json_length: int | None
    """Bytes of JSON before binary tensors; None when all of it is JSON."""
    content_type: bytes
    encoding: bytes


def head_of(headers: Mapping[bytes, bytes], content_types: frozenset[bytes], started: float, limits: Limits) -> Head:
    """Check the headers, by lower-case name; :class:`RequestError` 400, 413 or 415 says which one is wrong."""
    length = int(headers.get(b"content-length", 0))  # the HTTP parser has made sure that it is a number
    if length > limits.max_body:
        raise RequestError(f"the body has {length} bytes, the limit is {limits.max_body}: send fewer rows", 413)
    kind = headers.get(b"content-type", JSON)
    if kind not in content_types:
        kind = kind.partition(b";")[0].strip().lower()
        if kind == FORM and JSON in content_types:
            kind = JSON
        if kind not in content_types:
            wanted = " or ".join(sorted(name.decode() for name in content_types))
            raise RequestError(f"send the body with the header 'Content-Type: {wanted}'", 415)
    encoding = headers.get(ENCODING, b"")
    if encoding:
        encoding = encoding.strip().lower()
        if encoding not in (b"", b"identity", b"gzip", b"deflate"):
            raise RequestError("the body may be compressed as gzip or deflate, or not at all", 415)
    return Head(
        started + (_natural(headers[TIMEOUT], TIMEOUT) / 1000 if TIMEOUT in headers else limits.timeout),
        length,
        _natural(headers[JSON_LENGTH], JSON_LENGTH) if JSON_LENGTH in headers else None,
        kind,
        b"" if encoding == b"identity" else encoding,
    )


async def read(head: Head, receive: Callable[[], Awaitable[MutableMapping[str, Any]]], limits: Limits) -> bytes | None:
    """The whole body, decompressed; None when the client has gone. :class:`RequestError` 413 when it is too long."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body") or message["type"] != "http.request":
        chunks, size = [body], len(body)
        while message["type"] == "http.request" and message.get("more_body"):
            if size > limits.max_body:  # sent in chunks, without its length
                raise _too_long(limits)
            message = await receive()
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
        if message["type"] != "http.request":
            return None
        body = b"".join(chunks)
    if len(body) > limits.max_body:
        raise _too_long(limits)
    return _unpacked(body, head.encoding, limits) if head.encoding else body


def _unpacked(body: bytes, encoding: bytes, limits: Limits) -> bytes:
    unpacker = zlib.decompressobj(wbits=31 if encoding == b"gzip" else 15)
    try:
        plain = unpacker.decompress(body, limits.max_body + 1)
    except zlib.error:
        raise RequestError(f"the body is not compressed as {encoding.decode()}, which its header says") from None
    if len(plain) > limits.max_body:
        raise _too_long(limits)
    if not unpacker.eof or unpacker.unused_data:
        raise RequestError(f"the compressed body is cut short or has something behind it: send one {encoding.decode()}")
    return plain


def _too_long(limits: Limits) -> RequestError:
    return RequestError(f"the body is longer than the limit of {limits.max_body} bytes: send fewer rows", 413)


def _natural(value: bytes, name: bytes) -> int:
    if not value.isdigit() or len(value) > 12:
        raise RequestError(f"the header {name.decode()} must be a whole number, not below 0")
    return int(value)
