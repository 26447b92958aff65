"""Responses over HTTP."""

from __future__ import annotations

from http import HTTPStatus
from itertools import chain

import msgspec

from mlmodel_server.protocol import v2
from mlmodel_server.serving.exchange import LATE, Failure

Headers = list[tuple[bytes, bytes]]

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

_EXTRA: dict[int, Headers] = {
    401: [(b"www-authenticate", b"Bearer")],
    405: [(b"allow", b"POST")],
    408: [(b"connection", b"close")],
    413: [(b"connection", b"close")],  # the rest of the body is not read
}


class Reply(msgspec.Struct, frozen=True, eq=False):
    """Status, headers without the default ones, body."""

    status: int
    headers: Headers
    body: bytes

    def start(self) -> bytes:
        """Return the status line and the headers, each with its line break."""
        headers = self.headers
        return _STATUS_LINES[self.status] + b"%b: %b\r\n" * len(headers) % tuple(chain.from_iterable(headers))


def reply_of(failure: Failure) -> Reply:
    """Return the reply of a failure, in the common form of errors."""
    body = v2.error(failure.message)
    headers = [(b"content-type", b"application/json"), *_EXTRA.get(failure.status, ())]
    if failure.retry_after:
        headers.append((b"retry-after", b"%d" % failure.retry_after))
    if failure.is_late:
        headers.append((LATE.encode(), b"true"))
    headers.append((b"content-length", b"%d" % len(body)))
    return Reply(failure.status, headers, body)
