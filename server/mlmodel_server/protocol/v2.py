"""The Open Inference Protocol (v2) over REST: JSON to :class:`InferRequest`, :class:`InferResponse` to JSON.

Source: github.com/open-inference/open-inference-protocol, specification/protocol/inference_rest.md. Data may be flat or
nested, row-major. Elements are never coerced between kinds: a string is no number, a truth value is no number, 1.5 is
no integer; JSON has no NaN, and no null is accepted or sent.
"""

from __future__ import annotations

import re
from functools import cache
from math import prod
from typing import Any, NoReturn

import msgspec
import numpy as np

from ..errors import ModelFailure, RequestError
from .tensors import DTYPES, Array, InferRequest, InferResponse, Tensor, datatype_of

MAX_DIMENSIONS = 8
"""More dimensions than any tabular model has; each depth of nesting needs a decoder of its own."""


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw
    parameters: dict[str, Any] | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    outputs: list[_Output] | None = None
    parameters: dict[str, Any] | None = None


_request_decoder = msgspec.json.Decoder(_Request)
_encoder = msgspec.json.Encoder()
_NESTING = re.compile(rb"[\s\[]*")
_NOT_A_NUMBER = re.compile(rb"[\[,:\s]-?(NaN|Infinity)\b")


@cache
def _data_decoder(kind: type, depth: int) -> msgspec.json.Decoder[Any]:
    wanted: Any = kind
    for _ in range(depth):
        wanted = list[wanted]
    return msgspec.json.Decoder(wanted)


def _kind(datatype: str) -> type:
    if datatype == "BYTES":
        return str
    if datatype == "BOOL":
        return bool
    return float if datatype.startswith("FP") else int


def shown(text: str) -> str:
    """A name that came from the client, short enough to quote in an error."""
    return repr(text if len(text) <= 64 else text[:61] + "...")


def decode(body: bytes) -> InferRequest:
    """Parse an inference request; :class:`RequestError` 400 says which field is wrong."""
    try:
        request = _request_decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        _bad_json(error, body)
    if not request.inputs:
        raise RequestError("inputs is empty: send at least one tensor")
    outputs = [output.name for output in request.outputs] if request.outputs else None
    return InferRequest(request.id, [_tensor(tensor) for tensor in request.inputs], outputs)


def _bad_json(error: Exception, body: bytes) -> NoReturn:
    if isinstance(error, msgspec.ValidationError):
        raise RequestError(f"the request does not fit the v2 protocol: {error}")
    if _NOT_A_NUMBER.search(body):
        raise RequestError("NaN and Infinity are not JSON: send finite numbers only")
    if isinstance(error, RecursionError):
        raise RequestError("the body is nested too deeply")
    raise RequestError(f"the body is not JSON: {error}")


def _tensor(tensor: _Input) -> Tensor:
    name, shape = tensor.name, tensor.shape
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise RequestError(
            f"input {shown(name)}: datatype {shown(tensor.datatype)} is unknown; use one of {', '.join(DTYPES)}"
        )
    if not 0 < len(shape) <= MAX_DIMENSIONS or min(shape) < 0:
        raise RequestError(f"input {shown(name)}: shape must be 1 to {MAX_DIMENSIONS} whole numbers, none below 0")
    raw = bytes(tensor.data)
    nesting = _NESTING.match(raw)
    depth = nesting[0].count(b"[") if nesting else 0
    if not 0 < depth <= MAX_DIMENSIONS:
        raise RequestError(f"input {shown(name)}: data must be an array, flat or nested like shape")
    try:
        array: Array = np.array(_data_decoder(_kind(tensor.datatype), depth).decode(raw), dtype=dtype)
    except msgspec.ValidationError as error:
        raise RequestError(f"input {shown(name)}: data of datatype {tensor.datatype}: {error}") from None
    except msgspec.DecodeError as error:
        _bad_json(error, raw)
    except OverflowError:
        raise RequestError(f"input {shown(name)}: data holds a number outside the range of {tensor.datatype}") from None
    except ValueError:
        raise RequestError(f"input {shown(name)}: the rows in data differ in length") from None
    if (
        tensor.datatype in ("FP16", "FP32") and not np.isfinite(array).all()
    ):  # numpy rounds too large numbers to infinity
        raise RequestError(f"input {shown(name)}: data holds a number outside the range of {tensor.datatype}")
    if array.shape != tuple(shape):
        if array.ndim != 1 or array.size != prod(shape):
            sent = "x".join(map(str, array.shape))
            raise RequestError(f"input {shown(name)}: data has shape {sent}, but shape says {shape}")
        array = array.reshape(shape)
    return Tensor(name, tensor.datatype, array)


def _elements(array: Array, name: str) -> list[Any]:
    kind = array.dtype.kind
    if kind == "f" and not np.isfinite(array).all():
        raise ModelFailure(f"output {name} is NaN or infinite, which JSON cannot carry")
    flat: list[Any] = array.ravel().tolist()
    return flat if kind in "fiub" else [str(element) for element in flat]


def tensor_json(tensor: Tensor) -> dict[str, Any]:
    """One tensor as the protocol writes it, data flat and row-major."""
    return {
        "name": tensor.name,
        "shape": list(tensor.array.shape),
        "datatype": tensor.datatype,
        "data": _elements(tensor.array, tensor.name),
    }


def named(name: str, array: Array) -> Tensor:
    """A tensor whose datatype follows from the array."""
    return Tensor(name, datatype_of(array.dtype), array)


def encode(response: InferResponse, model: str, version: str) -> bytes:
    """The response body. ``id`` is there only when the request had one; there are no nulls."""
    body: dict[str, Any] = {"model_name": model, "model_version": version}
    if response.id is not None:
        body["id"] = response.id
    body["outputs"] = [tensor_json(tensor) for tensor in response.outputs]
    return _encoder.encode(body)


def error(message: str) -> bytes:
    """The one form that every error has."""
    return _encoder.encode({"error": message})
