"""The server for probes and metrics reports what is wrong."""

from __future__ import annotations

import aiohttp

from mlmodel_operator.runtime.metrics import Metrics, serve
from mlmodel_operator.runtime.resource import PODS
from tests.unit.operator.runtime.support import asynchronous


@asynchronous
async def test_probes_report_problems_and_metrics_the_counters() -> None:
    not_ready: list[str] = ["the pods have not been listed yet"]
    not_alive: list[str] = []
    metrics = Metrics("test")
    metrics.observe_request("apply", PODS, 409)
    async with (
        serve(metrics, 0, lambda: not_alive, lambda: not_ready, host="127.0.0.1") as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):

        async def get(path: str) -> tuple[int, str]:
            async with session.get(path) as response:
                return response.status, await response.text()

        assert await get("/healthz") == (200, "ok\n")
        assert await get("/readyz") == (500, "the pods have not been listed yet\n")
        not_ready.clear()
        not_alive.append("no heartbeat from the audit")
        assert await get("/readyz") == (200, "ok\n")
        assert await get("/healthz") == (500, "no heartbeat from the audit\n")
        status, page = await get("/metrics")
        assert status == 200
        assert 'test_api_requests_total{code="409",resource="pods",verb="apply"} 1.0' in page
