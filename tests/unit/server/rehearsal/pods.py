"""A server in this process that takes part in a rehearsal: its application, and requests to it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mlmodel_server.engine.model import Model
from mlmodel_server.formats.opened import CONTRIBUTIONS, Table
from mlmodel_server.manifest import Signature
from mlmodel_server.protocol.binary import from_raw
from mlmodel_server.rehearsal import authentic
from mlmodel_server.rehearsal.authentic import Content
from mlmodel_server.rehearsal.sample import Entry, Sample
from mlmodel_server.rehearsal.target import TargetFile
from mlmodel_server.rest.app import Application
from mlmodel_server.rpc.copies import CallCopy
from mlmodel_server.serving.pipeline import Pipeline
from mlmodel_server.tensors import Array, TensorSpec
from tests.unit.server.doubling import serving

NONCE = "ab" * 32
REVISION = "r1"
"""The revision of the servers in these tests."""

NAMES = ("predict", "predict_proba", CONTRIBUTIONS)

FAILS, BAD_ANSWER = -1.0, -2.0
"""Numbers on which the model raises, and answers NaN."""


def predict(table: Table, wanted: Sequence[str]) -> list[Any]:
    """Predict: a text, its two probabilities, and contributions."""
    x = np.asarray(table)[:, 0]
    if (x == FAILS).any():
        raise ValueError("quotes the input")
    texts = np.array([f"class {value:g}" for value in x], object)
    numbers = np.where(x == BAD_ANSWER, np.nan, x)
    known = {"predict": texts, "predict_proba": np.stack([numbers, 1 - numbers], axis=1), CONTRIBUTIONS: x[:, None]}
    return [known[name] for name in wanted]


class Pod:
    """A server whose file of the rehearsal is ``file``."""

    def __init__(self, directory: Path, *, api_keys: Path | None = None, seconds: float = 1e-6, **more: Any) -> None:
        self.file = directory / "rehearsal"
        self.announce()
        self.sample = Sample(100, 1, 1 << 20)
        self.serving = serving(
            sample=self.sample,
            rehearsal=TargetFile(self.file, api_keys),
            seconds=seconds,
            grpc="127.0.0.1:0",
            **more,
        )
        outputs = (
            TensorSpec("predict", "BYTES", (-1,)),
            TensorSpec("predict_proba", "FP64", (-1, 2)),
            TensorSpec(CONTRIBUTIONS, "FP64", (-1, 1)),
        )
        self.serving.model = Model(predict, Signature("columns", (TensorSpec("x", "FP64", (-1,)),), outputs))
        self.api_keys = api_keys.read_bytes() if api_keys else b""

    def announce(self, text: str = f"candidate r2 {NONCE} -\n") -> None:
        self.file.write_text(text)

    def run(self, *requests: Mapping[str, Any]) -> list[tuple[int, dict[bytes, bytes], bytes]]:
        """Send requests one after the other on the ASGI path, and return status, headers and body of each."""
        app = self.application()

        async def whole() -> list[Any]:
            app.pipeline.start(0)
            try:
                return [await send(app, **request) for request in requests]
            finally:
                await app.pipeline.stop()

        return asyncio.run(whole())

    def application(self) -> Application:
        return Application(Pipeline(self.serving), lambda content: CallCopy(content, self.serving))

    def kept(self) -> list[Entry]:
        return [entry for place in self.sample.places() if (entry := self.sample.read(*place[:2]))]

    def key(self) -> bytes:
        return authentic.key_of(NONCE, self.api_keys)


async def send(
    app: Application,
    target: str,
    body: bytes = b"",
    headers: Mapping[bytes, bytes] | None = None,
    method: str = "POST",
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send a request on the ASGI path."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "server": ("h", 80),
        "headers": list({b"content-length": b"%d" % len(body), **(headers or {})}.items()),
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def respond(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, respond)
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message["body"] for message in sent[1:])


def copied(
    content: Content, key: bytes, revision: str = REVISION, age: float = 0.0, draw: int | None = None
) -> dict[str, Any]:
    """Return the request that is a copy."""
    headers = authentic.sign(key, revision, content, time.time() - age, draw)
    return {"target": authentic.PATH, "body": content.body, "headers": headers}


def outcome(answer: tuple[int, dict[bytes, bytes], bytes]) -> tuple[int, dict[str, Array]]:
    """Return the status in the reply to a copy, and the outputs by name."""
    status, headers, body = answer
    assert (status, headers[b"content-type"]) == (200, b"application/x-msgpack")
    reply = msgspec.msgpack.decode(body)
    assert set(reply) == {"status", "own_us", "busy_us", "outputs"}
    assert reply["busy_us"] >= 0
    assert isinstance(reply["own_us"], int)
    assert reply["own_us"] >= 1
    assert reply["status"] == 200 or reply["outputs"] == []
    return reply["status"], {
        output["name"]: from_raw(output["name"], output["datatype"], tuple(output["shape"]), memoryview(output["data"]))
        for output in reply["outputs"]
    }


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()
