"""Headers are parsed and bodies are read within the limits, chunked and compressed ones too."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import pytest

from mlmodel_server.errors import RequestError
from mlmodel_server.rest.body import Head, decompress, head_of, read
from mlmodel_server.serving.context import Limits

LIMITS = Limits(max_body=1000, timeout=10.0)
JSON = frozenset((b"application/json",))


def head(**headers: str) -> Head:
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return head_of(dict(sent), JSON, 100.0, LIMITS)


def body(head: Head, *chunks: bytes, disconnect: bool = False) -> bytes | None:
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if disconnect:
        messages.append({"type": "http.disconnect"})
    else:
        messages[-1]["more_body"] = False

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    raw = asyncio.run(read(receive, LIMITS))
    return None if raw is None else decompress(raw, head.encoding, LIMITS)


def test_a_deadline_is_that_of_the_header_or_of_the_server() -> None:
    assert head().deadline == 110.0
    assert head(x_mlmodel_timeout_ms="250").deadline == 100.25


@pytest.mark.parametrize(
    "kind", ["", "application/json", "Application/JSON; charset=utf-8", "application/x-www-form-urlencoded"]
)
def test_content_types_of_common_clients_are_read_as_json(kind: str) -> None:
    assert head(content_type=kind).content_type == b"application/json"


@pytest.mark.attack
@pytest.mark.parametrize("sign", ["origin", "sec_fetch_site"])
@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded", "Application/X-WWW-Form-Urlencoded;charset=UTF-8", "", " ; ", "text/plain",
        "text/plain;application/json", "multipart/form-data; boundary=x", "text/plain; charset=application/json",
    ],
)  # fmt: skip
def test_what_a_page_of_another_site_can_send_is_not_json(kind: str, sign: str) -> None:
    """A browser sends only these types to another site without asking it first."""
    with pytest.raises(RequestError, match="application/json") as caught:
        head(content_type=kind, **{sign: "http://127.0.0.1:8080"})
    assert caught.value.status == 415
    assert head(content_type="application/json", **{sign: "x"}).content_type == b"application/json"


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"content_type": "text/csv"}, 415, "Content-Type 'text/csv' is not supported: use application/json"),
        ({"content_encoding": "br"}, 415, "Content-Encoding 'br' is not supported: use gzip or deflate"),
        ({"content_encoding": "gzip, gzip"}, 415, "gzip or deflate"),
        ({"content_length": "1001"}, 413, "has 1001 bytes, the limit is 1000"),
        ({"x_mlmodel_timeout_ms": "soon"}, 400, "x-mlmodel-timeout-ms must be an integer of 1 to 12 digits"),
        ({"x_mlmodel_timeout_ms": "-1"}, 400, "x-mlmodel-timeout-ms"),
        ({"x_mlmodel_timeout_ms": "9" * 40}, 400, "x-mlmodel-timeout-ms"),
        ({"inference_header_content_length": "x"}, 400, "inference-header-content-length"),
    ],
)
def test_a_wrong_header_is_rejected_by_name(headers: dict[str, str], status: int, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as rejected:
        head(**headers)
    assert rejected.value.status == status


def test_a_chunked_body_is_joined_within_the_limit() -> None:
    assert body(head(), b"a", b"", b"b" * 900) == b"a" + b"b" * 900
    with pytest.raises(RequestError, match="longer than the limit of 1000 bytes"):
        body(head(), b"a" * 600, b"b" * 401)
    with pytest.raises(RequestError, match="longer"):
        body(head(), b"a" * 600, b"b" * 401, b"never read")
    assert body(head(), b"a", disconnect=True) is None


@pytest.mark.parametrize(("encoding", "packed"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_body_is_decompressed_up_to_the_limit(encoding: str, packed: Any) -> None:
    compressed = head(content_encoding=encoding)
    assert body(compressed, packed(b"x" * 1000)) == b"x" * 1000
    bomb = packed(bytes(100_000_000))[:999]  # 100 kB that unpack to 100 MB; its start exceeds the limit
    with pytest.raises(RequestError, match="longer than the limit") as rejected:
        body(compressed, bomb)
    assert rejected.value.status == 413
    for wrong in (b"plain", packed(b"cut short" * 20)[:-5], packed(b"one") + packed(b"two")):
        with pytest.raises(RequestError, match=encoding):
            body(compressed, wrong)
