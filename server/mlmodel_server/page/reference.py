"""The page at ``/docs``: how to send requests to this server, made from its OpenAPI description."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from mlmodel_server.page import Page, whole
from mlmodel_server.serving.context import Serving
from mlmodel_server.tensors import TensorSpec, kind

_JSON = "application/json"
_GRPC_FIELDS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def reference(openapi: Mapping[str, Any], serving: Serving, host: str) -> Page:
    """Return the document. ``host`` is the address that the client used, such as ``http://127.0.0.1:8080``."""
    name, signature = escape(serving.name), serving.model.signature
    key = "KEY=…\n" if serving.keys else ""
    body = [
        f"<h1>{name} {escape(serving.version)}</h1>",
        '<p>How to send requests to this server. <a href="./">Try the model</a> in the browser; programs can read '
        '<a href="openapi.json">openapi.json</a>.</p>',
        f"<h2>Requests</h2><p>All commands below work unchanged after:</p>{_pre(f'{key}HOST={shlex.quote(host)}')}",
        *_predicting(openapi, serving),
        *_feedback(serving),
        *_grpc(serving, host),
        f"<h2>Inputs</h2><p>-1 is any number of rows.</p>{_specs(signature.inputs)}",
        f"<h2>Outputs</h2>{_specs(signature.outputs)}",
        f"<h2>Paths</h2>{_paths(openapi)}",
        f"<h2>Headers</h2>{_headers(openapi, serving)}",
        f"<h2>Errors</h2><p>Every error is <code>{{&quot;error&quot;: &quot;…&quot;}}</code>, one sentence that names "
        f"what to change.</p>{_errors(openapi)}",
    ]
    return whole(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Requests to {name}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f'<link rel="stylesheet" href="style.css"><main class="card reference">{"".join(body)}</main></html>'
    )


def _predicting(openapi: Mapping[str, Any], serving: Serving) -> Iterator[str]:
    """Yield a section for each path that predicts; paths with a version are only in the table."""
    for path, methods in openapi["paths"].items():
        operation = methods.get("post", {})
        if "predict" not in operation.get("tags", ()) or "/versions/" in path:
            continue
        yield f"<h3>{escape(operation['summary'])}</h3><p>{_text(operation['description'])}</p>"
        content = operation["requestBody"]["content"]
        commands = [_curl(serving, path, kind, body["example"]) for kind, body in content.items() if "example" in body]
        if not commands and path.endswith("/infer"):
            commands = [f"{_get_example(serving)} |\n  {_post(serving, path)} -d @-"]
        yield from map(_pre, commands)


def _curl(serving: Serving, path: str, content_type: str, example: Any) -> str:
    body = json.dumps(example, ensure_ascii=False) if content_type == _JSON else example
    return f"{_post(serving, path, content_type)} \\\n  --data-binary {shlex.quote(body)}"


def _post(serving: Serving, path: str, content_type: str = _JSON) -> str:
    return f"curl -s{_key(serving)} {_url(path)} -H 'Content-Type: {content_type}'"


def _url(path: str) -> str:
    return f"$HOST{shlex.quote(path)}"


def _key(serving: Serving) -> str:
    return ' -H "Authorization: Bearer $KEY"' if serving.keys else ""


def _get_example(serving: Serving) -> str:
    return f"curl -s{_key(serving)} {_url(f'/v2/models/{serving.name}/example')}"


def _feedback(serving: Serving) -> Iterator[str]:
    model, classes = f"/v2/models/{serving.name}", serving.model.signature.classes
    label = json.dumps(classes[0] if classes else 1.5, ensure_ascii=False)
    yield (
        "<h3>Feedback</h3><p>The response for up to 64 rows has a prediction id in its header. Post the id later with "
        "the label, or with labels for several rows: it scores the version that predicted.</p>"
    )
    yield _pre(
        f"ID=$({_get_example(serving)} |\n"
        f"  {_post(serving, f'{model}/infer')} -d @- -o /dev/null -D - |\n"
        "  sed -n 's/^x-mlmodel-prediction-id: //p' | tr -d '\\r')\n"
        f"{_post(serving, f'{model}/feedback')} \\\n"
        '  -d \'{"prediction_id": "\'$ID' + shlex.quote(f'", "label": {label}}}')
    )


