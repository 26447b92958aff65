"""Headers and bodies within bounds, however they are sent."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import pytest

from mlmodel_server.errors import RequestError
from mlmodel_server.rest.body import Head, head_of, read
from mlmodel_server.serving.context import Limits

LIMITS = Limits(max_body=1000, timeout=10.0)
JSON = frozenset((b"application/json",))


def head(**headers: str) -> Head:
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return head_of(dict(sent), JSON, 100.0, LIMITS)


def body(found: Head, *chunks: bytes, gone: bool = False) -> bytes | None:
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if gone:
        messages.append({"type": "http.disconnect"})
    else:
        messages[-1]["more_body"] = False

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    return asyncio.run(read(found, receive, LIMITS))


def test_a_deadline_comes_from_its_header_or_is_the_servers() -> None:
    assert head().deadline == 110.0
    assert head(x_mlmodel_timeout_ms="250").deadline == 100.25


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/x-www-form-urlencoded"]
)
def test_json_is_taken_as_the_usual_clients_announce_it(kind: str) -> None:
    assert head(content_type=kind).content_type == b"application/json"


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"content_type": "text/csv"}, 415, "'Content-Type: application/json'"),
        ({"content_encoding": "br"}, 415, "gzip or deflate"),
        ({"content_encoding": "gzip, gzip"}, 415, "gzip or deflate"),
        ({"content_length": "1001"}, 413, "has 1001 bytes, the limit is 1000"),
        ({"x_mlmodel_timeout_ms": "soon"}, 400, "x-mlmodel-timeout-ms must be a whole number"),
        ({"x_mlmodel_timeout_ms": "-1"}, 400, "x-mlmodel-timeout-ms"),
        ({"x_mlmodel_timeout_ms": "9" * 40}, 400, "x-mlmodel-timeout-ms"),
        ({"inference_header_content_length": "x"}, 400, "inference-header-content-length"),
    ],
)
def test_a_wrong_header_is_refused_by_name(headers: dict[str, str], status: int, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as refused:
        head(**headers)
    assert refused.value.status == status


def test_a_body_in_chunks_is_joined_and_bounded() -> None:
    assert body(head(), b"a", b"", b"b" * 900) == b"a" + b"b" * 900
    with pytest.raises(RequestError, match="longer than the limit of 1000 bytes"):
        body(head(), b"a" * 600, b"b" * 401)
    with pytest.raises(RequestError, match="longer"):
        body(head(), b"a" * 600, b"b" * 401, b"never asked for")
    assert body(head(), b"a", gone=True) is None


@pytest.mark.parametrize(("encoding", "packed"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_body_is_unpacked_to_the_limit_and_no_further(encoding: str, packed: Any) -> None:
    found = head(content_encoding=encoding)
    assert body(found, packed(b"x" * 1000)) == b"x" * 1000
    bomb = packed(bytes(100_000_000))[:999]  # 100 kB that unpack to 100 MB, of which the first part is enough
    with pytest.raises(RequestError, match="longer than the limit") as refused:
        body(found, bomb)
    assert refused.value.status == 413
    for wrong in (b"plain", packed(b"cut short" * 20)[:-5], packed(b"one") + packed(b"two")):
        with pytest.raises(RequestError, match=encoding):
            body(found, wrong)
