"""Bodies that belong to another path: the error of a request adds where to send it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mlmodel_server.errors import RequestError
from mlmodel_server.protocol import jsonbody

V2 = "inputs"
"""The key of a v2 request. The rows of other protocols may have it too, but not tensors."""

MAX_BODY = 64 << 10
"""Bytes of a body in which the keys are looked for."""

_keys = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]


_tensors = msgspec.json.Decoder(list[_Tensor])


def explained(error: RequestError, body: bytes, paths: Mapping[str, str]) -> RequestError:
    """Return the error about a body; it names another path if the body has one of the keys of ``paths``."""
    if error.status != 400 or len(body) > MAX_BODY:
        return error
    try:
        sent = _keys.decode(body)
    except jsonbody.DECODE_ERRORS:
        return error
    for key, path in paths.items():
        if key in sent and (key != V2 or _has_tensors(sent[key])):
            return RequestError(f'{error}; a body with "{key}" goes to POST {path}')
    return error


def _has_tensors(inputs: msgspec.Raw) -> bool:
    try:
        return bool(_tensors.decode(inputs))
    except jsonbody.DECODE_ERRORS:
        return False