def _grpc(serving: Serving, host: str) -> Iterator[str]:
    if not serving.grpc:
        return
    address = f"{host.partition('://')[2].rpartition(':')[0] or 'HOST'}:{serving.grpc.rpartition(':')[2]}"
    yield (
        "<h3>gRPC</h3><p>The same protocol as <code>inference.GRPCInferenceService</code>, with reflection and the "
        "standard health service. The prediction id is a parameter of the response.</p>"
    )
    request = json.loads(serving.example) if len(serving.example) < 1 << 14 else {"inputs": []}
    fields = [_GRPC_FIELDS.get(tensor["datatype"]) for tensor in request["inputs"]]
    if not fields or None in fields:  # FP16 has no typed field: it is sent as raw bytes
        return
    if any(None in tensor["data"] for tensor in request["inputs"]):  # gRPC has no missing text
        return
    message = {
        "model_name": serving.name,
        "inputs": [
            {
                "name": tensor["name"],
                "datatype": tensor["datatype"],
                "shape": tensor["shape"],
                "contents": {field: _encoded(tensor)},
            }
            for tensor, field in zip(request["inputs"], fields, strict=True)
        ],
    }
    key = ' -H "authorization: Bearer $KEY"' if serving.keys else ""
    plain = "" if serving.certificate else " -plaintext"
    data = shlex.quote(json.dumps(message, ensure_ascii=False))
    yield _pre(f"grpcurl{plain}{key} -d {data} \\\n  {address} inference.GRPCInferenceService/ModelInfer")


def _encoded(tensor: Mapping[str, Any]) -> list[Any]:
    if tensor["datatype"] != "BYTES":
        return list(tensor["data"])
    return [base64.b64encode(value.encode()).decode() for value in tensor["data"]]


def _specs(specs: tuple[TensorSpec, ...]) -> str:
    rows = [
        (escape(spec.name), f"<code>{spec.datatype}</code>, {escape(_described(spec))}", str(list(spec.shape)))
        for spec in specs
    ]
    return _table(("name", "type", "shape"), rows)


def _described(spec: TensorSpec) -> str:
    what = {float: "numbers", int: "integers", bool: "true or false", str: "text"}[kind(spec.datatype)]
    if spec.column is None:
        return what
    what = f"dates as {spec.column.format}" if spec.column.format else what
    return f"{what}; null is a missing value" if spec.column.missing else what


def _paths(openapi: Mapping[str, Any]) -> str:
    """Return a table of all paths; paths with the same description share a row."""
    rows: dict[tuple[str, str], list[str]] = {}
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            rows.setdefault((method.upper(), operation["description"]), []).append(f"<code>{escape(path)}</code>")
    return _table(
        ("method", "path", "description"),
        [(method, "<br>".join(paths), _text(what)) for (method, what), paths in rows.items()],
    )


def _headers(openapi: Mapping[str, Any], serving: Serving) -> str:
    operation = openapi["paths"][f"/v2/models/{serving.name}/infer"]["post"]
    sent = [(header["name"], "request", header["description"]) for header in operation["parameters"]]
    returned = [
        (name, "response", header["description"]) for name, header in operation["responses"]["200"]["headers"].items()
    ]
    keys = [("authorization", "request", "Bearer, and the API key")] if serving.keys else []
    return _table(
        ("name", "in the", "description"),
        [(f"<code>{escape(n)}</code>", where, escape(text)) for n, where, text in sent + keys + returned],
    )


def _errors(openapi: Mapping[str, Any]) -> str:
    found = {
        str(status): response["description"]
        for methods in openapi["paths"].values()
        for operation in methods.values()
        for status, response in operation["responses"].items()
        if _JSON in response.get("content", {}) and "Error" in str(response["content"][_JSON])
    }
    return _table(("status", "description"), [(status, escape(text)) for status, text in sorted(found.items())])


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table; its cells are HTML."""
    top = "".join(f"<th scope=col>{cell}" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}' for cell in row)}" for row in rows)
    return f'<div class="scroll"><table><tr>{top}{body}</table></div>'


def _pre(text: str) -> str:
    return f'<pre tabindex="0">{escape(text)}</pre>'


def _text(text: str) -> str:
    """Escape ``text``, with text between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
