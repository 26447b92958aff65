"""The server under test, from outside: its addresses, its metadata, and requests for its model."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from mlmodel_server.tensors import DTYPES

TIMEOUT = 60
JSON = "application/json"


@dataclass(frozen=True)
class Answer:
    """A response over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @cached_property
    def json(self) -> Any:
        """The body, which must be JSON."""
        assert self.headers.get("content-type", "").partition(";")[0] == JSON, f"the content type is not {JSON}: {self}"
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.status} {self.body[:300]!r}"


@dataclass
class Target:
    """One model of one server. ``own``: whether it is ours, which promises more than the protocol requires."""

    url: str
    model: str
    grpc: str | None = None
    own: bool = False
    pid: int = 0
    """Process id of the server, if the tests started it."""
    sample: dict[str, Any] = field(default_factory=dict)
    """A request that the model answers, as JSON; :meth:`discover` sets it if it is empty."""

    def discover(self) -> None:
        """Find a request that the model answers: the example of the server, or zeros of the right shape."""
        if not self.sample:
            self.sample = self._example() or {"inputs": [_zeros(spec) for spec in self.metadata["inputs"]]}
        answer = self.infer(self.sample)
        if answer.status != 200:
            pytest.exit(
                f"the model rejects a request built from its metadata: give one with --request FILE: {answer}", 3
            )

    def _example(self) -> dict[str, Any] | None:
        answer = self.send("GET", "/openapi.json")
        path = answer.json["paths"].get(f"{self.base}/infer") if answer.status == 200 else None
        found: dict[str, Any] | None = path and path["post"]["requestBody"]["content"][JSON].get("example")
        return found

    @property
    def base(self) -> str:
        return f"/v2/models/{quote(self.model)}"

    @cached_property
    def metadata(self) -> Any:
        """Metadata of the model."""
        answer = self.send("GET", self.base)
        assert answer.status == 200, f"GET {self.base} gives the metadata: {answer}"
        return answer.json

    @cached_property
    def server(self) -> Any:
        """Metadata of the server."""
        return self.send("GET", "/v2").json

    @property
    def version(self) -> str | None:
        """The served version; None when the server has no versions."""
        return next(iter(self.metadata.get("versions") or []), None)

    @cached_property
    def output_names(self) -> list[str]:
        """Names of the outputs: those of the metadata, else those of a response."""
        listed = [tensor["name"] for tensor in self.metadata["outputs"]]
        return listed or list(self.outputs(self.infer(self.sample)))

    @property
    def bases(self) -> list[str]:
        """The paths of the model, without and with its version."""
        return [self.base, *([f"{self.base}/versions/{quote(self.version)}"] if self.version else [])]

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send a request on a new connection; underscores in header names stand for dashes."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def infer(self, request: Any, path: str | None = None, **headers: str) -> Answer:
        """POST a request, which is JSON unless it is bytes."""
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        return self.send("POST", path or f"{self.base}/infer", body, **{"Content_Type": JSON, **headers})

    def binary(self, head: Any, tail: bytes, **headers: str) -> Answer:
        """POST a request with binary data after its JSON."""
        text = json.dumps(head).encode()
        own = {"Content_Type": "application/octet-stream", "Inference_Header_Content_Length": str(len(text))}
        return self.infer(text + tail, **{**own, **headers})

    def request(self, **more: Any) -> dict[str, Any]:
        """Return a copy of the sample, with other fields."""
        copy: dict[str, Any] = json.loads(json.dumps({**self.sample, **more}))
        return copy

    def with_input(self, **changed: Any) -> dict[str, Any]:
        """Return the sample with its first input changed; None removes a field."""
        request = self.request()
        first = {**request["inputs"][0], **changed}
        request["inputs"][0] = {name: value for name, value in first.items() if value is not None}
        return request

    def outputs(self, answer: Answer) -> dict[str, Any]:
        """Return the outputs of a successful response by name, after checking each tensor."""
        assert answer.status == 200, f"the request gets 200: {answer}"
        found = {}
        for output in answer.json["outputs"]:
            whole_tensor(output)
            found[output["name"]] = output
        return found

    def rejected(self, answer: Answer, *names: str, status: int = 400) -> None:
        """Check that a response is an error of the protocol; our server also names what is wrong."""
        assert 400 <= answer.status < 500, f"the server rejects the request with a 4xx: {answer}"
        assert answer.json.keys() == {"error"}, f'the body of an error is {{"error": …}} and nothing else: {answer}'
        assert isinstance(answer.json["error"], str), f"an error is text: {answer}"
        assert answer.json["error"], f"an error is not empty: {answer}"
        if self.own:
            assert answer.status == status, f"our server answers {status}: {answer}"
            for name in names:
                assert name in answer.json["error"], f"the error names {name}: {answer}"

    def check_message(self, message: str, *names: str) -> None:
        """Check the message of a gRPC error in the same way."""
        assert message, "an error is not empty"
        if self.own:
            for name in names:
                assert name in message, f"the error names {name}: {message}"


def whole_tensor(tensor: dict[str, Any]) -> None:
    """Check the fields of an output that has its data in JSON."""
    assert isinstance(tensor["name"], str), "name is text"
    assert tensor["datatype"] in DTYPES, f"datatype is one of the thirteen, not {tensor['datatype']}"
    assert all(isinstance(size, int) and size >= 0 for size in tensor["shape"]), "shape has integers, none negative"
    assert len(flat(tensor["data"])) == prod(tensor["shape"]), "data has as many elements as shape"


def flat(data: Any) -> list[Any]:
    """Return the elements of data, at any depth."""
    return [element for part in data for element in flat(part)] if isinstance(data, list) else [data]


def nested(data: list[Any], shape: list[int]) -> list[Any]:
    """Return flat data as nested arrays."""
    if len(shape) == 1:
        return data
    step = prod(shape[1:])
    return [nested(data[row * step : (row + 1) * step], shape[1:]) for row in range(shape[0])]


def rows(tensor: dict[str, Any]) -> int:
    """Return the number of rows of an input."""
    return int(tensor["shape"][0])


def has_null(value: Any) -> bool:
    """Return whether ``value`` contains null at any depth."""
    if isinstance(value, dict):
        return any(has_null(inner) for inner in value.values())
    if isinstance(value, list):
        return any(has_null(inner) for inner in value)
    return value is None


def _zeros(spec: dict[str, Any]) -> dict[str, Any]:
    shape = [1 if size < 0 else size for size in spec["shape"]]
    zero: Any = {"BYTES": "", "BOOL": False}.get(spec["datatype"], 0)
    return {"name": spec["name"], "shape": shape, "datatype": spec["datatype"], "data": [zero] * prod(shape)}
