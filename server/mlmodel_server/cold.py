"""The routes that are not in a hurry: health, metadata, metrics, documentation."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from . import describe
from .errors import RequestError
from .protocol.tensors import DTYPES, TensorSpec
from .protocol.v2 import shown

if TYPE_CHECKING:
    from .serving import Serving

FEEDBACK_BYTES = 1 << 20


def cold_routes(serving: Serving) -> FastAPI:
    """The FastAPI application for one served model. Errors have the protocol's own form."""
    app = FastAPI(
        title=f"{serving.name} {serving.version}", docs_url=None, redoc_url=None, redirect_slashes=False, version="2"
    )
    model = f"/v2/models/{serving.name}"

    def reply(content: dict[str, Any], status: int = 200) -> JSONResponse:
        return JSONResponse(content, status)

    async def live() -> JSONResponse:
        """Whether the process works; the liveness probe."""
        return reply({"live": True})

    async def ready() -> JSONResponse:
        """Whether requests should be sent here; the readiness probe. False from SIGTERM on."""
        return reply({"ready": not serving.draining}, 503 if serving.draining else 200)

    async def model_ready() -> JSONResponse:
        """Whether this model answers requests."""
        return reply({"name": serving.name, "ready": not serving.draining}, 503 if serving.draining else 200)

    async def server() -> JSONResponse:
        """What this server is."""
        name, version, extensions = describe.server()
        return reply({"name": name, "version": version, "extensions": extensions})

    async def metadata() -> JSONResponse:
        """Inputs and outputs of the model; -1 in a shape is any number of rows."""
        return reply(msgspec.to_builtins(describe.model(serving)))

    async def feedback(request: Request) -> JSONResponse:
        """What really happened, by prediction id: scores the version that predicted."""
        return reply(serving.feedback.post(await _bounded(request)))

    async def metrics(request: Request) -> Response:
        """Prometheus metrics of all workers; ``?name[]=NAME`` for some of them."""
        names = request.query_params.getlist("name[]")
        body, content_type = serving.recorder.text(request.headers.get("accept", ""), names)
        return Response(body, media_type=content_type)

    async def docs() -> HTMLResponse:
        """A page that describes the model and how to ask it; needs nothing from the internet."""
        return HTMLResponse(_page(serving))

    async def v1_models() -> JSONResponse:
        """The models of the v1 protocol: this one."""
        return reply({"models": [serving.name]})

    async def v1_ready() -> JSONResponse:
        """Whether this model answers requests, as the v1 protocol says it."""
        return reply({"name": serving.name, "ready": not serving.draining}, 503 if serving.draining else 200)

    for path, endpoint in {
        "/v2": server,
        "/v1/models": v1_models,
        f"/v1/models/{serving.name}": v1_ready,
        "/ping": ready,
        "/v2/health/live": live,
        "/v2/health/ready": ready,
        model: metadata,
        f"{model}/ready": model_ready,
        f"{model}/versions/{serving.version}": metadata,
        f"{model}/versions/{serving.version}/ready": model_ready,
    }.items():
        app.get(path)(endpoint)
        app.get(f"{path}/", include_in_schema=False)(endpoint)
    app.post(f"{model}/feedback")(feedback)
    app.get("/metrics", response_class=Response)(metrics)
    app.get("/docs", response_class=HTMLResponse)(docs)

    @app.exception_handler(RequestError)
    async def refused(_request: Request, error: RequestError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, error.status)

    @app.exception_handler(HTTPException)
    async def error(request: Request, failure: HTTPException) -> JSONResponse:
        message = f"{request.method} is not possible at {shown(request.url.path)}"
        if failure.status_code == 404:
            message = f"there is nothing at {shown(request.url.path)}: this server serves {model}, described at /docs"
        return JSONResponse({"error": message}, failure.status_code, failure.headers)

    @app.exception_handler(Exception)
    async def bug(_request: Request, failure: Exception) -> JSONResponse:
        return JSONResponse({"error": f"internal error ({type(failure).__name__})"}, 500)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            app.openapi_schema["paths"][f"{model}/infer"] = {"post": _infer_operation(serving)}
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # how FastAPI documents it: infer never reaches its router
    return app


async def _bounded(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FEEDBACK_BYTES:
            raise RequestError(f"more than {FEEDBACK_BYTES} bytes of feedback: send it in parts", 413)
    return bytes(body)


def _infer_operation(serving: Serving) -> dict[str, Any]:
    def tensor(*more: str) -> dict[str, Any]:
        return {
            "type": "object",
            "required": ["name", "shape", "datatype", *more],
            "properties": {
                "name": {"type": "string"},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                "datatype": {"enum": list(DTYPES)},
                "data": {"type": "array", "items": {}, "description": "flat or nested, row-major"},
            },
        }

    named = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    failure = {
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
            }
        }
    }
    request = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "items": tensor("data"), "minItems": 1},
            "outputs": {"type": "array", "items": named},
        },
    }
    response = {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": tensor("data")},
        },
    }
    return {
        "summary": "Infer",
        "description": "Predict rows. Outputs: " + ", ".join(spec.name for spec in serving.model.signature.outputs),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": request, "example": json.loads(serving.example)}},
        },
        "responses": {
            "200": {"description": "The answers", "content": {"application/json": {"schema": response}}},
            "400": {"description": "The request does not fit; the error names the field", **failure},
            "413": {"description": f"More than {serving.limits.max_body} bytes", **failure},
            "415": {"description": "Not JSON", **failure},
            "500": {"description": "The model failed on this input", **failure},
        },
    }


def _page(serving: Serving) -> str:
    def table(specs: tuple[TensorSpec, ...]) -> str:
        rows = "".join(f"<tr><td>{html.escape(spec.name)}<td>{spec.datatype}<td>{list(spec.shape)}" for spec in specs)
        return f"<table><tr><th>name<th>datatype<th>shape{rows}</table>"

    signature = serving.model.signature
    address = f"/v2/models/{html.escape(serving.name)}/infer"
    example = html.escape(serving.example.decode())
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(serving.name)}</title>
<style>body{{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}}table{{border-collapse:collapse}}
td,th{{border:1px solid #ccc;padding:.2rem .6rem;text-align:left}}pre{{background:#f4f4f4;padding:1rem;
white-space:pre-wrap;overflow-wrap:anywhere}}</style>
<h1>{html.escape(serving.name)} {html.escape(serving.version)}</h1>
<p>Ask it with the <a href="https://github.com/open-inference/open-inference-protocol">Open Inference Protocol v2</a>;
-1 in a shape is any number of rows. Machine-readable: <a href="/openapi.json">openapi.json</a>,
<a href="/v2/models/{html.escape(serving.name)}">metadata</a>, <a href="/metrics">metrics</a>.</p>
<h2>Ask</h2><pre>curl -H 'Content-Type: application/json' http://HOST{address} -d '{example}'</pre>
<p>Add <code>"outputs": [{{"name": "..."}}]</code> to choose outputs; the default is <code>predict</code>.</p>
<h2>Inputs</h2>{table(signature.inputs)}
<h2>Outputs</h2>{table(signature.outputs)}
</html>"""
