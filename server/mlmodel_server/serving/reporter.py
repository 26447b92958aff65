"""Reports every answered request to the metrics and, if they are on, to traces, shadow, payload log and sample."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from mlmodel_server.engine.batching import Overloaded
from mlmodel_server.observe import tracing
from mlmodel_server.observe.shadow import MARK
from mlmodel_server.serving.context import Serving
from mlmodel_server.serving.exchange import Exchange
from mlmodel_server.serving.inference import Answer

SAMPLED = frozenset((200, 400, 500))
"""Statuses of requests that the sample may have: answered or failed by the model, not rejected before it or shed."""


class Reporter:
    """Belongs to one process. It delays no response: it runs after the response has been encoded."""

    def __init__(self, serving: Serving) -> None:
        self._serving, self._recorder = serving, serving.recorder
        self._shadow, self._payloads, self._sample = serving.shadow, serving.payloads, serving.sample
        self._wants = serving.sample.wants if serving.sample else None
        self._tracing: tracing.Tracing | None = None

    def start(self, slot: int) -> None:
        """Start the threads of this process, the worker of ``slot``. Call this after the fork."""
        serving = self._serving
        serving.recorder.start(slot)
        serving.ids.start()
        serving.feedback.start(slot)
        if self._shadow:
            self._shadow.start(slot)
        if self._payloads:
            self._payloads.start(slot)
        if self._sample:
            self._sample.start(slot)
        self._tracing = tracing.start(serving.identity)

    def tick(self) -> None:
        """Let time pass for the sample. Call this about ten times a second."""
        if self._sample:
            self._sample.tick()

    def wipe(self) -> None:
        """Wipe the sample, and keep no further request. Call this in the event loop when the server drains."""
        if self._sample:
            self._sample.wipe()

    def stop(self) -> None:
        """Stop the threads. Call this after the last reply."""
        if self._shadow:
            self._shadow.stop()
        if self._payloads:
            self._payloads.stop()
        if self._tracing:
            self._tracing.stop()
        self._recorder.fold()

    def answered(self, exchange: Exchange[Any], answer: Answer) -> None:
        """Report a request with its answer."""
        seconds, headers = perf_counter() - exchange.started, exchange.headers
        if MARK in headers:  # a copy for a shadow is not a request of a client
            return
        self._recorder.record_response(200, seconds, answer.queue, answer.compute, answer.rows)
        if self._tracing:
            self._tracing.record(exchange.route, headers, 200, seconds, answer.queue, answer.compute, answer.rows)
        if self._shadow:
            self._shadow.offer(exchange.request.inputs, answer.response.outputs, headers)
        if self._payloads:
            self._payloads.offer(answer.prediction_id, answer.table, answer.response.outputs)
        if self._wants is not None and self._wants(headers):
            self._keep(exchange, answer.compute)

    def failed(self, exchange: Exchange[Any], status: int, error: Exception) -> None:
        """Report a request that got an error with this HTTP ``status``."""
        seconds, headers = perf_counter() - exchange.started, exchange.headers
        if MARK in headers:
            return
        self._recorder.record_response(status, seconds)
        if isinstance(error, Overloaded):
            self._recorder.record_shed(error.reason)
        if self._tracing:
            self._tracing.record(exchange.route, headers, status, seconds)
        if self._wants is not None and status in SAMPLED and self._wants(headers):
            self._keep(exchange, seconds)

    def _keep(self, exchange: Exchange[Any], seconds: float) -> None:
        content = exchange.content() if exchange.is_sampled else None
        if self._sample and content:
            self._sample.keep(content, exchange.headers, seconds, exchange.peer)
