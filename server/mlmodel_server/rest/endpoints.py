"""The inference endpoints: their paths and wire formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlmodel_server.errors import RequestError
from mlmodel_server.formats.opened import CONTRIBUTIONS
from mlmodel_server.protocol import invocations, rows, v1, v2
from mlmodel_server.rest import elsewhere
from mlmodel_server.rest.body import JSON, Head
from mlmodel_server.rest.reply import Headers
from mlmodel_server.serving.context import Serving
from mlmodel_server.serving.inference import Answer
from mlmodel_server.tensors import InferRequest

BINARY = b"application/octet-stream"


@dataclass(frozen=True)
class Endpoint:
    """One wire format. ``route`` is its name in traces, ``what`` completes "POST …" in an error. ``decode`` raises
    :class:`~mlmodel_server.errors.RequestError`; ``encode`` returns headers and body. ``no_outputs`` is the error of a
    query with ``outputs``; "" if it selects outputs."""

    route: str
    what: str
    content_types: frozenset[bytes]
    decode: Callable[[Head, bytes], InferRequest]
    encode: Callable[[InferRequest, Answer], tuple[Headers, bytes]]
    no_outputs: str = ""
    is_sampled: bool = True
    """Whether the sample for a rehearsal may have its requests: predictions that name no version."""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Paths by the key of a JSON object that belongs there, and not here."""


def _not_served(*_: Any) -> Any:
    raise AssertionError("the pipeline rejects a request without an endpoint")


UNKNOWN = Endpoint("POST (unknown)", "", frozenset(), _not_served, _not_served, is_sampled=False)
"""The endpoint of inference requests to an unknown path: they are counted and rejected."""


def endpoints(serving: Serving) -> dict[str, Endpoint]:
    """Return the endpoints by path."""
    v2_base, v1_base = f"/v2/models/{serving.name}", f"/v1/models/{serving.name}"
    specs, json = rows.specs_of(serving.model.signature, single=serving.model.single), frozenset((JSON,))
    infer = Endpoint(
        "POST /v2/models/{name}/infer",
        "a v2 inference request",
        json | {BINARY},
        _v2_request,
        _v2_answer(serving),
        'a v2 request selects outputs in its body: send "outputs": [{"name": ...}] instead of the query',
    )
    predict = Endpoint(
        "POST /v1/models/{name}:predict",
        '{"instances": [...]}',
        json,
        lambda _, body: v1.decode(body, specs),
        _v1_answer,
    )
    table = Endpoint(
        "POST /invocations",
        "a table in a format of MLflow",
        json | {invocations.CSV},
        lambda head, body: invocations.decode(body, head.content_type, specs),
        _v1_answer,
    )
    explain = Endpoint(
        "POST /v1/models/{name}:explain",
        '{"instances": [...]}',
        json,
        _explain_request(serving, specs),
        _explain_answer,
        ":explain has one output: remove outputs from the query, or send the request to :predict",
        is_sampled=False,
    )
    plain = Endpoint(
        "POST /predict",
        "a row as a JSON object, or an array of them",
        json,
        lambda _, body: rows.decode(body, specs),
        _v1_answer,
    )
    tensors = {elsewhere.V2: f"{v2_base}/infer"}
    instances = {"instances": f"{v1_base}:predict"}
    tables = {"dataframe_split": "/invocations", "dataframe_records": "/invocations"}
    row = {spec.name: "/predict" for spec in serving.model.signature.inputs}
    infer = replace(infer, elsewhere=row | instances | tables)
    predict, explain = (replace(one, elsewhere=row | tensors | tables) for one in (predict, explain))
    table, plain = replace(table, elsewhere=row | tensors), replace(plain, elsewhere=tensors | instances | tables)
    paths = {
        f"{v2_base}/infer": infer,
        f"{v2_base}/versions/{serving.version}/infer": replace(infer, is_sampled=False),
        f"{v1_base}:predict": predict,
        f"{v1_base}:explain": explain,
        "/invocations": table,
        "/predict": plain,
    }
    return paths | {f"{path}/": endpoint for path, endpoint in paths.items()}


def _v2_request(head: Head, body: bytes) -> InferRequest:
    return v2.decode(body, head.json_length)


def _v2_answer(serving: Serving) -> Callable[[InferRequest, Answer], tuple[Headers, bytes]]:
    name, version = serving.name, serving.version

    def encode(request: InferRequest, answer: Answer) -> tuple[Headers, bytes]:
        body, json_length = v2.answer(request, answer.response, name, version)
        if json_length is None:
            return [(b"content-type", JSON)], body
        return [(b"content-type", BINARY), (b"inference-header-content-length", b"%d" % json_length)], body

    return encode


def _v1_answer(_request: InferRequest, answer: Answer) -> tuple[Headers, bytes]:
    return [(b"content-type", JSON)], v1.encode(answer.response)


def _explain_request(serving: Serving, specs: rows.Specs) -> Callable[[Head, bytes], InferRequest]:
    can_explain = CONTRIBUTIONS in (spec.name for spec in serving.model.signature.outputs)

    def decode(_: Head, body: bytes) -> InferRequest:
        if not can_explain:
            raise RequestError(
                f"this model ({serving.platform}) cannot explain its predictions: XGBoost and LightGBM models can", 501
            )
        request = v1.decode(body, specs)
        return InferRequest(request.id, request.inputs, [CONTRIBUTIONS])

    return decode


def _explain_answer(_request: InferRequest, answer: Answer) -> tuple[Headers, bytes]:
    return [(b"content-type", JSON)], v1.encode(answer.response, "explanations")
