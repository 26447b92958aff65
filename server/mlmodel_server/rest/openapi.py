"""``/openapi.json``: every path of this server with its requests and responses, and with examples for this model."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from mlmodel_server.formats.opened import CONTRIBUTIONS
from mlmodel_server.protocol.invocations import MISSING
from mlmodel_server.rest import outputs
from mlmodel_server.rest.body import MAX_DIGITS, TIMEOUT
from mlmodel_server.rest.endpoints import endpoints
from mlmodel_server.rest.schemas import ref, schemas
from mlmodel_server.serving.context import Serving

LARGE = 16 << 10
"""Bytes; a larger example is left out, and only ``…/example`` has it."""

ERRORS = {
    400: "The request does not fit the model: the error names the field",
    401: "No API key, or an unknown one",
    404: "Model, version or path not found",
    405: "The path requires another method",
    413: "More bytes or rows than the limit, which the error names",
    415: "The path requires another content type or compression",
    429: "Too many requests wait: retry after the time in Retry-After",
    500: "The model failed on this input",
    503: "The server cannot meet the deadline, or drains: retry after the time in Retry-After, not without it",
}
"""Description of each status, for all paths."""

_WITHOUT_KEY = ("/", "/metrics")
_BODY_ERRORS = (400, 413, 415, 429, 500, 503)


def responses(schema: str, *errors: int) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of a route that returns JSON of this ``schema``, or one of these ``errors``."""
    return {200: {"description": "Success", "content": _json(schema)}, **_error_responses(*errors)}


def text_responses(*content_types: str) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of a route that returns text."""
    return {
        200: {"description": "Success", "content": {name: {"schema": {"type": "string"}} for name in content_types}}
    }


def feedback_body(classes: Sequence[str]) -> dict[str, Any]:
    """Return the ``requestBody`` of feedback; the id of its example is a placeholder."""
    label: Any = classes[0] if classes else 1.5
    example = {"prediction_id": "the header x-mlmodel-prediction-id of a response", "label": label}
    return {"required": True, "content": _json("Feedback", example)}


def build(app: FastAPI, serving: Serving) -> dict[str, Any]:
    """Return the whole document: the routes of ``app``, and the inference endpoints, which are not among them."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        routes=app.routes,
        description=f'Predictions of {serving.name}, version {serving.version}. Every error is `{{"error": …}}`.',
    )
    examples, inference = Examples(serving), {}
    for path, endpoint in endpoints(serving).items():
        describe = _OPERATIONS[endpoint.route]
        if not path.endswith("/") and (describe is not _explain or _can_explain(serving)):
            inference[path] = {"post": describe(serving, examples) | {"operationId": f"post{path}"}}
    document["paths"] = inference | document["paths"]
    document["components"] = {"schemas": schemas(serving.model.signature.inputs)}
    if serving.keys:
        _require_keys(document)
    return document


