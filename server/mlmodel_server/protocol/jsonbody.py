"""JSON of a client, and the errors for a body that is not JSON."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import msgspec

from mlmodel_server.errors import RequestError
from mlmodel_server.protocol import misfits

_NOT_A_NUMBER = re.compile(rb"[\[,:\s]-?(NaN|Infinity)\b")
_NAMES = re.compile(rb"\s*\"?[A-Za-z_][\w .-]{0,99}\"?\s*,")
"""The first name in a line of CSV, and its comma."""
_decoder = msgspec.json.Decoder()

DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of msgspec for a body that is not JSON."""


def parse(body: bytes) -> Any:
    """Return the value of a body, in built-in types; raise :class:`RequestError` when it is not JSON."""
    try:
        return _decoder.decode(body)
    except DECODE_ERRORS as error:
        reject(error, body)


def reject(error: Exception, body: bytes | memoryview) -> NoReturn:
    """Raise the :class:`RequestError` for a body and the ``error`` of msgspec, one of :data:`DECODE_ERRORS`."""
    if isinstance(error, UnicodeDecodeError):
        raise RequestError("the body is not JSON: it is not in UTF-8")
    if isinstance(error, RecursionError):
        raise RequestError("the body is nested too deeply")
    if _NOT_A_NUMBER.search(body):
        raise RequestError("NaN and Infinity are not JSON: send finite numbers only")
    # curl -d sends the content type of a form, which is read as JSON.
    hint = "; CSV goes to POST /invocations with Content-Type: text/csv and curl --data-binary" if _is_csv(body) else ""
    raise RequestError(f"the body is not JSON: {misfits.malformed(str(error))}{hint}")


def _is_csv(body: bytes | memoryview) -> bool:
    return _NAMES.match(body) is not None
