"""The server under test, seen from outside: its addresses, what it says of itself, and requests that fit its model."""

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

TIMEOUT = 30
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
        assert self.headers.get("content-type", "").partition(";")[0] == JSON, (
            f"the body is not marked as {JSON}: {self}"
        )
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.status} {self.body[:300]!r}"


@dataclass
class Target:
    """One model of one server. ``own`` is whether it is ours, which promises more than the protocol asks."""

    url: str
    model: str
    grpc: str | None = None
    own: bool = False
    pid: int = 0
    """Of its process, when we started it."""
    sample: dict[str, Any] = field(default_factory=dict)
    """A request that the model answers, as JSON; filled by :meth:`discover` when it is empty."""

    def discover(self) -> None:
        """Find a request that the model answers: the example that the server shows, or zeros of the right shape."""
        if not self.sample:
            self.sample = self._example() or {"inputs": [_zeros(spec) for spec in self.metadata["inputs"]]}
        answer = self.infer(self.sample)
        if answer.status != 200:
            pytest.exit(
                f"the model does not answer a request built from its metadata, give one with --request: {answer}", 3
            )

    def _example(self) -> dict[str, Any] | None:
        answer = self.ask("GET", "/openapi.json")
        path = answer.json["paths"].get(f"{self.base}/infer") if answer.status == 200 else None
        found: dict[str, Any] | None = path and path["post"]["requestBody"]["content"][JSON].get("example")
        return found

    @property
    def base(self) -> str:
        return f"/v2/models/{quote(self.model)}"

    @cached_property
    def metadata(self) -> Any:
        """Of the model."""
        answer = self.ask("GET", self.base)
        assert answer.status == 200, f"GET {self.base} gives the metadata: {answer}"
        return answer.json

    @cached_property
    def server(self) -> Any:
        """Metadata of the server."""
        return self.ask("GET", "/v2").json

    @property
    def version(self) -> str | None:
        """The version that is served; None when the server knows none."""
        return next(iter(self.metadata.get("versions") or []), None)

    @cached_property
    def output_names(self) -> list[str]:
        """The outputs of the model: those of its metadata, or else those that it gives."""
        listed = [tensor["name"] for tensor in self.metadata["outputs"]]
        return listed or list(self.outputs(self.infer(self.sample)))

    @property
    def bases(self) -> list[str]:
        """The address of the model, without and with its version."""
        return [self.base, *([f"{self.base}/versions/{quote(self.version)}"] if self.version else [])]

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request on a connection of its own; underscores in names of headers stand for dashes."""
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
        return self.ask("POST", path or f"{self.base}/infer", body, **{"Content_Type": JSON, **headers})

    def binary(self, head: Any, tail: bytes, **headers: str) -> Answer:
        """POST a request with binary data behind its JSON."""
        text = json.dumps(head).encode()
        wanted = {"Content_Type": "application/octet-stream", "Inference_Header_Content_Length": str(len(text))}
        return self.infer(text + tail, **{**wanted, **headers})

    def request(self, **more: Any) -> dict[str, Any]:
        """A copy of the sample, with other fields."""
        copy: dict[str, Any] = json.loads(json.dumps({**self.sample, **more}))
        return copy

    def with_input(self, **changed: Any) -> dict[str, Any]:
        """The sample with its first input changed; None takes a field away."""
        request = self.request()
        first = {**request["inputs"][0], **changed}
        request["inputs"][0] = {name: value for name, value in first.items() if value is not None}
        return request

    def outputs(self, answer: Answer) -> dict[str, Any]:
        """The outputs of a good answer by name, each checked to be a whole tensor."""
        assert answer.status == 200, f"the request is answered: {answer}"
        found = {}
        for output in answer.json["outputs"]:
            whole_tensor(output)
            found[output["name"]] = output
        return found

    def refused(self, answer: Answer, *names: str, status: int = 400) -> None:
        """Check that an answer is an error as the protocol wants it; ours also names what is wrong."""
        assert 400 <= answer.status < 500, f"the request is refused with a status of the 400s: {answer}"
        assert answer.json.keys() == {"error"}, f'the body of an error is {{"error": …}} and nothing else: {answer}'
        assert isinstance(answer.json["error"], str), f"an error is text: {answer}"
        assert answer.json["error"], f"an error says something: {answer}"
        if self.own:
            assert answer.status == status, f"our status here is {status}: {answer}"
            for name in names:
                assert name in answer.json["error"], f"the error tells of {name}: {answer}"

    def told(self, message: str, *names: str) -> None:
        """The same for the message of a gRPC error."""
        assert message, "an error says something"
        if self.own:
            for name in names:
                assert name in message, f"the error tells of {name}: {message}"


def whole_tensor(tensor: dict[str, Any]) -> None:
    """Check the fields of an output that has its data in JSON."""
    assert isinstance(tensor["name"], str), "name is text"
    assert tensor["datatype"] in DTYPES, f"datatype is one of the thirteen, not {tensor['datatype']}"
    assert all(isinstance(size, int) and size >= 0 for size in tensor["shape"]), "shape is whole numbers"
    assert len(flat(tensor["data"])) == prod(tensor["shape"]), "data has as many elements as shape says"


def flat(data: Any) -> list[Any]:
    """The elements of data, however deeply nested."""
    return [element for part in data for element in flat(part)] if isinstance(data, list) else [data]


def nested(data: list[Any], shape: list[int]) -> list[Any]:
    """Flat data as nested arrays."""
    if len(shape) == 1:
        return data
    step = prod(shape[1:])
    return [nested(data[row * step : (row + 1) * step], shape[1:]) for row in range(shape[0])]


def rows(tensor: dict[str, Any]) -> int:
    """Of an input."""
    return int(tensor["shape"][0])


def nulls(value: Any) -> bool:
    """Whether there is a null anywhere."""
    if isinstance(value, dict):
        return any(nulls(inner) for inner in value.values())
    if isinstance(value, list):
        return any(nulls(inner) for inner in value)
    return value is None


def _zeros(spec: dict[str, Any]) -> dict[str, Any]:
    shape = [1 if size < 0 else size for size in spec["shape"]]
    zero: Any = {"BYTES": "", "BOOL": False}.get(spec["datatype"], 0)
    return {"name": spec["name"], "shape": shape, "datatype": spec["datatype"], "data": [zero] * prod(shape)}
