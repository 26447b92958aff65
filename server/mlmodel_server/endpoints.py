"""The addresses at which the model is asked, each with its wire format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .body import Head
from .inference import Answer
from .protocol import v2
from .protocol.tensors import InferRequest
from .serving import Serving

Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
BINARY = b"application/octet-stream"


@dataclass(frozen=True)
class Endpoint:
    """One wire format. ``decode`` raises :class:`~.errors.RequestError`; ``encode`` gives headers and body."""

    what: str
    content_types: frozenset[bytes]
    decode: Callable[[Head, bytes], InferRequest]
    encode: Callable[[InferRequest, Answer], tuple[Headers, bytes]]


def endpoints(serving: Serving) -> dict[str, Endpoint]:
    """By path."""
    base = f"/v2/models/{serving.name}"
    infer = Endpoint("a v2 inference request", frozenset((JSON, BINARY)), _v2_request, _v2_answer(serving))
    return {
        f"{prefix}/infer{slash}": infer
        for prefix in (base, f"{base}/versions/{serving.version}")
        for slash in ("", "/")
    }


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
