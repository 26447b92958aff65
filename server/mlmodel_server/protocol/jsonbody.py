"""JSON that came from a client, and what is said of a body that is none."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import msgspec

from ..errors import RequestError

_NOT_A_NUMBER = re.compile(rb"[\[,:\s]-?(NaN|Infinity)\b")
_decoder = msgspec.json.Decoder()


def parse(body: bytes) -> Any:
    """The value of a body, of Python's own types; :class:`RequestError` when it is not JSON."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        refuse(error, body)


def refuse(error: msgspec.DecodeError | RecursionError, body: bytes | memoryview) -> NoReturn:
    """Raise the :class:`RequestError` for a body that could not be read."""
    if isinstance(error, RecursionError):
        raise RequestError("the body is nested too deeply")
    if _NOT_A_NUMBER.search(body):
        raise RequestError("NaN and Infinity are not JSON: send finite numbers only")
    raise RequestError(f"the body is not JSON: {error}")
