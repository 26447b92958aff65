"""Shadow: copies equal their requests, responses are compared, and requests are not affected."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from mlmodel_server.errors import UsageError
from mlmodel_server.observe.cells import Identity
from mlmodel_server.observe.shadow import OUTCOMES, WAITING, Shadow
from mlmodel_server.protocol import v2
from mlmodel_server.tensors import InferRequest, InferResponse, Tensor, named
from tests.unit.server.observe.test_metrics import in_child, samples

IDENTITY = Identity("tumour", "v2", "3f9c2a1b")
ROWS = [
    Tensor("row", "FP64", np.array([[1.0, np.nan], [3.0, -4.0]])),
    Tensor("city", "BYTES", np.array(["Rom", "Köln"], object)),
]


class Other:
    """Another version on loopback: returns ``answer``, or misbehaves, and records its requests."""

    def __init__(self) -> None:
        self.answer: list[Tensor] = []
        self.raw: tuple[int, bytes] | None = None  # the response instead
        self.hang = threading.Event()  # while it is clear, no response is sent
        self.hang.set()
        self.close = False  # close the connection after a response without Connection: close
        self.requests: list[InferRequest] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.connections = 0
        other = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else the second write of a response waits 40 ms for the first one

            def setup(self) -> None:
                other.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                json_length = int(self.headers["inference-header-content-length"])
                other.paths.append(self.path)
                other.headers.append({name.lower(): value for name, value in self.headers.items()})
                request = v2.decode(body, json_length)
                other.requests.append(request)
                other.hang.wait(60)
                status, length = 200, None
                if other.raw:
                    status, content = other.raw
                else:
                    content, length = v2.answer(request, InferResponse(None, other.answer), "tumour", "v3")
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                if length is not None:
                    self.send_header("inference-header-content-length", str(length))
                self.end_headers()
                self.close_connection = other.close
                with contextlib.suppress(BrokenPipeError):  # the client has disconnected
                    self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()


@pytest.fixture
def other() -> Iterator[Other]:
    server = Other()
    yield server
    server.hang.set()
    server.server.shutdown()
    server.server.server_close()
    server.thread.join()


def stop(shadow: Shadow) -> None:
    """Stop the shadow and wait for its thread."""
    shadow.stop()
    shadow._background._thread.join(60)
    assert not shadow._background._thread.is_alive()


@pytest.fixture
def shadow(other: Other) -> Iterator[Shadow]:
    made = Shadow(IDENTITY, other.url, 100)
    made.start()
    yield made
    other.hang.set()
    stop(made)


def counted(shadow: Shadow) -> dict[str, int]:
    seen = samples(list(shadow.collect()))
    prefix = "mlmodel_shadow_requests_total "
    found = {key.split()[-1]: int(value) for key, value in seen.items() if key.startswith(prefix)}
    assert set(found) == set(OUTCOMES), "every outcome has a series from the start"
    return {outcome: value for outcome, value in found.items() if value}


def settled(shadow: Shadow, count: int = 1) -> dict[str, int]:
    """Wait for this number of outcomes and return them."""
    end = time.monotonic() + 60
    while sum((found := counted(shadow)).values()) < count:
        assert time.monotonic() < end, found
        time.sleep(0.002)
    return found


def rows(shadow: Shadow) -> tuple[float, float]:
    seen = samples(list(shadow.collect()), to=shadow._labels[-1])
    return seen["mlmodel_shadow_rows_total true"], seen["mlmodel_shadow_rows_total false"]


def difference(shadow: Shadow, le: str) -> float:
    return samples(list(shadow.collect()), to=shadow._labels[-1])[f"mlmodel_shadow_difference_bucket {le}"]


def test_the_copy_equals_the_request_and_equal_responses_agree(other: Other, shadow: Shadow) -> None:
    answer = [
        named("predict", np.array(["benign", "malignant"])),
        named("predict_proba", np.array([[0.5, 0.5], [1.0, 0.0]])),
    ]
    other.answer = answer
    shadow.offer(ROWS, answer, {})
    assert settled(shadow) == {"compared": 1}
    assert other.paths == ["/v2/models/tumour/infer"]
    (request,) = other.requests
    assert [(t.name, t.datatype) for t in request.inputs] == [("row", "FP64"), ("city", "BYTES")]
    np.testing.assert_array_equal(request.inputs[0].array, ROWS[0].array)
    assert request.inputs[1].array.tolist() == ["Rom", "Köln"]
    assert request.outputs == ["predict", "predict_proba"]
    assert rows(shadow) == (2, 0)
    assert difference(shadow, "0.0") == 2, "no difference"


@pytest.mark.parametrize(
    ("ours", "theirs", "agree"),
    [
        (np.array([1, 0, 2]), np.array([1, 2, 2]), (2, 1)),
        (np.array([True, False]), np.array([True, True]), (1, 1)),
        (np.array(["a", "b"]), np.array(["a", "b"], object), (2, 0)),
        (np.array([1, 2], object), np.array(["1", "3"]), (1, 1)),
        (np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]]), (1, 1)),
    ],
    ids=["int", "bool", "text", "objects", "matrix"],
)
def test_labels_are_compared_row_by_row(other: Other, shadow: Shadow, ours: Any, theirs: Any, agree: Any) -> None:
    other.answer = [named("predict", theirs)]
    shadow.offer(ROWS, [named("predict", ours)], {})
    assert settled(shadow) == {"compared": 1}
    assert rows(shadow) == agree


def test_a_row_agrees_when_all_its_labels_do(other: Other, shadow: Shadow) -> None:
    other.answer = [named("b", np.array([1, 1])), named("a", np.array([1, 0]))]
    shadow.offer(ROWS, [named("a", np.array([1, 1])), named("b", np.array([0, 1]))], {})
    settled(shadow)
    assert rows(shadow) == (0, 2)


def test_the_difference_of_a_row_is_its_largest_one(other: Other, shadow: Shadow) -> None:
    other.answer = [named("predict", np.array([[1.0, 2.05], [3.0, 4.0], [np.nan, 1.0]]))]
    shadow.offer(ROWS, [named("predict", np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 1.0]], np.float32))], {})
    settled(shadow)
    assert rows(shadow) == (0, 0), "rows of floating-point numbers have no labels to agree"
    assert [difference(shadow, le) for le in ("0.0", "0.01", "0.1", "1000.0", "+Inf")] == [1, 1, 2, 2, 3]


def test_a_response_in_json_is_compared(other: Other, shadow: Shadow) -> None:
    other.raw = 200, v2.encode(InferResponse(None, [named("predict", np.array([1, 0]))]), "tumour", "v3")
    shadow.offer(ROWS, [named("predict", np.array([1, 1]))], {})
    assert settled(shadow) == {"compared": 1}
    assert rows(shadow) == (1, 1)


def test_a_copy_has_the_trace_but_no_credentials_and_is_not_copied_again(other: Other, shadow: Shadow) -> None:
    other.answer = [named("predict", np.array([1, 0]))]
    answer = [named("predict", np.array([1, 0]))]
    headers = {
        b"traceparent": b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"tracestate": b"a=1",
        b"authorization": b"Bearer secret", b"x-api-key": b"secret", b"cookie": b"secret", b"content-type": b"text/csv",
        b"content-length": b"7", b"host": b"elsewhere",
    }  # fmt: skip
    shadow.offer(ROWS, answer, headers)
    settled(shadow)
    (sent,) = other.headers
    assert sent["traceparent"] == "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert sent["tracestate"] == "a=1"
    assert "secret" not in str(sent)
    assert sent["x-mlmodel-shadow"] == "true"
    assert sent["content-type"] == "application/octet-stream"
    shadow.offer(ROWS[:1], answer, {b"x-mlmodel-shadow": b"true"})
    shadow.offer(ROWS, answer, {})
    assert settled(shadow, 2) == {"compared": 2}
    assert [len(request.inputs) for request in other.requests] == [2, 2]


def test_the_connection_is_reused_and_reopened_when_the_other_side_closed_it(other: Other, shadow: Shadow) -> None:
    other.answer = [named("predict", np.array([1, 0]))]
    for count in range(1, 4):
        shadow.offer(ROWS, other.answer, {})
        settled(shadow, count)
    assert other.connections == 1
    other.close = True
    for count in range(4, 7):
        shadow.offer(ROWS, other.answer, {})
        settled(shadow, count)
    assert counted(shadow) == {"compared": 6}
    assert other.connections == 3


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b"no JSON", "unreadable"),
        (b'{"outputs": []}', "different"),
        (b'{"outputs": [{"name": "predict", "shape": [3], "datatype": "INT64", "data": [1, 2, 3]}]}', "different"),
        (b'{"outputs": [{"name": "predict", "shape": [2], "datatype": "WHAT", "data": [1, 2]}]}', "unreadable"),
        (b'{"outputs": [{"name": "predict", "shape": [2], "datatype": "INT64", "data": ["a", 2]}]}', "unreadable"),
        (b'{"outputs": [{"name": "predict", "shape": [2], "datatype": "INT64"}]}', "unreadable"),
        (
            b'{"outputs": [{"name": "p", "shape": [1], "datatype": "INT8", "parameters": {"binary_data_size": 1}}]}',
            "unreadable",
        ),
    ],
)
def test_responses_that_cannot_be_compared_are_counted_by_reason(
    other: Other, shadow: Shadow, body: bytes, outcome: str
) -> None:
    other.raw = 200, body
    shadow.offer(ROWS, [named("predict", np.array([1, 0]))], {})
    assert settled(shadow) == {outcome: 1}
    assert rows(shadow) == (0, 0)


def test_a_response_other_than_200_is_counted(other: Other, shadow: Shadow) -> None:
    other.raw = 401, b'{"error": "send an API key"}'
    shadow.offer(ROWS, [named("predict", np.array([1, 0]))], {})
    assert settled(shadow) == {"refused": 1}


def test_an_unreachable_server_and_a_timeout_are_counted(other: Other) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    unreachable = Shadow(IDENTITY, f"http://127.0.0.1:{port}", 100)
    unreachable.start()
    slow = Shadow(IDENTITY, other.url, 100, timeout=2.0)
    slow.start()
    other.hang.clear()
    other.answer = [named("predict", np.array([1]))]
    for made in (unreachable, slow):
        made.offer(ROWS, [named("predict", np.array([1]))], {})
    assert settled(unreachable) == {"unreachable": 1}
    assert settled(slow) == {"timeout": 1}
    other.hang.set()
    slow.offer(ROWS, [named("predict", np.array([1]))], {})
    assert settled(slow, 2) == {"timeout": 1, "compared": 1}
    for made in (unreachable, slow):
        made.stop()
    stop(slow)


def test_copies_beyond_the_queue_are_dropped_and_counted(other: Other, shadow: Shadow) -> None:
    other.hang.clear()
    for _ in range(WAITING + 50):
        shadow.offer(ROWS, [named("predict", np.array([1]))], {})
    assert counted(shadow)["dropped"] in (49, 50), "the thread may have taken one"
    other.hang.set()
    stop(shadow)
    assert counted(shadow).get("compared", 0) <= 2, "the queue is discarded"


def test_the_same_seed_draws_the_same_percentage(other: Other) -> None:
    drawn = []
    for _ in range(2):
        made = Shadow(IDENTITY, other.url, 25, seed=7)
        made.start()
        stop(made)
        for _ in range(2000):
            made.offer(ROWS, [], {})
        drawn.append(made._background._queue.qsize() + counted(made)["dropped"])
    assert drawn[0] == drawn[1]
    assert 430 < drawn[0] < 570


def test_workers_send_separate_copies_and_share_the_counts(other: Other) -> None:
    other.answer = [named("predict", np.array([1]))]
    shared = Shadow(IDENTITY, other.url, 100, slots=2)

    def work() -> None:
        shared.start(1)
        shared.offer(ROWS, [named("predict", np.array([1]))], {})
        settled(shared)

    in_child(work)
    assert counted(shared) == {"compared": 1}


@pytest.mark.parametrize(
    "url", ["https://x", "x:80", "http://", "http://user:secret@x", "http://x:99999", "http://x?y", ""]
)
def test_the_address_must_be_valid(url: str) -> None:
    with pytest.raises(UsageError, match=r"^the address of the shadow must be like http://NAME.NAMESPACE.svc:8080$"):
        Shadow(IDENTITY, url, 10)


def test_the_path_of_the_address_is_used(other: Other) -> None:
    made = Shadow(IDENTITY, f"{other.url}/v2/models/elsewhere/infer", 100)
    made.start()
    other.answer = [named("predict", np.array([1]))]
    made.offer(ROWS, [named("predict", np.array([1]))], {})
    assert settled(made) == {"compared": 1}
    assert other.paths == ["/v2/models/elsewhere/infer"]
    stop(made)


@pytest.mark.parametrize("percent", [0, -1, 101, float("nan")])
def test_the_percentage_must_be_valid(percent: float) -> None:
    with pytest.raises(UsageError, match="above 0 and at most 100"):
        Shadow(IDENTITY, "http://x", percent)
