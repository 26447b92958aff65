"""The routes beside inference, which FastAPI answers: health, metadata, metrics, feedback, documentation, the page."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from mlmodel_server.errors import RequestError
from mlmodel_server.page import Page, page
from mlmodel_server.page.reference import reference
from mlmodel_server.rest import openapi, schemas
from mlmodel_server.serving import describe
from mlmodel_server.serving.context import Serving
from mlmodel_server.serving.exchange import failure_of
from mlmodel_server.tensors import quoted

FEEDBACK_BYTES = 1 << 20


def routes(serving: Serving) -> FastAPI:
    """The FastAPI application for one served model. Errors have the protocol's own form."""
    app = FastAPI(
        title=f"{serving.name} {serving.version}", docs_url=None, redoc_url=None, redirect_slashes=False, version="2"
    )
    _health(app, serving)
    _descriptions(app, serving)
    _watching(app, serving)
    _pages(app, serving)
    _errors(app, serving)

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.document(app, serving)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # how FastAPI documents it
    return app


def _health(app: FastAPI, serving: Serving) -> None:
    async def live() -> JSONResponse:
        """Whether the process works; the liveness probe."""
        return JSONResponse(schemas.Live(live=True))

    async def ready() -> JSONResponse:
        """Whether requests should be sent here; the readiness probe. False from SIGTERM on."""
        return JSONResponse(schemas.Ready(ready=not serving.draining), 503 if serving.draining else 200)

    async def model_ready() -> JSONResponse:
        """Whether this model answers requests."""
        ready = not serving.draining
        return JSONResponse(schemas.Ready(name=serving.name, ready=ready), 200 if ready else 503)

    probed = openapi.answers("Ready") | {503: {**openapi.answers("Ready")[200], "description": "Not any more"}}
    _get(app, "/v2/health/live", live, openapi.answers("Live"))
    for path in ("/v2/health/ready", "/ping"):
        _get(app, path, ready, probed)
    model = f"/v2/models/{serving.name}"
    for path in (f"{model}/ready", f"{model}/versions/{serving.version}/ready", f"/v1/models/{serving.name}"):
        _get(app, path, model_ready, probed)


def _descriptions(app: FastAPI, serving: Serving) -> None:
    async def server() -> JSONResponse:
        """What this server is."""
        name, version, extensions = describe.server()
        return JSONResponse(schemas.Server(name=name, version=version, extensions=extensions))

    async def models() -> JSONResponse:
        """The models of this server: one."""
        return JSONResponse(schemas.Models(models=[serving.name]))

    async def metadata() -> JSONResponse:
        """Inputs and outputs of the model; -1 in a shape is any number of rows."""
        return JSONResponse(msgspec.to_builtins(describe.model(serving)))

    async def example() -> Response:
        """A request of one real row that can be posted to infer as it is; zeros for a model without a package."""
        return Response(serving.example, media_type="application/json")

    async def profile() -> JSONResponse:
        """What the columns looked like at training: ranges, deciles, the commonest texts."""
        return JSONResponse(serving.profile)

    model = f"/v2/models/{serving.name}"
    _get(app, "/v2", server, openapi.answers("Server"))
    _get(app, "/v1/models", models, openapi.answers("Models"))
    for path in (model, f"{model}/versions/{serving.version}"):
        _get(app, path, metadata, openapi.answers("ModelMetadata"))
    _get(app, f"{model}/example", example, openapi.answers("InferRequest"))
    _get(app, f"{model}/profile", profile, openapi.answers("Profile"))


def _watching(app: FastAPI, serving: Serving) -> None:
    async def feedback(request: Request) -> JSONResponse:
        """What really happened, by prediction id: scores the version that predicted."""
        return JSONResponse(serving.feedback.post(await _bounded(request)))

    async def stats() -> JSONResponse:
        """Requests, latency, drift and scores since the start, of all workers: the numbers of the page at /."""
        return JSONResponse(describe.stats(serving))

    async def metrics(request: Request) -> Response:
        """Prometheus metrics of all workers; not passed on by the router."""
        names = request.query_params.getlist("name[]")
        body, content_type = serving.recorder.text(request.headers.get("accept", ""), names)
        return Response(body, media_type=content_type)

    model = f"/v2/models/{serving.name}"
    app.post(
        f"{model}/feedback",
        responses=openapi.answers("Scored", 400, 413),
        openapi_extra={"requestBody": openapi.feedback_body(serving.model.signature.classes)},
    )(feedback)
    _get(app, f"{model}/stats", stats, openapi.answers("Stats"))
    chosen = {"name": "name[]", "in": "query", "description": "only these samples", "schema": {"type": "string"}}
    app.get(
        "/metrics",
        response_class=Response,
        responses=openapi.text("text/plain", "application/openmetrics-text"),
        openapi_extra={"parameters": [chosen]},
    )(metrics)


def _pages(app: FastAPI, serving: Serving) -> None:
    first = page()

    def html(page: Page) -> HTMLResponse:
        return HTMLResponse(page.body, headers=page.headers)

    async def root(request: Request) -> Response:
        """A page on which the model can be tried and watched; for clients of the v1 protocol, a sign of life."""
        if "text/html" in request.headers.get("accept", ""):
            return html(first)
        return JSONResponse(schemas.Alive(status="alive"))

    async def docs(request: Request) -> HTMLResponse:
        """A page that tells how to ask this server; needs nothing from the internet."""
        return html(reference(app.openapi(), serving, str(request.base_url).rstrip("/")))

    app.get("/", response_class=HTMLResponse, responses=openapi.answers("Alive"))(root)
    app.get("/docs", response_class=HTMLResponse)(docs)


def _errors(app: FastAPI, serving: Serving) -> None:
    @app.exception_handler(RequestError)
    @app.exception_handler(Exception)
    async def failed(_request: Request, error: Exception) -> JSONResponse:
        failure = failure_of(error)
        return JSONResponse(schemas.Error(error=failure.message), failure.status)

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, failure: HTTPException) -> JSONResponse:
        path = quoted(request.url.path)
        message = f"{request.method} is not possible at {path}"
        if failure.status_code == 404:
            served = f"/v2/models/{serving.name}"
            message = f"there is nothing at {path}: this server serves {served}, described at /docs"
        return JSONResponse(schemas.Error(error=message), failure.status_code, failure.headers)


def _get(app: FastAPI, path: str, endpoint: Any, responses: dict[int | str, dict[str, Any]]) -> None:
    """Answer at ``path``, with and without a slash at its end."""
    app.get(path, responses=responses)(endpoint)
    app.get(f"{path}/", include_in_schema=False)(endpoint)


async def _bounded(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FEEDBACK_BYTES:
            raise RequestError(f"more than {FEEDBACK_BYTES} bytes of feedback: send it in parts", 413)
    return bytes(body)
