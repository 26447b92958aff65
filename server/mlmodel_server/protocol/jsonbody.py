"""JSON that came from a client, and what is said of a body that is none."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import msgspec

from mlmodel_server.errors import RequestError

_NOT_A_NUMBER = re.compile(rb"[\[,:\s]-?(NaN|Infinity)\b")
_decoder = msgspec.json.Decoder()

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises at a body that is not JSON."""


def parse(body: bytes) -> Any:
    """The value of a body, of Python's own types; :class:`RequestError` when it is not JSON."""
    try:
        return _decoder.decode(body)
    except UNREADABLE as error:
        refuse(error, body)


def refuse(error: Exception, body: bytes | memoryview) -> NoReturn:
    """Raise the :class:`RequestError` for a body at which msgspec raised this ``error``, one of :data:`UNREADABLE`."""
    if isinstance(error, UnicodeDecodeError):
        raise RequestError("the body is not JSON: it is not in UTF-8")
    if isinstance(error, RecursionError):
        raise RequestError("the body is nested too deeply")
    if _NOT_A_NUMBER.search(body):
        raise RequestError("NaN and Infinity are not JSON: send finite numbers only")
    raise RequestError(f"the body is not JSON: {error}")
