"""Workers: what a reconcile returns or raises decides when its key is requeued."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest

from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.backoff import Backoff
from mlmodel_operator.runtime.health import Heartbeats
from mlmodel_operator.runtime.log import LineFormatter
from mlmodel_operator.runtime.metrics import Metrics
from mlmodel_operator.runtime.queue import WorkQueue
from mlmodel_operator.runtime.workers import RECONCILE_SECONDS, Key, Workers
from tests.unit.operator.runtime.support import FakeClock, asynchronous, settle

KEY = ("ns", "model")
line = LineFormatter().format


class Bench:
    """One worker with a scripted reconcile: each call has the next outcome, an error, a delay or None."""

    def __init__(self, *outcomes: BaseException | float | None) -> None:
        self.clock = FakeClock()
        self.queue: WorkQueue[Key] = WorkQueue(self.clock, Backoff(rng=random.Random(3)))
        self.heartbeats = Heartbeats(self.clock)
        self.metrics = Metrics("test")
        self.calls: list[float] = []
        self.outcomes = list(outcomes)
        self.workers = Workers(self.queue, self.reconcile, self.clock, self.metrics, self.heartbeats)
        self.task = asyncio.create_task(self.workers.run("worker"))

    async def reconcile(self, key: Key) -> float | None:
        self.calls.append(self.clock.monotonic())
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def count(self, outcome: str) -> float:
        return self.metrics.registry.get_sample_value("test_reconciles_total", {"outcome": outcome}) or 0.0


@asynchronous
async def test_a_key_is_requeued_only_if_its_reconcile_returns_a_delay() -> None:
    bench = Bench(7.0, None)
    bench.queue.add(KEY)
    await bench.clock.advance(6.9)
    assert bench.calls == [0.0]
    await bench.clock.advance(1000)
    assert bench.calls == [0.0, 7.0]
    bench.queue.close()
    await bench.task


@asynchronous
async def test_a_conflict_is_retried_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(ApiError(409, "Conflict", "modified"))
    with caplog.at_level(logging.INFO):
        bench.queue.add(KEY)
        await bench.clock.advance(2)
    assert len(bench.calls) == 2
    assert bench.count("conflict") == 1
    assert caplog.records == []
    bench.task.cancel()


@asynchronous
async def test_a_failed_request_logs_one_line_and_a_bug_a_traceback_and_neither_stops_the_worker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(ApiError(0, "Unreachable", "connection refused"), ZeroDivisionError("oh"))
    bench.queue.add(KEY)
    await bench.clock.advance(10)
    refusal, bug = caplog.records
    assert refusal.exc_info is None
    assert 'msg="reconcile rejected" error="Unreachable: connection refused" retry_seconds=' in line(refusal)
    assert 'ZeroDivisionError: oh" retry_seconds=' in line(bug)
    assert bug.exc_info is not None
    assert len(bench.calls) == 3
    assert bench.queue.failures(KEY) == 0  # the third succeeded
    bench.task.cancel()


@asynchronous
async def test_a_retry_waits_for_retry_after() -> None:
    bench = Bench(ApiError(429, "TooManyRequests", "slow down", retry_after=30.0))
    bench.queue.add(KEY)
    await bench.clock.advance(29)
    assert len(bench.calls) == 1
    await bench.clock.advance(2)
    assert len(bench.calls) == 2
    bench.task.cancel()


@asynchronous
async def test_a_reconcile_in_progress_is_finished_when_the_queue_closes() -> None:
    clock = FakeClock()
    queue: WorkQueue[Key] = WorkQueue(clock)
    gate, finished = asyncio.Event(), []

    async def reconcile(key: Key) -> None:
        await gate.wait()
        finished.append(key)

    worker = asyncio.create_task(Workers(queue, reconcile, clock, Metrics("test"), Heartbeats(clock)).run("worker"))
    queue.add(KEY)
    queue.add(("ns", "never"))
    await settle()
    queue.close()
    gate.set()
    await asyncio.wait_for(worker, 60)
    assert finished == [KEY]


@asynchronous
async def test_a_worker_that_hangs_is_detected_and_one_without_work_is_not() -> None:
    clock = FakeClock()
    queue: WorkQueue[Key] = WorkQueue(clock)
    heartbeats = Heartbeats(clock)

    async def reconcile(key: Key) -> None:
        await asyncio.Event().wait()

    worker = asyncio.create_task(Workers(queue, reconcile, clock, Metrics("test"), heartbeats).run("worker 3"))
    await clock.advance(10_000)
    assert heartbeats.late() == []
    queue.add(KEY)
    await clock.advance(RECONCILE_SECONDS)
    assert heartbeats.late() == []
    await clock.advance(2 * RECONCILE_SECONDS)
    assert heartbeats.late() == ["worker 3"]
    worker.cancel()
