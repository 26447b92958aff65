"""Traces: spans of the OpenTelemetry SDK, sent to a collector, and no spans by default."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from mlmodel_server.observe import tracing
from mlmodel_server.observe.cells import Identity
from mlmodel_server.observe.tracing import Tracing, start
from tests.unit.server.loglines import events

IDENTITY = Identity("tumour", "v2", "3f9c2a1b")
PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ROUTE = "POST /v2/models/tumour/infer"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def spans(*requests: dict[str, Any]) -> Any:
    exporter = InMemorySpanExporter()
    traced = Tracing(IDENTITY, exporter)
    for request in requests:
        traced.record(**{"name": ROUTE, "headers": {}, "code": 200, "total": 0.002, **request})
    traced.stop()
    return exporter.get_finished_spans()


def test_a_request_is_a_server_span_with_its_times() -> None:
    before = time.time_ns()
    (span,) = spans({"code": 200, "total": 0.002, "queue": 0.0005, "compute": 0.001, "rows": 3})
    assert span.name == ROUTE
    assert span.kind == SpanKind.SERVER
    assert span.end_time - span.start_time == 2_000_000
    assert before <= span.end_time <= time.time_ns()
    assert dict(span.attributes) == {
        "mlmodel.model": "tumour",
        "mlmodel.version": "v2",
        "mlmodel.revision": "3f9c2a1b",
        "http.response.status_code": 200,
        "mlmodel.rows": 3,
        "mlmodel.queue_seconds": 0.0005,
        "mlmodel.compute_seconds": 0.001,
    }
    assert span.status.status_code == StatusCode.UNSET
    assert span.resource.attributes["service.name"] == "tumour"
    assert span.resource.attributes["service.version"] == "v2"
    assert span.parent is None


def test_a_request_belongs_to_the_trace_of_its_caller() -> None:
    found = spans(
        {},
        {"headers": {b"traceparent": PARENT, b"tracestate": b"vendor=1"}},
        {"headers": {b"traceparent": PARENT[:-2] + b"00"}},
        {"headers": {b"traceparent": b"nonsense \xff"}},
    )
    assert len(found) == 3, "the caller does not sample the third trace"
    assert [span.parent is None for span in found] == [True, False, True]
    assert f"{found[1].context.trace_id:x}" == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert f"{found[1].parent.span_id:016x}" == "00f067aa0ba902b7"
    assert found[1].context.trace_state.get("vendor") == "1"


def test_failures_of_the_server_are_errors_and_those_of_the_client_are_not() -> None:
    assert [span.status.status_code for span in spans({"code": 400}, {"code": 500}, {"code": 503})] == [
        StatusCode.UNSET,
        StatusCode.ERROR,
        StatusCode.ERROR,
    ]


@pytest.mark.parametrize(
    "environ",
    [{"OTEL_SERVICE_NAME": "mine"}, {"OTEL_RESOURCE_ATTRIBUTES": "service.name=mine,service.namespace=shop"}],
)
def test_the_environment_names_the_service(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (span,) = spans({})
    assert span.resource.attributes["service.name"] == "mine"


def test_the_sampler_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    assert spans({}, {}) == ()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
    ],
)
def test_traces_are_off_by_default(environ: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    threads = threading.active_count()
    assert start(IDENTITY, environ) is None
    assert threading.active_count() == threads
    assert caplog.messages == []


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_an_unsupported_setting_is_logged(environ: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    assert start(IDENTITY, environ) is None
    assert events(caplog) == [
        '"traces are off" reason="only OTLP/HTTP is supported: set OTEL_TRACES_EXPORTER=otlp and '
        'OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, and use port 4318"'
    ]


def test_a_missing_library_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert start(IDENTITY, {"OTEL_TRACES_EXPORTER": "otlp"}) is None
    assert events(caplog) == [
        '"traces are off" reason="tracing requires OpenTelemetry, which is not installed: '
        "in a clone of the project, run pip install '.[tracing]'\""
    ]


class Collector:
    """A collector on loopback that records its requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, ExportTraceServiceRequest]] = []
        self.hang = threading.Event()
        self.hang.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.hang.wait(60)
                collector.requests.append((self.path, ExportTraceServiceRequest.FromString(body)))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.hang.set()
    made.server.shutdown()
    made.server.server_close()
    made.thread.join()


def traced(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Tracing:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    made = start(IDENTITY)
    assert made
    made.record(ROUTE, {b"traceparent": PARENT}, 200, 0.002, rows=1)
    return made


def test_a_collector_receives_the_spans(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 60.0)
    traced(collector, monkeypatch).stop()
    ((path, sent),) = collector.requests
    assert path == "/v1/traces"
    (span,) = sent.resource_spans[0].scope_spans[0].spans
    assert span.name == ROUTE
    assert span.trace_id.hex() == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert span.parent_span_id.hex() == "00f067aa0ba902b7"
    resource = {entry.key: entry.value.string_value for entry in sent.resource_spans[0].resource.attributes}
    assert resource["service.name"] == "tumour"


def test_a_collector_that_does_not_respond_does_not_delay_the_exit(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 0.05)
    collector.hang.clear()
    made = traced(collector, monkeypatch)
    started = time.monotonic()
    made.stop()
    assert time.monotonic() - started < 20, "the collector answers after a minute"
    collector.hang.set()
