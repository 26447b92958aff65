"""The v1 protocol of KServe and TensorFlow Serving: ``{"instances": [...]}``, answered with ``{"predictions": [...]}``.

Instances are rows; ``inputs``, instead of them, are rows too, or an object with a column for each feature.
"""

from __future__ import annotations

from math import prod
from typing import Any

import msgspec

from mlmodel_server.errors import ModelFailure, RequestError
from mlmodel_server.protocol import jsonbody, rows
from mlmodel_server.tensors import Array, InferRequest, InferResponse, datatype_of, finite, texts_of

_encoder = msgspec.json.Encoder()


def decode(body: bytes, specs: rows.Specs) -> InferRequest:
    """Parse a ``:predict`` request; raise :class:`RequestError` 400, which names the feature and the row."""
    value = jsonbody.parse(body)
    if not isinstance(value, dict) or ("instances" in value) == ("inputs" in value):
        raise RequestError('send an object with "instances": an array of rows')
    return of_object(value, specs)


def of_object(value: dict[str, Any], specs: rows.Specs) -> InferRequest:
    """Return the request of an object with either ``instances`` or ``inputs``."""
    reject_outputs(value)
    instances = value.get("instances", value.get("inputs"))
    if "inputs" in value and isinstance(instances, dict):
        return rows.request(rows.columns(instances, specs))
    if isinstance(instances, list) and any(isinstance(row, dict) and row.keys() == {"b64"} for row in instances):
        raise RequestError("base64 is not supported: send plain text")
    return rows.request(rows.tensors(instances, specs))


def reject_outputs(value: dict[str, Any]) -> None:
    """Raise :class:`RequestError` if a body selects outputs as one of v2: an answer without them would look right."""
    if "outputs" in value:
        raise RequestError(
            'this path selects outputs in its query: remove "outputs" from the body, and add ?outputs=NAME'
        )


def encode(response: InferResponse, key: str = "predictions") -> bytes:
    """Return the response body, with one ``key``: a prediction for each row, or an object by output name for each row
    when the response has several outputs."""
    predictions = {tensor.name: _rows(tensor.name, tensor.array) for tensor in response.outputs}
    if len(predictions) == 1:
        return _encoder.encode({key: next(iter(predictions.values()))})
    if len({len(rows) for rows in predictions.values()}) > 1:
        names = ", ".join(predictions)
        raise RequestError(
            f"the outputs {names} have different numbers of rows: request one of them, or send a v2 request"
        )
    by_row = [dict(zip(predictions, row, strict=True)) for row in zip(*predictions.values(), strict=True)]
    return _encoder.encode({key: by_row})


def _rows(name: str, array: Array) -> list[Any]:
    if array.dtype.kind == "f" and not finite(array):
        raise ModelFailure(f"output {name} has NaN or infinity, which JSON cannot hold")
    nested: list[Any] = texts_of(name, array) if datatype_of(array.dtype) == "BYTES" else array.ravel().tolist()
    for axis in range(array.ndim - 1, 0, -1):
        size, count = array.shape[axis], prod(array.shape[:axis])
        nested = [nested[row * size : (row + 1) * size] for row in range(count)]
    return nested
