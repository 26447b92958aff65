"""``/openapi.json``: every address of this server, what it takes, what it answers, and examples that work here."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from mlmodel_server.formats.opened import CONTRIBUTIONS
from mlmodel_server.rest.body import TIMEOUT
from mlmodel_server.rest.endpoints import endpoints
from mlmodel_server.rest.schemas import ref, schemas
from mlmodel_server.serving.context import Serving

LARGE = 16 << 10
"""Bytes of an example, from which on it is not shown; ``…/example`` has it."""

ERRORS = {
    400: "The request does not fit: the error names the field",
    401: "No API key, or one that is not known",
    404: "There is nothing at this address",
    405: "Another method is needed here",
    413: "Too large: the error names the limit",
    415: "Another content type or compression is needed",
    429: "Too many requests wait; Retry-After says when to try again",
    500: "The model failed on this input",
    503: "The deadline cannot be met, or the server ends",
}
"""What each status means, on every path."""

_OPEN = ("/", "/metrics")
_BODY_ERRORS = (400, 413, 415, 429, 500, 503)


def answers(schema: str, *errors: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that answers JSON of this ``schema``, or one of these ``errors``."""
    return {200: {"description": "The answer", "content": _json(schema)}, **_failures(*errors)}


def text(*content_types: str) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that answers text."""
    return {
        200: {"description": "The answer", "content": {name: {"schema": {"type": "string"}} for name in content_types}}
    }


def feedback_body(classes: Sequence[str]) -> dict[str, Any]:
    """The body of feedback; the id of the example is none."""
    label: Any = classes[0] if classes else 1.5
    example = {"prediction_id": "the header x-mlmodel-prediction-id of an answer", "label": label}
    return {"required": True, "content": _json("Feedback", example)}


def document(app: FastAPI, serving: Serving) -> dict[str, Any]:
    """The whole description: the routes of ``app``, and those that predict, which never reach its router."""
    described = get_openapi(
        title=app.title,
        version=app.version,
        routes=app.routes,
        description=f'Predictions of {serving.name}, version {serving.version}. Every error is `{{"error": …}}`.',
    )
    examples, predicting = Examples(serving), {}
    for path, endpoint in endpoints(serving).items():
        describe = _OPERATIONS[endpoint.route]
        if not path.endswith("/") and (describe is not _explain or _explains(serving)):
            predicting[path] = {"post": describe(serving, examples) | {"operationId": f"post{path}"}}
    described["paths"] = predicting | described["paths"]
    described["components"] = {"schemas": schemas(serving.model.signature.inputs)}
    if serving.keys:
        _ask_for_keys(described)
    return described


class Examples:
    """The example row of the model, as every format has it; None where a format cannot say it, or not shortly."""

    def __init__(self, serving: Serving) -> None:
        self.request: Any = json.loads(serving.example) if len(serving.example) < LARGE else None
        self.row: dict[str, Any] | None = None
        if self.request and all(tensor["shape"][0] == 1 for tensor in self.request["inputs"]):
            self.row = {tensor["name"]: nested(tensor["data"], tensor["shape"])[0] for tensor in self.request["inputs"]}

    @property
    def instances(self) -> dict[str, Any] | None:
        """As the v1 protocol has it."""
        if self.row is None:
            return None
        return {"instances": [self.row if len(self.row) > 1 else next(iter(self.row.values()))]}

    @property
    def split(self) -> dict[str, Any] | None:
        """As MLflow has it."""
        if self.row is None:
            return None
        names, values = self._columns(self.row)
        return {"dataframe_split": {"columns": names, "data": [values]}}

    @property
    def csv(self) -> str | None:
        """As lines of text; of tables only."""
        if self.row is None:
            return None
        names, values = self._columns(self.row)
        if any(isinstance(value, list) for value in values):
            return None
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(
            [names, [str(value).lower() if isinstance(value, bool) else value for value in values]]
        )
        return lines.getvalue()

    @staticmethod
    def _columns(row: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
        """Names and values of a table; the columns of a model that has no names for them are numbered."""
        only = next(iter(row.values()))
        if len(row) == 1 and isinstance(only, list):
            return [f"column {place}" for place in range(len(only))], only
        return list(row), list(row.values())


def nested(data: list[Any], shape: Sequence[int]) -> list[Any]:
    """Flat, row-major ``data`` as nested lists of this shape."""
    for size in reversed(shape[1:]):
        data = [data[start : start + size] for start in range(0, len(data), size)] if size else []
    return data


def _explains(serving: Serving) -> bool:
    return any(spec.name == CONTRIBUTIONS for spec in serving.model.signature.outputs)


def _json(schema: str, example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": ref(schema)}
    return {"application/json": content if example is None else content | {"example": example}}


def _failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": ERRORS[status], "content": _json("Error")} for status in statuses}


def _operation(summary: str, description: str, content: dict[str, Any], answered: dict[str, Any]) -> dict[str, Any]:
    """One of the addresses that predict."""
    said = {"type": "string"}
    responses = {
        200: {
            "description": "The answer",
            "content": answered,
            "headers": {
                "x-mlmodel-version": {"description": "Who answered", "schema": said},
                "x-mlmodel-revision": {"description": "Who answered, to the letter", "schema": said},
                "x-mlmodel-prediction-id": {
                    "description": "To be sent with the label once it is known; up to 64 rows have one",
                    "schema": said,
                },
            },
        },
        **_failures(*_BODY_ERRORS),
    }
    return {
        "tags": ["predict"],
        "summary": summary,
        "description": description,
        "parameters": [
            {
                "name": TIMEOUT.decode(),
                "in": "header",
                "description": "Milliseconds after which nobody waits for the answer any more",
                "schema": {"type": "integer", "minimum": 0, "maximum": 10**9},
            }
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {str(status): response for status, response in responses.items()},
    }


def _infer(serving: Serving, examples: Examples) -> dict[str, Any]:
    names = ", ".join(spec.name for spec in serving.model.signature.outputs)
    said = (
        f"Predict rows, as the Open Inference Protocol v2 says it. `outputs` chooses among: {names}. Tensors may also "
        "be sent, and asked for, as binary data behind the JSON; the length of the JSON is then the header "
        "`Inference-Header-Content-Length`."
    )
    binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return _operation(
        "Infer", said, _json("InferRequest", examples.request) | binary, _json("InferResponse") | binary
    )  # fmt: skip


def _predict(_serving: Serving, examples: Examples) -> dict[str, Any]:
    said = "Predict rows, as KServe's v1 protocol and TensorFlow Serving say it: arrays, or objects by feature name."
    return _operation("Predict (v1)", said, _json("RowsV1", examples.instances), _json("Predictions"))


def _explain(_serving: Serving, examples: Examples) -> dict[str, Any]:
    said = "How much each feature of a row adds to the model's raw score; last comes what every row begins with."
    return _operation("Explain (v1)", said, _json("RowsV1", examples.instances), _json("Explanations"))


def _invocations(_serving: Serving, examples: Examples) -> dict[str, Any]:
    said = "Predict a table, as MLflow's scoring server takes it: JSON, or CSV with a line of names."
    lines: dict[str, Any] = {"schema": {"type": "string"}}
    if examples.csv:
        lines["example"] = examples.csv
    return _operation(
        "Predict a table (MLflow)", said, _json("Table", examples.split) | {"text/csv": lines}, _json("Predictions")
    )


def _rows(_serving: Serving, examples: Examples) -> dict[str, Any]:
    said = "Predict a row that is a plain JSON object by feature name, or an array of them. null is a missing number."
    return _operation("Predict plain rows", said, _json("Rows", examples.row), _json("Predictions"))


_OPERATIONS: dict[str, Callable[[Serving, Examples], dict[str, Any]]] = {
    "POST /v2/models/{name}/infer": _infer,
    "POST /v1/models/{name}:predict": _predict,
    "POST /v1/models/{name}:explain": _explain,
    "POST /invocations": _invocations,
    "POST /predict": _rows,
}


def _ask_for_keys(described: dict[str, Any]) -> None:
    described["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    described["security"] = [{"bearer": []}, {"key": []}]
    for path, methods in described["paths"].items():
        for operation in methods.values():
            if path in _OPEN or path.endswith(("/ready", "/live")):
                operation["security"] = []
            else:
                operation["responses"] |= {str(status): said for status, said in _failures(401).items()}
