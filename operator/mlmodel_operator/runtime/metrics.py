"""Metrics of the operator, and the HTTP server for metrics and probes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.process_collector import ProcessCollector

from mlmodel_operator.runtime.resource import Resource


class Metrics:
    """Metrics with one ``prefix``, in their own registry."""

    def __init__(self, prefix: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.leader = Gauge(
            f"{prefix}_leader", "1 while this replica holds the Lease of the operator, else 0.", registry=self.registry
        )
        self.queue_due = Gauge(
            f"{prefix}_queue_due", "Number of MLModels that wait for a reconcile that is due.", registry=self.registry
        )
        self.queue_working = Gauge(
            f"{prefix}_queue_working", "Number of MLModels that are being reconciled.", registry=self.registry
        )
        self.reconciles = Counter(
            f"{prefix}_reconciles",
            "Number of reconciles of MLModels by outcome: ok, conflict (an object has changed meanwhile), refused (a"
            " request to the API server failed), error (a bug).",
            ["outcome"],
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            f"{prefix}_reconcile_seconds",
            "Duration of a reconcile of one MLModel in seconds.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.wait_seconds = Histogram(
            f"{prefix}_queue_wait_seconds",
            "Time in seconds for which an MLModel that was due waited for its reconcile.",
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60),
            registry=self.registry,
        )
        self.requests = Counter(
            f"{prefix}_api_requests",
            "Number of requests to the Kubernetes API server by verb, resource and HTTP status; 0 without a response.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.watch_restarts = Counter(
            f"{prefix}_watch_restarts",
            "Number of watches on the Kubernetes API server that ended with an error, by resource and reason.",
            ["resource", "reason"],
            registry=self.registry,
        )
        self.missed = Counter(
            f"{prefix}_missed_changes",
            "Number of changes of MLModels that the watch missed and a later list detected.",
            registry=self.registry,
        )

    def observe_request(self, verb: str, r: Resource, status: int) -> None:
        """Count one request to the API server."""
        self.requests.labels(verb, r.plural, str(status)).inc()

    def observe_watch_restart(self, r: Resource, reason: str) -> None:
        """Count one watch that ended with an error."""
        self.watch_restarts.labels(r.plural, reason).inc()


Check = Callable[[], list[str]]


@asynccontextmanager
async def serve(metrics: Metrics, port: int, live: Check, ready: Check, host: str = "0.0.0.0") -> AsyncIterator[int]:  # noqa: S104
    """Serve ``/metrics``, ``/healthz`` and ``/readyz`` while the context lasts; yield the port (for ``port`` 0).

    ``live`` and ``ready`` return problems, one line each; an empty list is 200, else 500. Raise OSError if the port is
    in use.
    """

    def probe(check: Check) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(_: web.Request) -> web.Response:
            problems = check()
            text = "".join(f"{line}\n" for line in problems) or "ok\n"
            return web.Response(status=500 if problems else 200, text=text)

        return answer

    async def answer_metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(metrics.registry), headers={"Content-Type": "text/plain; version=0.0.4"}
        )

    app = web.Application()
    app.router.add_get("/metrics", answer_metrics)
    app.router.add_get("/healthz", probe(live))
    app.router.add_get("/readyz", probe(ready))
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
