"""The outputs of the model that a request selects in its query: ``?outputs=predict_proba,decision_function``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn
from urllib.parse import quote, unquote

from mlmodel_server.engine.model import Model
from mlmodel_server.errors import RequestError
from mlmodel_server.rest.body import Head
from mlmodel_server.rest.endpoints import Endpoint
from mlmodel_server.tensors import InferRequest

NAME = "outputs"


def select(endpoints: Mapping[str, Endpoint], path: str, query: bytes, model: Model) -> tuple[Endpoint | None, bool]:
    """Return the endpoint of a path, None without one, for the outputs that its query selects, and whether the query
    selects them in the usual spelling."""
    endpoint = endpoints.get(path)
    return with_query(endpoint, query, model) if endpoint and query else (endpoint, False)


def with_query(endpoint: Endpoint, query: bytes, model: Model) -> tuple[Endpoint, bool]:
    """Return the endpoint for requests with this query, and whether the query selects outputs in the usual spelling.

    Its ``decode`` raises :class:`RequestError` for a wrong query: after the API key, before it parses rows.
    """
    try:
        names = _parse(query)
        if names is None:
            return endpoint, False
        if endpoint.no_outputs:
            raise RequestError(endpoint.no_outputs)
        outputs = model.select_outputs(names)
    except RequestError as error:
        return replace(endpoint, decode=_rejects(error)), False
    usual = f"{NAME}={','.join(map(quote, outputs))}".encode()
    return replace(endpoint, decode=_selects(endpoint.decode, outputs)), query == usual


def _parse(query: bytes) -> list[str] | None:
    """Return the names in a query, None if it does not select outputs. Other parameters are ignored."""
    fields = [field.partition("=") for field in query.decode("latin-1").split("&")]
    found = [value for name, _, value in fields if unquote(name) == NAME]
    if not found:
        return None
    if len(found) > 1:
        raise RequestError("the query has outputs twice: send one, with a comma between two names")
    return [unquote(name.replace("+", " ")) for name in found[0].split(",")]


def _selects(decode: Callable[[Head, bytes], InferRequest], outputs: Sequence[str]) -> Callable[..., InferRequest]:
    def selecting(head: Head, body: bytes) -> InferRequest:
        request = decode(head, body)
        return InferRequest(request.id, request.inputs, list(outputs), request.parameters)

    return selecting


def _rejects(error: RequestError) -> Callable[..., NoReturn]:
    def rejecting(_head: Head, _body: bytes) -> NoReturn:
        raise error

    return rejecting
