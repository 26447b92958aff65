"""The v1 protocol of KServe and TensorFlow Serving: ``{"instances": [...]}``, answered with ``{"predictions": [...]}``.

Instances are rows; ``inputs``, in their place, may be rows too, or an object with a column for each feature.
"""

from __future__ import annotations

from math import prod
from typing import Any

import msgspec

from mlmodel_server.errors import ModelFailure, RequestError
from mlmodel_server.protocol import jsonbody, rows
from mlmodel_server.tensors import Array, InferRequest, InferResponse, elements, finite

_encoder = msgspec.json.Encoder()


def decode(body: bytes, specs: rows.Specs) -> InferRequest:
    """Parse a ``:predict`` request; :class:`RequestError` 400 names the feature that is wrong, and its row."""
    value = jsonbody.parse(body)
    if not isinstance(value, dict) or ("instances" in value) == ("inputs" in value):
        raise RequestError('send an object with "instances": an array of rows')
    return of_object(value, specs)


def of_object(value: dict[str, Any], specs: rows.Specs) -> InferRequest:
    """The request of an object that has either ``instances`` or ``inputs``."""
    instances = value.get("instances", value.get("inputs"))
    if "inputs" in value and isinstance(instances, dict):
        return rows.request(rows.columns(instances, specs))
    if isinstance(instances, list) and any(isinstance(row, dict) and row.keys() == {"b64"} for row in instances):
        raise RequestError("base64 is not read: send text as it is")
    return rows.request(rows.tensors(instances, specs))


def encode(response: InferResponse, key: str = "predictions") -> bytes:
    """The response body, with one ``key``: a prediction for each row, or an object of them by name when there are
    several outputs."""
    predictions = {tensor.name: _rows(tensor.name, tensor.array) for tensor in response.outputs}
    if len(predictions) == 1:
        return _encoder.encode({key: next(iter(predictions.values()))})
    by_row = [dict(zip(predictions, row, strict=True)) for row in zip(*predictions.values(), strict=True)]
    return _encoder.encode({key: by_row})


def _rows(name: str, array: Array) -> list[Any]:
    if array.dtype.kind == "f" and not finite(array):
        raise ModelFailure(f"output {name} is NaN or infinite, which JSON cannot carry")
    nested = elements(array)
    for axis in range(array.ndim - 1, 0, -1):
        size, count = array.shape[axis], prod(array.shape[:axis])
        nested = [nested[row * size : (row + 1) * size] for row in range(count)]
    return nested
