"""What the operator measures of itself, and the small server that shows it and answers probes."""

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
    """Instruments under one ``prefix``, in a registry of their own."""

    def __init__(self, prefix: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # as many series again, and nobody reads them
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.leader = Gauge(f"{prefix}_leader", "1 while this replica holds the Lease.", registry=self.registry)
        self.queue_due = Gauge(f"{prefix}_queue_due", "Keys waiting to be reconciled now.", registry=self.registry)
        self.queue_working = Gauge(f"{prefix}_queue_working", "Keys being reconciled.", registry=self.registry)
        self.reconciles = Counter(
            f"{prefix}_reconciles",
            "Reconciles by outcome: ok, conflict, refused (the API server said no), error (a bug).",
            ["outcome"],
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            f"{prefix}_reconcile_seconds",
            "Duration of a reconcile.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.requests = Counter(
            f"{prefix}_api_requests",
            "Requests to the API server; code 0: no answer.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.watch_restarts = Counter(
            f"{prefix}_watch_restarts",
            "Watches that ended with an error, by kind and reason.",
            ["resource", "reason"],
            registry=self.registry,
        )
        self.missed = Counter(
            f"{prefix}_missed_changes",
            "Changes that the audit found and the watch had not shown.",
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
    """Serve ``/metrics``, ``/healthz`` and ``/readyz`` while the context lasts; gives the port (for ``port`` 0).

    ``live`` and ``ready`` return what is wrong, an empty list when nothing is. Raises OSError when the port is taken.
    """

    def probe(check: Check) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(_: web.Request) -> web.Response:
            wrong = check()
            return web.Response(status=500 if wrong else 200, text="".join(f"{line}\n" for line in wrong) or "ok\n")

        return answer

    async def show(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(metrics.registry), headers={"Content-Type": "text/plain; version=0.0.4"}
        )

    app = web.Application()
    app.router.add_get("/metrics", show)
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
