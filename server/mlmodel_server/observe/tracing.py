"""OpenTelemetry: one span for each inference request, when the environment turns traces on.

The variables are those of OpenTelemetry: ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_TRACES_EXPORTER=otlp`` turns traces
on; its SDK reads sampler, headers, service name and limits. Spans are sent over OTLP/HTTP.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mlmodel_server.errors import not_installed
from mlmodel_server.observe.cells import Identity

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

FLUSH_SECONDS = 2.0
"""Maximum seconds for sending the last spans; an unreachable collector must not delay the exit."""

_UNSUPPORTED = (
    "only OTLP/HTTP is supported: set OTEL_TRACES_EXPORTER=otlp and OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, and use"
    " port 4318"
)

logger = logging.getLogger(__name__)


def start(identity: Identity, environ: Mapping[str, str] = os.environ) -> Tracing | None:
    """Return the tracing of this process; call it in each worker, as it starts a thread. None when the environment does
    not turn traces on, or sets something unsupported; the log then names what to change."""
    chosen = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    address = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or chosen == "none" or not (chosen or address):
        return None
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if chosen not in ("", "otlp") or protocol not in (None, "http/protobuf"):
        logger.warning("traces are off", extra={"reason": _UNSUPPORTED})
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        logger.warning("traces are off", extra={"reason": not_installed("tracing", "OpenTelemetry", "tracing")})
        return None
    return Tracing(identity, OTLPSpanExporter(), environ)


class Tracing:
    """Creates spans of one revision. A thread of the SDK exports them in batches."""

    def __init__(self, identity: Identity, exporter: SpanExporter, environ: Mapping[str, str] = os.environ) -> None:
        from opentelemetry.context import Context
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        about = {"service.version": identity.version, "mlmodel.revision": identity.revision}
        named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        if not named:
            about["service.name"] = identity.model
        self._provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("mlmodel_server")
        self._extract = TraceContextTextMapPropagator().extract
        self._no_parent, self._kind, self._error = Context(), SpanKind.SERVER, StatusCode.ERROR
        self._model = {
            "mlmodel.model": identity.model,
            "mlmodel.version": identity.version,
            "mlmodel.revision": identity.revision,
        }

    def record(
        self,
        name: str,
        headers: Mapping[bytes, bytes],
        code: int,
        total: float,
        queue: float = 0.0,
        compute: float = 0.0,
        rows: int = 0,
    ) -> None:
        """Record a span that ends now. ``name`` is method and route, ``headers`` (lower-case names) may have the trace
        context (W3C) of the caller; the other arguments are those of :meth:`.metrics.Recorder.record_response`."""
        ended = time.time_ns()
        parent = self._no_parent
        if b"traceparent" in headers:
            parent = self._extract(
                {
                    key: headers[key.encode()].decode("latin-1")
                    for key in ("traceparent", "tracestate")
                    if key.encode() in headers
                },
                self._no_parent,
            )
        span = self._tracer.start_span(
            name,
            parent,
            self._kind,
            {
                **self._model,
                "http.response.status_code": code,
                "mlmodel.rows": rows,
                "mlmodel.queue_seconds": queue,
                "mlmodel.compute_seconds": compute,
            },
            start_time=ended - int(total * 1e9),
        )
        if code >= 500:
            span.set_status(self._error)
        span.end(ended)

    def stop(self) -> None:
        """Send the last spans, for at most two seconds."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(FLUSH_SECONDS)
