"""All routes except inference, with FastAPI: health, metadata, metrics, feedback, documentation, the page."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from mlmodel_server.errors import RequestError
from mlmodel_server.page import Page, page
from mlmodel_server.page.reference import reference
from mlmodel_server.rest import openapi, schemas
from mlmodel_server.rest.body import JSON, content_type_of
from mlmodel_server.rest.endpoints import endpoints
from mlmodel_server.serving import describe
from mlmodel_server.serving.context import Serving
from mlmodel_server.serving.exchange import failure_of
from mlmodel_server.tensors import quoted
from mlmodel_server.texts import guess

FEEDBACK_BYTES = 1 << 20
"""Maximum size of the body of one request of feedback."""


def routes(serving: Serving) -> FastAPI:
    """Return the FastAPI application of one model. Its errors have the form of the protocol."""
    app = FastAPI(
        title=f"{serving.name} {serving.version}", docs_url=None, redoc_url=None, redirect_slashes=False, version="2"
    )
    _health(app, serving)
    _metadata(app, serving)
    _observability(app, serving)
    _pages(app, serving)
    _errors(app, serving)

    def cached_document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.build(app, serving)
        return app.openapi_schema

    app.openapi = cached_document  # type: ignore[method-assign]  # how FastAPI documents it
    return app


def _health(app: FastAPI, serving: Serving) -> None:
    async def live() -> JSONResponse:
        """Whether the process answers; for the liveness probe."""
        return JSONResponse(schemas.Live(live=True))

    async def ready() -> JSONResponse:
        """Whether the server accepts requests; for the readiness probe. False from SIGTERM on."""
        return JSONResponse(schemas.Ready(ready=not serving.draining), 503 if serving.draining else 200)

    async def model_ready() -> JSONResponse:
        """Whether the server accepts requests for this model. False from SIGTERM on."""
        ready = not serving.draining
        return JSONResponse(schemas.Ready(name=serving.name, ready=ready), 200 if ready else 503)

    ready_responses = openapi.responses("Ready")
    ready_responses[503] = {**ready_responses[200], "description": "The server drains"}
    _get(app, "/v2/health/live", live, openapi.responses("Live"))
    for path in ("/v2/health/ready", "/ping"):
        _get(app, path, ready, ready_responses)
    model = f"/v2/models/{serving.name}"
    for path in (f"{model}/ready", f"{model}/versions/{serving.version}/ready", f"/v1/models/{serving.name}"):
        _get(app, path, model_ready, ready_responses)


def _metadata(app: FastAPI, serving: Serving) -> None:
    async def server() -> JSONResponse:
        """Name, version and extensions of the server."""
        name, version, extensions = describe.server()
        return JSONResponse(schemas.Server(name=name, version=version, extensions=extensions))

    async def models() -> JSONResponse:
        """The one model of this server."""
        return JSONResponse(schemas.Models(models=[serving.name]))

    async def metadata() -> JSONResponse:
        """Inputs and outputs of the model; -1 in a shape is any number of rows."""
        return JSONResponse(msgspec.to_builtins(describe.model(serving)))

    async def example() -> Response:
        """A request with one real row, which you can post to infer unchanged; zeros for a model without a package."""
        return Response(serving.example, media_type="application/json")

    async def profile() -> JSONResponse:
        """Profile of the columns at training: ranges, deciles, most frequent texts."""
        return JSONResponse(serving.profile)

    model = f"/v2/models/{serving.name}"
    _get(app, "/v2", server, openapi.responses("Server"))
    _get(app, "/v1/models", models, openapi.responses("Models"))
    for path in (model, f"{model}/versions/{serving.version}"):
        _get(app, path, metadata, openapi.responses("ModelMetadata"))
    _get(app, f"{model}/example", example, openapi.responses("InferRequest"))
    _get(app, f"{model}/profile", profile, openapi.responses("Profile"))


def _observability(app: FastAPI, serving: Serving) -> None:
    async def feedback(request: Request) -> JSONResponse:
        """Labels by prediction id: they score the version that predicted."""
        content_type_of(dict(request.headers.raw), frozenset((JSON,)))
        return JSONResponse(serving.feedback.post(await _read(request)))

    async def stats() -> JSONResponse:
        """Requests, latency, drift and scores of this pod since its start: the figures of the page at /."""
        return JSONResponse(describe.stats(serving))

    async def metrics(request: Request) -> Response:
        """Prometheus metrics of all workers. The router does not pass this path on."""
        names = request.query_params.getlist("name[]")
        body, content_type = serving.recorder.text(request.headers.get("accept", ""), names)
        return Response(body, media_type=content_type)

    model = f"/v2/models/{serving.name}"
    app.post(
        f"{model}/feedback",
        responses=openapi.responses("Scored", 400, 413, 415),
        openapi_extra={"requestBody": openapi.feedback_body(serving.model.signature.classes)},
    )(feedback)
    _get(app, f"{model}/stats", stats, openapi.responses("Stats"))
    selected = {"name": "name[]", "in": "query", "description": "select a metric by name", "schema": {"type": "string"}}
    app.get(
        "/metrics",
        response_class=Response,
        responses=openapi.text_responses("text/plain", "application/openmetrics-text"),
        openapi_extra={"parameters": [selected]},
    )(metrics)


def _pages(app: FastAPI, serving: Serving) -> None:
    first = page()

    def html(page: Page) -> HTMLResponse:
        return HTMLResponse(page.body, headers=page.headers)

    async def root(request: Request) -> Response:
        """A page to try the model and to watch it; clients of the v1 protocol get {"status": "alive"}."""
        if "text/html" in request.headers.get("accept", ""):
            return html(first)
        return JSONResponse(schemas.Alive(status="alive"))

    async def docs(request: Request) -> HTMLResponse:
        """A page that shows how to send requests to this model; needs no internet access."""
        return html(reference(app.openapi(), serving, str(request.base_url).rstrip("/")))

    app.get("/", response_class=HTMLResponse, responses=openapi.responses("Alive"))(root)
    app.get("/docs", response_class=HTMLResponse)(docs)


def _errors(app: FastAPI, serving: Serving) -> None:
    known = [*endpoints(serving), *(route.path for route in app.routes if isinstance(route, APIRoute))]

    @app.exception_handler(RequestError)
    @app.exception_handler(Exception)
    async def failed(_request: Request, error: Exception) -> JSONResponse:
        failure = failure_of(error)
        headers = {"Retry-After": str(failure.retry_after)} if failure.retry_after else None
        return JSONResponse(schemas.Error(error=failure.message), failure.status, headers)

    @app.exception_handler(HTTPException)
    async def not_routed(request: Request, failure: HTTPException) -> JSONResponse:
        path = quoted(request.url.path)
        if failure.status_code == 404:
            similar = guess(request.url.path, known)
            message = f"path {path} not found{similar}: this server serves /v2/models/{serving.name}, see /docs"
        else:
            message = f"method {request.method} is not allowed at {path}: see /docs"
        headers = dict(failure.headers or {})
        if headers.get("Allow") == "GET":
            headers["Allow"] = "GET, HEAD"
        return JSONResponse(schemas.Error(error=message), failure.status_code, headers)


def _get(app: FastAPI, path: str, endpoint: Any, responses: dict[int | str, dict[str, Any]]) -> None:
    """Add a route for GET ``path``, with and without a slash at the end."""
    app.get(path, responses=responses)(endpoint)
    app.get(f"{path}/", include_in_schema=False)(endpoint)


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FEEDBACK_BYTES:
            raise RequestError(f"the feedback has more than {FEEDBACK_BYTES} bytes: send several requests", 413)
    return bytes(body)