class Examples:
    """The example row of the model in each wire format; None if a format cannot have it, or if it is too large."""

    def __init__(self, serving: Serving) -> None:
        self.request: Any = json.loads(serving.example) if len(serving.example) < LARGE else None
        self.row: dict[str, Any] | None = None
        if self.request and all(tensor["shape"][0] == 1 for tensor in self.request["inputs"]):
            self.row = {tensor["name"]: nested(tensor["data"], tensor["shape"])[0] for tensor in self.request["inputs"]}

    @property
    def instances(self) -> dict[str, Any] | None:
        """The example in the v1 protocol."""
        if self.row is None:
            return None
        return {"instances": [self.row if len(self.row) > 1 else next(iter(self.row.values()))]}

    @property
    def split(self) -> dict[str, Any] | None:
        """The example in a format of MLflow."""
        if self.row is None:
            return None
        names, values = self._columns(self.row)
        return {"dataframe_split": {"columns": names, "data": [values]}}

    @property
    def csv(self) -> str | None:
        """The example as CSV; None unless the model has a table."""
        if self.row is None:
            return None
        names, values = self._columns(self.row)
        if any(isinstance(value, list) or value in MISSING for value in values):  # some texts are missing values in CSV
            return None
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(
            [names, [str(value).lower() if isinstance(value, bool) else value for value in values]]
        )
        return lines.getvalue()

    @staticmethod
    def _columns(row: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
        """Return names and values of the columns; columns without a name are numbered."""
        only = next(iter(row.values()))
        if len(row) == 1 and isinstance(only, list):
            return [f"column {place}" for place in range(len(only))], only
        return list(row), list(row.values())


def nested(data: list[Any], shape: Sequence[int]) -> list[Any]:
    """Return flat, row-major ``data`` as nested lists of this shape."""
    for size in reversed(shape[1:]):
        data = [data[start : start + size] for start in range(0, len(data), size)] if size else []
    return data


def _can_explain(serving: Serving) -> bool:
    return any(spec.name == CONTRIBUTIONS for spec in serving.model.signature.outputs)


def _json(schema: str, example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": ref(schema)}
    return {"application/json": content if example is None else content | {"example": example}}


def _error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": ERRORS[status], "content": _json("Error")} for status in statuses}


def _operation(
    summary: str,
    description: str,
    request: dict[str, Any],
    response: dict[str, Any],
    parameters: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return the operation of an inference endpoint, from the content of its request and response. ``parameters`` are
    those besides the headers of every request."""
    text = {"type": "string"}
    responses = {
        200: {
            "description": "Success",
            "content": response,
            "headers": {
                "x-mlmodel-version": {"description": "Version that answered", "schema": text},
                "x-mlmodel-revision": {"description": "Revision that answered", "schema": text},
                "x-mlmodel-prediction-id": {
                    "description": "Id for feedback, for up to 64 rows: send it with the label",
                    "schema": text,
                },
            },
        },
        **_error_responses(*_BODY_ERRORS),
    }
    return {
        "tags": ["predict"],
        "summary": summary,
        "description": description,
        "parameters": [
            {
                "name": TIMEOUT.decode(),
                "in": "header",
                "description": "Deadline of this request in milliseconds, instead of the server's",
                "schema": {"type": "integer", "minimum": 0, "maximum": 10**MAX_DIGITS - 1},
            },
            *parameters,
        ],
        "requestBody": {"required": True, "content": request},
        "responses": {str(status): described for status, described in responses.items()},
    }


def _selecting(serving: Serving, summary: str, description: str, request: dict[str, Any]) -> dict[str, Any]:
    """Return the operation of an endpoint whose query selects the outputs of the model."""
    names = ", ".join(spec.name for spec in serving.model.signature.outputs)
    description = f"{description} `?{outputs.NAME}=NAME,NAME` selects from: {names}."
    return _operation(summary, description, request, _json("Predictions"), [_outputs(serving)])


def _outputs(serving: Serving) -> dict[str, Any]:
    """Return the parameter of the query that selects outputs."""
    names = [spec.name for spec in serving.model.signature.outputs]
    default = serving.model.select_outputs(None)
    return {
        "name": outputs.NAME,
        "in": "query",
        "description": "Outputs of the model, with a comma between two. One: `predictions` has its values. Several: "
        f"`predictions` has an object by output name for each row. Default: {', '.join(default)}",
        "schema": {"type": "array", "items": {"type": "string", "enum": names}, "minItems": 1, "uniqueItems": True},
        "style": "form",
        "explode": False,
        "example": list(default),
    }


def _infer(serving: Serving, examples: Examples) -> dict[str, Any]:
    names = ", ".join(spec.name for spec in serving.model.signature.outputs)
    description = (
        f"Predict rows in the Open Inference Protocol v2. `outputs` selects from: {names}. A request may send tensors, "
        "and select outputs, as binary data behind the JSON; the header `Inference-Header-Content-Length` is then the "
        "length of the JSON."
    )
    binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return _operation(
        "Infer", description, _json("InferRequest", examples.request) | binary, _json("InferResponse") | binary
    )  # fmt: skip


def _predict(serving: Serving, examples: Examples) -> dict[str, Any]:
    description = (
        "Predict rows in the v1 protocol of KServe and TensorFlow Serving: arrays, or objects by feature name."
    )
    return _selecting(serving, "Predict (v1)", description, _json("RowsV1", examples.instances))


def _explain(_serving: Serving, examples: Examples) -> dict[str, Any]:
    description = (
        "Contribution of each feature of a row to the raw score of the model; the last number is the base value."
    )
    return _operation("Explain (v1)", description, _json("RowsV1", examples.instances), _json("Explanations"))


def _invocations(serving: Serving, examples: Examples) -> dict[str, Any]:
    description = "Predict a table in the formats of MLflow: JSON, or CSV with a header line."
    lines: dict[str, Any] = {"schema": {"type": "string"}}
    if examples.csv:
        lines["example"] = examples.csv
    content = _json("Table", examples.split) | {"text/csv": lines}
    return _selecting(serving, "Predict a table (MLflow)", description, content)


def _rows(serving: Serving, examples: Examples) -> dict[str, Any]:
    description = "Predict a row as a plain JSON object by feature name, or an array of rows; null is a missing number."
    return _selecting(serving, "Predict plain rows", description, _json("Rows", examples.row))


_OPERATIONS: dict[str, Callable[[Serving, Examples], dict[str, Any]]] = {
    "POST /v2/models/{name}/infer": _infer,
    "POST /v1/models/{name}:predict": _predict,
    "POST /v1/models/{name}:explain": _explain,
    "POST /invocations": _invocations,
    "POST /predict": _rows,
}


def _require_keys(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    document["security"] = [{"bearer": []}, {"key": []}]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            if path in _WITHOUT_KEY or path.endswith(("/ready", "/live")):
                operation["security"] = []
            else:
                operation["responses"] |= {str(status): error for status, error in _error_responses(401).items()}
