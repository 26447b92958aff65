"""The pipeline: both paths take the same steps in the same order; each error is answered, counted and logged once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from mlmodel_server.engine.batching import Overloaded
from mlmodel_server.errors import ModelFailure, RequestError
from mlmodel_server.observe.shadow import MARK
from mlmodel_server.rehearsal.authentic import Content
from mlmodel_server.serving.access import ApiKeys
from mlmodel_server.serving.context import Limits
from mlmodel_server.serving.exchange import Disconnected, Exchange, Failure, failure_of
from mlmodel_server.serving.inference import Answer
from mlmodel_server.serving.lateness import SERVER
from mlmodel_server.serving.pipeline import SMALL, Pipeline
from mlmodel_server.tensors import InferRequest, named
from tests.unit.server.doubling import serving

SLOW = 1.0


class Sent(Exchange[float | Failure]):
    """A request of one number. It records the steps, and raises ``error`` at the step ``at``."""

    route = "test"
    is_large = False
    is_sampled = True

    def __init__(
        self, number: float = 1.0, *, at: str = "", error: Exception | None = None, size: int = 1, header: bytes = b""
    ) -> None:
        self.number, self.at, self.error, self._size = number, at, error, size
        self.steps: list[str] = []
        self.headers = {header: b"k"}
        self.started = perf_counter()
        self.go_on = asyncio.Event()
        self.go_on.set()

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if self.error and name == self.at:
            raise self.error

    def content(self) -> Content:
        return Content(b"/predict", b"", b"", b"", b"%f" % self.number)

    source = "a client"
    peer = "a client"

    def check(self) -> None:
        self._step("check")

    @property
    def size(self) -> int:
        return self._size

    @property
    def deadline(self) -> float:
        return self.started + 30

    limit = SERVER

    async def read(self) -> None:
        self._step("read")
        await self.go_on.wait()

    def decode(self) -> InferRequest:
        self._step("decode")
        return InferRequest(None, [named("x", np.array([self.number]))], None)

    def encode(self, answer: Answer) -> float:
        self._step("encode")
        return float(answer.response.outputs[0].array[0])

    def reject(self, failure: Failure) -> Failure:
        self._step("reject")
        return failure


def run(pipeline: Pipeline, test: Callable[[], Awaitable[Any]]) -> Any:
    """Run a test with a started pipeline."""

    async def whole() -> Any:
        pipeline.start(0)
        try:
            return await test()
        finally:
            await pipeline.stop()

    return asyncio.run(whole())


def fast(pipeline: Pipeline, sent: Sent) -> Any:
    """Return the reply on the fast path."""

    async def test() -> Any:
        try:
            assert pipeline.accept(sent)
        except Exception as error:
            return pipeline.reject(sent, error)
        return pipeline.answer([sent])[0]

    return run(pipeline, test)


def slow(pipeline: Pipeline, sent: Sent) -> Any:
    """Return the reply on the ASGI path."""
    return run(pipeline, lambda: pipeline.serve(sent))


def counts(pipeline: Pipeline) -> Any:
    """Return the number of requests by HTTP status."""
    return pipeline.serving.recorder.report()["requests"]


def test_both_paths_take_the_same_steps() -> None:
    one, two = Sent(4.0), Sent(4.0)
    assert fast(Pipeline(serving()), one) == slow(Pipeline(serving()), two) == 8.0
    assert one.steps == ["check", "decode", "encode"]
    assert two.steps == ["check", "read", "decode", "encode"]


@pytest.mark.parametrize("path", [fast, slow])
@pytest.mark.parametrize("at", ["check", "decode", "encode"])
@pytest.mark.parametrize(
    ("error", "failure", "lines"),
    [
        (RequestError("no"), Failure(400, "no"), 0),
        (RequestError("no", 413), Failure(413, "no"), 0),
        (Overloaded("full", 429, "memory", retry_after=7), Failure(429, "full", 7), 0),
        (ModelFailure("it failed"), Failure(500, "it failed"), 1),
        (KeyError("secret"), Failure(500, "internal error (KeyError)"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_at_any_step_is_answered_counted_and_logged_once(
    path: Any, at: str, error: Exception, failure: Failure, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline(serving())
    assert path(pipeline, Sent(at=at, error=error)) == failure == failure_of(error)
    assert counts(pipeline) == {str(failure.status): 1}
    assert pipeline.serving.recorder.report()["shed"]["memory"] == (1 if isinstance(error, Overloaded) else 0)
    assert len(caplog.messages) == lines
    assert "secret" not in caplog.text


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("path", [fast, slow])
def test_the_key_is_checked_first_then_the_queue_then_the_headers(path: Any, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"client: {hashlib.sha256(b'k').hexdigest()}\n")

    def full(_: object) -> None:
        raise Overloaded("full", 429, "queue_full")

    pipeline = Pipeline(serving(keys=ApiKeys(file)))
    pipeline.inference.check_room = full  # type: ignore[assignment, method-assign]
    unknown, known = Sent(), Sent(header=b"x-api-key")
    assert path(pipeline, unknown).status == 401
    assert path(pipeline, known).status == 429
    assert unknown.steps == known.steps == ["reject"]


def test_a_slow_prediction_takes_the_asgi_path() -> None:
    pipeline, sent = Pipeline(serving(seconds=SLOW)), Sent(3.0)

    async def test() -> Any:
        assert not pipeline.accept(sent)
        assert sent.steps == []
        return await pipeline.serve(sent)

    assert run(pipeline, test) == 6.0
    assert counts(pipeline) == {"200": 1}


def test_requests_of_one_round_are_predicted_together_and_answered_in_order() -> None:
    pipeline = Pipeline(serving())
    sent = [Sent(1.0), Sent(2.0, at="encode", error=RequestError("no")), Sent(3.0)]

    async def test() -> Any:
        assert all(pipeline.accept(one) for one in sent)
        return pipeline.answer(sent)

    assert run(pipeline, test) == [2.0, Failure(400, "no"), 6.0]
    assert counts(pipeline) == {"200": 2, "400": 1}


@pytest.mark.attack(held=True)
def test_requests_beyond_the_memory_limit_are_rejected_until_memory_is_free() -> None:
    pipeline = Pipeline(serving(limits=Limits(max_body_total=10 * SMALL)))

    async def test() -> None:
        with pipeline.budget.hold("another", 9 * SMALL):
            assert (await pipeline.serve(Sent(2.0, size=2 * SMALL))).status == 429  # type: ignore[union-attr]
            assert await pipeline.serve(Sent(2.0, size=10)) == 4.0, "a small one is not charged"
        assert await pipeline.serve(Sent(1.0, size=11 * SMALL)) == 2.0, "a single request may be larger"
        assert await pipeline.serve(Sent(3.0, size=6 * SMALL)) == 6.0

    run(pipeline, test)
    assert pipeline.serving.recorder.report()["shed"]["memory"] == 1
    assert pipeline.budget.used == 0


def test_a_request_that_has_not_arrived_takes_nothing_of_others() -> None:
    """Its declared length is a promise: no memory, no slot, and it is not in flight."""
    pipeline = Pipeline(serving(limits=Limits(max_body_total=100, max_waiting=1)))

    async def test() -> None:
        slow = [Sent(size=100) for _ in range(17)]
        for sent in slow:
            sent.go_on.clear()
        tasks = [asyncio.ensure_future(pipeline.serve(sent)) for sent in slow]
        await asyncio.sleep(0)
        assert [sent.steps for sent in slow] == [["check", "read"]] * 17
        assert (pipeline.serving.recorder.in_flight, pipeline.budget.used) == (0, 0)
        assert await pipeline.serve(Sent(2.0, size=90)) == 4.0
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(pipeline, test)
    assert counts(pipeline) == {"200": 1}


def test_a_disconnected_client_is_not_counted() -> None:
    pipeline = Pipeline(serving())

    async def test() -> None:
        with pytest.raises(Disconnected):
            await pipeline.serve(Sent(at="read", error=Disconnected()))
        assert await pipeline.serve(Sent(2.0)) == 4.0

    run(pipeline, test)
    assert counts(pipeline) == {"200": 1}
    assert pipeline.serving.recorder.in_flight == 0


@pytest.mark.parametrize("path", [fast, slow])
def test_a_copy_for_a_shadow_is_answered_and_not_counted(path: Any) -> None:
    pipeline = Pipeline(serving())
    assert path(pipeline, Sent(2.0, header=MARK)) == 4.0
    assert path(pipeline, Sent(at="decode", error=RequestError("no"), header=MARK)) == Failure(400, "no")
    assert counts(pipeline) == {}


def test_a_large_body_is_decoded_and_encoded_outside_the_event_loop() -> None:
    class Large(Sent):
        is_large = True

        def _step(self, name: str) -> None:
            if name in ("decode", "encode"):
                with pytest.raises(RuntimeError):
                    asyncio.get_running_loop()
            super()._step(name)

    assert slow(Pipeline(serving()), Large(2.0, size=SMALL)) == 4.0


@pytest.mark.parametrize("waits_for", ["body", "model"])
def test_a_request_that_outlives_the_drain_gets_503_and_may_be_retried(
    waits_for: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(serving())
    sent = Sent()

    async def test() -> Any:
        waiting = asyncio.Event()

        async def endless(*_: Any) -> Any:
            waiting.set()
            await asyncio.Event().wait()

        if waits_for == "body":
            monkeypatch.setattr(sent, "read", endless)
        else:
            monkeypatch.setattr(pipeline.inference, "predict", endless)
        task = asyncio.ensure_future(pipeline.serve(sent))
        await waiting.wait()
        pipeline.cut()
        return await task

    reply = run(pipeline, test)
    assert isinstance(reply, Failure)
    assert (reply.status, reply.retry_after) == (503, 1)
    assert counts(pipeline) == {"503": 1}
    assert pipeline.serving.recorder.report()["shed"]["drain"] == 1
    assert (pipeline.serving.recorder.in_flight, pipeline.budget.used, pipeline._tasks) == (0, 0, set())


def test_a_cancelled_request_gets_no_reply_while_the_server_serves() -> None:
    pipeline = Pipeline(serving())
    sent = Sent()
    sent.go_on.clear()

    async def test() -> None:
        task = asyncio.ensure_future(pipeline.serve(sent))
        await asyncio.sleep(0)
        assert sent.steps == ["check", "read"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(pipeline, test)
    assert "reject" not in sent.steps
    assert counts(pipeline) == {}
