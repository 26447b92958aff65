"""The self-test: predicts the golden examples of a package through the code that serves requests."""

from __future__ import annotations

from math import isclose, prod
from typing import Any

import msgspec

from mlmodel_server.engine.model import Model
from mlmodel_server.errors import ModelFailure, RefusedModel, RequestError
from mlmodel_server.manifest import Golden
from mlmodel_server.protocol import v2

TOLERANCE = {"FP64": 1e-6, "FP32": 1e-4, "FP16": 1e-2}
"""Relative tolerance by datatype; other datatypes must be equal."""


def run(model: Model, golden: Golden) -> None:
    """Raise :class:`RefusedModel` unless the model predicts its golden examples as it did when it was saved."""
    try:
        response = model.infer(v2.decode(request_body(golden)))
        answers = {tensor.name: v2.tensor_json(tensor) for tensor in response.outputs}
    except (RequestError, ModelFailure) as error:
        raise RefusedModel(f"self-test: {error}: save the package again with this version of the server") from None
    for expected in golden.outputs:
        wrong = _differing_rows(expected, answers[expected["name"]])
        if wrong:
            raise RefusedModel(
                f"self-test: {len(wrong)} of {expected['shape'][0]} golden examples differ in {expected['name']} "
                f"(first: example {wrong[0]}): save the package again with the library versions of this server"
            )


def request_body(golden: Golden, rows: int | None = None) -> bytes:
    """Return all golden examples as the body of a request for every output, or ``rows`` of them for the default one."""
    inputs = [_head(tensor, rows) if rows else tensor for tensor in golden.inputs]
    body: dict[str, Any] = {"inputs": inputs}
    if rows is None:
        body["outputs"] = [{"name": tensor["name"]} for tensor in golden.outputs]
    return msgspec.json.encode(body)


def _head(tensor: dict[str, Any], rows: int) -> dict[str, Any]:
    per_row = len(tensor["data"]) // tensor["shape"][0]
    return {**tensor, "shape": [rows, *tensor["shape"][1:]], "data": tensor["data"][: rows * per_row]}


def _differing_rows(expected: dict[str, Any], answer: dict[str, Any]) -> list[int]:
    rows = expected["shape"][0]
    if answer["shape"] != expected["shape"] or answer["datatype"] != expected["datatype"]:
        return list(range(rows))
    tolerance = TOLERANCE.get(expected["datatype"])
    per_row = len(expected["data"]) // rows
    return sorted(
        {
            index // per_row
            for index, (value, got) in enumerate(zip(expected["data"], answer["data"], strict=True))
            if not (
                value == got if tolerance is None else isclose(value, got, rel_tol=tolerance, abs_tol=tolerance / 1e3)
            )
        }
    )


def blank_body(model: Model) -> bytes:
    """Return a request with one row of zeros, empty texts and false: the example for a model without a package."""
    return msgspec.json.encode(
        {
            "inputs": [
                {**msgspec.to_builtins(spec), "shape": shape, "data": [_blank(spec.datatype)] * prod(shape)}
                for spec in model.signature.inputs
                for shape in [[max(1, length) for length in spec.shape]]
            ]
        }
    )


def _blank(datatype: str) -> float | int | str | bool:
    if datatype == "BYTES":
        return ""
    if datatype == "BOOL":
        return False
    return 0.0 if datatype.startswith("FP") else 0
