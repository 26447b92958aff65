"""Requests that wait together are predicted together, without waiting for more; late requests are rejected."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Sequence
from time import perf_counter, perf_counter_ns, sleep
from typing import Any

import numpy as np
import pytest

from mlmodel_server.engine import alone
from mlmodel_server.engine.batching import MAX_COPIES, NICENESS, Batcher, Overloaded
from mlmodel_server.engine.cost import Cost, measure
from mlmodel_server.engine.model import Model
from mlmodel_server.errors import ModelFailure
from mlmodel_server.formats.opened import Table
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import TensorSpec

SECONDS = 30.0
SOON = 0.5
"""A deadline that a test waits for. On a busy machine, less might pass before the request is queued."""


class Doubler:
    """A model that returns twice its input. It records the size of every call, and can be blocked."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()

    def __call__(self, table: Table, wanted: Sequence[str]) -> list[Any]:
        array = np.asarray(next(iter(table.values())) if isinstance(table, dict) else table)
        self.calls.append(len(array))
        self.busy.set()
        assert self.go.wait(SECONDS)
        if (array == -1).any():
            raise ValueError("bad number")
        return [array[:, 0] * 2 for _ in wanted]

    def hold(self) -> None:
        self.go.clear()
        self.busy.clear()


def signature(layout: Any = "matrix", rows: int = -1) -> Signature:
    output = TensorSpec("predict", "FP64", (rows,))
    return Signature(layout, (TensorSpec("input-0", "FP64", (rows, 1)),), (output,))


def run(
    scenario: Callable[[Batcher, Doubler], Any],
    *,
    cost: Cost | None = None,
    max_rows: int = 8,
    max_waiting: int = 64,
    of: Signature | None = None,
) -> list[int]:
    """Run a scenario and return the sizes of its batches."""
    doubler = Doubler()
    sizes: list[int] = []

    async def main() -> None:
        model = Model(doubler, of or signature())
        batcher = Batcher(
            model, cost or Cost(0.0, 0.0), max_rows=max_rows, max_waiting=max_waiting, on_batch=sizes.append
        )
        batcher.start()
        try:
            await asyncio.wait_for(scenario(batcher, doubler), SECONDS)
        finally:
            doubler.go.set()
            await asyncio.to_thread(batcher.stop)
        assert (batcher.requests, batcher.rows) == (0, 0)

    asyncio.run(main())
    return sizes


def rows(*values: float) -> Any:
    return np.array(values, dtype=np.float64)[:, None]


def ask(batcher: Batcher, *values: float, seconds: float = SECONDS, **more: Any) -> asyncio.Future[Any]:
    wanted, source = more.get("wanted", ("predict",)), more.get("source")
    return batcher.submit(rows(*values), wanted, perf_counter() + seconds, source)


def block(condition: Callable[[], bool]) -> None:
    """Keep the event loop in one turn until a condition is true."""
    end = perf_counter() + SECONDS
    while not condition():
        assert perf_counter() < end
        sleep(0.001)


async def holding(batcher: Batcher, doubler: Doubler) -> asyncio.Future[Any]:
    """Keep the model busy with one request until ``doubler.go`` is set."""
    doubler.hold()
    first = ask(batcher, 0)
    await asyncio.to_thread(doubler.busy.wait, SECONDS)
    return first


def test_a_lone_request_is_predicted_at_once() -> None:
    async def scenario(batcher: Batcher, _: Doubler) -> None:
        answer = await ask(batcher, 1, 2, 3)
        assert answer.arrays[0].tolist() == [2, 4, 6]
        assert answer.batch_rows == 3

    assert run(scenario) == [3]


def test_requests_that_wait_while_the_model_is_busy_are_one_batch_and_each_gets_its_rows() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        others = [ask(batcher, 1), ask(batcher, 2, 3), ask(batcher, 4)]
        doubler.go.set()
        await first
        answers = await asyncio.gather(*others)
        assert [answer.arrays[0].tolist() for answer in answers] == [[2], [4, 6], [8]]
        assert all(answer.batch_rows == 4 and answer.queue > 0 for answer in answers)

    assert run(scenario) == [1, 4]


def test_a_batch_is_limited_by_rows_and_keeps_the_order_and_a_large_request_is_alone() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        others = [ask(batcher, *range(5)), ask(batcher, *range(4)), ask(batcher, *range(3)), ask(batcher, *range(20))]
        doubler.go.set()
        await asyncio.gather(first, *others)

    assert run(scenario, max_rows=8) == [1, 8, 4, 20]


def test_requests_for_different_outputs_are_not_in_one_batch() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        others = [ask(batcher, 1), ask(batcher, 2, wanted=("predict", "predict")), ask(batcher, 3)]
        doubler.go.set()
        await first
        answers = await asyncio.gather(*others)
        assert [len(answer.arrays) for answer in answers] == [1, 2, 1]

    assert run(scenario) == [1, 2, 1]


def test_a_model_of_fixed_shape_is_never_batched() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        others = [ask(batcher, 1), ask(batcher, 2)]
        doubler.go.set()
        await asyncio.gather(first, *others)

    assert run(scenario, of=signature(rows=1)) == [1, 1, 1]


def test_named_tensors_are_joined_by_name() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        doubler.hold()
        asked = [
            batcher.submit({"input-0": rows(value)}, ("predict",), perf_counter() + SECONDS) for value in (1, 2, 3)
        ]
        await asyncio.to_thread(doubler.busy.wait, SECONDS)
        doubler.go.set()
        assert [answer.arrays[0].tolist() for answer in await asyncio.gather(*asked)] == [[2], [4], [6]]

    assert sum(run(scenario, of=signature("tensors"))) == 3


def test_one_bad_request_fails_alone() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        others = [ask(batcher, 1), ask(batcher, -1), ask(batcher, 2)]
        doubler.go.set()
        await first
        good, bad, fine = await asyncio.gather(*others, return_exceptions=True)
        assert (good.arrays[0].tolist(), fine.arrays[0].tolist()) == ([2], [4])  # type: ignore[union-attr]
        assert isinstance(bad, ModelFailure)

    assert run(scenario) == [1, 1, 1]  # the failed batch is not counted


def test_a_full_queue_rejects_with_429_at_once() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        second = ask(batcher, 1)
        with pytest.raises(Overloaded, match="2 requests wait already") as refused:
            ask(batcher, 2)
        assert (refused.value.status, refused.value.reason, refused.value.retry_after) == (429, "queue_full", 1)
        doubler.go.set()
        await asyncio.gather(first, second)

    run(scenario, max_waiting=2)


@pytest.mark.attack
def test_a_full_queue_sheds_the_newest_request_of_the_source_that_has_most() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        flood = [ask(batcher, number, source="flood") for number in range(1, 4)]
        batcher.check_room("honest")
        with pytest.raises(Overloaded):
            batcher.check_room("flood")
        honest = ask(batcher, 9, source="honest")
        with pytest.raises(Overloaded, match="the limit is 4") as shed:
            await flood[-1]
        assert (shed.value.status, shed.value.reason) == (429, "queue_full")
        with pytest.raises(Overloaded):
            ask(batcher, 4, source="flood")
        with pytest.raises(Overloaded):
            ask(batcher, 9, source="honest"), ask(batcher, 9, source="honest")
        doubler.go.set()
        await asyncio.gather(first, *flood[:2], honest, return_exceptions=True)
        assert (await honest).arrays[0].tolist() == [18]

    run(scenario, max_waiting=4)


@pytest.mark.attack
def test_a_queue_of_requests_that_are_predicted_is_not_full() -> None:
    """A turn of the event loop reads many requests of a flood, and the thread predicts some meanwhile: honest requests
    of that turn got 429, one in ten on a quiet machine."""

    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        flood = [ask(batcher, number, source="flood") for number in range(1, 4)]
        doubler.go.set()
        block(lambda: len(doubler.calls) == 4)  # the others are predicted
        batcher.check_room("honest")
        honest = [ask(batcher, 9, source="honest") for _ in range(2)]
        answers = await asyncio.gather(first, *flood, *honest)
        assert [answer.arrays[0].tolist() for answer in answers[-2:]] == [[18], [18]]

    run(scenario, max_rows=1, max_waiting=4)


@pytest.mark.attack
def test_each_source_is_served_in_its_turn() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        order: list[str] = []
        waiting = [ask(batcher, number, source="flood") for number in range(20)]
        waiting += [ask(batcher, number, source="honest") for number in range(2)]
        for future in waiting[:20]:
            future.add_done_callback(lambda _: order.append("flood"))
        for future in waiting[20:]:
            future.add_done_callback(lambda _: order.append("honest"))
        doubler.go.set()
        await asyncio.gather(first, *waiting)
        assert order[:4].count("honest") == 2
        assert order.count("flood") == 20

    run(scenario, max_rows=1, cost=Cost(0.001, 0.001))


@pytest.mark.parametrize("how", ["late", "cancelled", "shed"])
def test_a_source_does_not_pay_for_what_was_not_predicted(how: str) -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        unserved = [ask(batcher, 0, source="honest", seconds=SOON if how == "late" else SECONDS) for _ in range(8)]
        others = [ask(batcher, 0, source="other") for _ in range(4)]
        if how == "cancelled":
            for future in unserved:
                future.cancel()
        for number in range(4 if how == "shed" else 0):
            others.append(ask(batcher, 0, source=number))
            await asyncio.sleep(0)  # the callback of the one that was shed
        if how == "shed":
            unserved, kept = unserved[4:], unserved[:4]
            for future in kept:
                future.cancel()
        await asyncio.sleep(0)
        honest = ask(batcher, 1, source="honest")
        order: list[str] = []
        honest.add_done_callback(lambda _: order.append("honest"))
        for future in others[:4]:
            future.add_done_callback(lambda _: order.append("other"))
        await asyncio.sleep(1.1 * SOON if how == "late" else 0)  # their deadline
        doubler.go.set()
        await asyncio.gather(first, honest, *others)
        failures = await asyncio.gather(*unserved, return_exceptions=True)
        expected = {"late": "Late", "cancelled": "CancelledError", "shed": "Overloaded"}[how]
        assert {type(one).__name__ for one in failures} == {expected}
        assert order.index("honest") <= 1

    run(scenario, max_rows=1, cost=Cost(0.0, 1e-5), max_waiting=13 if how == "shed" else 64)


@pytest.mark.attack
def test_a_flood_of_one_source_does_not_make_another_miss_its_deadline() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        flood = [ask(batcher, 1, source="flood") for _ in range(20)]  # of a second each
        with pytest.raises(Overloaded, match="deadline"):
            ask(batcher, 2, source="flood", seconds=6)
        honest = ask(batcher, 2, source="honest", seconds=6)
        doubler.go.set()
        await asyncio.gather(first, honest, *flood, return_exceptions=True)
        assert honest.exception() is None

    run(scenario, max_rows=1, cost=Cost(1.0, 1.0))


def test_a_request_that_would_miss_its_deadline_is_rejected_before_it_waits() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        second = ask(batcher, 1, seconds=3)  # two batches of a second each
        with pytest.raises(Overloaded, match="deadline") as refused:
            ask(batcher, *range(8), seconds=1.5)  # 10 rows, 8 of which are a batch
        assert refused.value.status == 503
        doubler.go.set()
        await asyncio.gather(first, second)

    run(scenario, cost=Cost(1.0, 1.0))


def test_a_request_that_waited_too_long_is_rejected_without_a_prediction() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        late = ask(batcher, 1, seconds=SOON)
        gone = ask(batcher, 2)
        gone.cancel()
        await asyncio.sleep(1.1 * SOON)  # its deadline
        doubler.go.set()
        await first
        with pytest.raises(Overloaded, match="would miss the deadline of the request"):
            await late
        assert doubler.calls == [1]

    run(scenario)


def test_a_model_of_unknown_cost_rejects_no_request() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        others = [ask(batcher, 1), ask(batcher, 2)]
        doubler.go.set()
        await asyncio.gather(first, *others)

    assert run(scenario, cost=Cost(float("inf"), float("inf"))) == [1, 2]


def test_stop_predicts_the_waiting_requests() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        others = [ask(batcher, value) for value in range(20)]
        stopped = asyncio.create_task(asyncio.to_thread(batcher.stop))
        doubler.go.set()
        answers = await asyncio.gather(first, *others)
        assert [answer.arrays[0].tolist() for answer in answers[1:]] == [[2 * value] for value in range(20)]
        await stopped

    run(scenario)


def copy(batcher: Batcher, *values: float, seconds: float = SECONDS) -> asyncio.Future[Any]:
    return batcher.submit(rows(*values), ("predict",), perf_counter() + seconds, alone=True)


def test_requests_go_before_copies_which_are_predicted_alone_and_not_counted() -> None:
    cost = Cost(0.0, 0.0)

    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        copies = [copy(batcher, 1), copy(batcher, 2, 3)]
        users = [ask(batcher, 4), ask(batcher, 5)]
        assert (batcher.requests, batcher.rows) == (3, 3), "copies take no room"
        order: list[int] = []
        for number, future in enumerate((*copies, *users)):
            future.add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[misc]
        doubler.go.set()
        answers = await asyncio.gather(*copies, first, *users)
        assert order == [2, 3, 0, 1]
        assert doubler.calls == [1, 2, 1, 2]
        assert answers[1].arrays[0].tolist() == [4, 6]
        assert answers[0].own_us >= 1

    assert run(scenario, cost=cost) == [1, 2], "batches of requests only"


def test_a_copy_does_not_change_the_expected_cost() -> None:
    cost = Cost(1e-9, 1e-9)

    async def scenario(batcher: Batcher, _: Doubler) -> None:
        for __ in range(20):
            await copy(batcher, 1)
        assert cost.factor == 1.0
        await ask(batcher, 1)
        assert cost.factor > 1.0

    run(scenario, cost=cost)


def test_a_copy_whose_turn_does_not_come_gets_503_while_requests_are_predicted() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        late = copy(batcher, 7, 7, seconds=0.01)
        with pytest.raises(Overloaded, match="came first") as given_up:
            await late
        assert given_up.value.status == 503
        assert not first.done()
        doubler.go.set()
        await first
        await copy(batcher, 1)
        assert doubler.calls == [1, 1]

    run(scenario)


def test_a_copy_that_takes_longer_than_its_turn_is_answered() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        doubler.hold()
        slow = copy(batcher, 1, seconds=SOON)
        await asyncio.to_thread(doubler.busy.wait, SECONDS)
        await asyncio.sleep(1.1 * SOON)
        doubler.go.set()
        assert (await slow).arrays[0].tolist() == [2]

    run(scenario, cost=Cost(100.0, 100.0))


def test_a_copy_that_fails_fails_alone() -> None:
    async def scenario(batcher: Batcher, _: Doubler) -> None:
        with pytest.raises(ModelFailure):
            await copy(batcher, -1)

    assert run(scenario) == []


def test_few_copies_may_wait() -> None:
    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        copies = [copy(batcher, 1) for _ in range(MAX_COPIES)]
        with pytest.raises(Overloaded, match="too many copies") as refused:
            copy(batcher, 1)
        assert refused.value.status == 429
        batcher.check_room(None)
        doubler.go.set()
        await asyncio.gather(first, *copies)
        await copy(batcher, 1)

    run(scenario, max_waiting=2)


def test_cost_is_a_base_and_seconds_per_row_and_follows_slower_batches() -> None:
    cost = Cost(0.010, 0.073, 64)
    assert cost.seconds(1) == pytest.approx(0.010)
    assert cost.seconds(64) == pytest.approx(0.073)
    assert cost.seconds(128, batches=2) == pytest.approx(0.146)
    for _ in range(20):
        cost.observe(64, 0.146)
    assert cost.seconds(64) == pytest.approx(0.146, rel=0.01)
    before = cost.seconds(64)
    cost.observe(64, 0.073)
    assert before > cost.seconds(64) > 0.13, "one fast batch hardly lowers the cost"


def test_a_wait_for_a_cpu_is_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = 0

    def predict() -> None:
        nonlocal waited
        started = perf_counter_ns()
        sleep(0.1)
        waited += perf_counter_ns() - started - 10_000_000

    monkeypatch.setattr(alone, "_waited", lambda: waited)
    assert measure(predict) < 0.05


def test_the_cost_is_measured_until_no_call_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [900, 50, 50, *[50] * 80, 30, *[40] * 300]
    calls = iter(taken)
    monkeypatch.setattr("mlmodel_server.engine.cost.timed", lambda _: (None, next(calls)))
    times = iter((0.0, *[0.01] * len(taken)))
    assert measure(lambda: None, lambda: next(times)) == 30e-6
    assert len(list(calls)) == 200, "a hundred calls after the fastest"


@pytest.mark.parametrize(("slow", "made"), [(150, 251), (0, 200)])
def test_the_cost_is_not_that_of_a_slow_start(monkeypatch: pytest.MonkeyPatch, slow: int, made: int) -> None:
    """In 10 ms of the clock there are 200 calls, of which the first are slow."""
    calls = 0

    def timed(_: object) -> tuple[None, int]:
        nonlocal calls
        calls += 1
        return None, 500 if calls <= slow else 20

    monkeypatch.setattr("mlmodel_server.engine.cost.timed", timed)
    assert measure(lambda: None, lambda: calls * 50 / 1e6) == 20e-6
    assert calls == made


def test_a_model_that_fails_on_the_example_has_unknown_cost_until_its_first_batch() -> None:
    def fails() -> None:
        raise ValueError

    assert measure(fails) == float("inf")
    cost = Cost(measure(fails), measure(fails))
    assert not cost.is_known
    assert cost.seconds(1) == 0, "so that no request is rejected"
    cost.observe(4, 0.2)
    assert cost.seconds(1) == pytest.approx(0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority only on Linux")
def test_the_event_loop_has_priority_over_the_model() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)

    async def scenario(batcher: Batcher, doubler: Doubler) -> None:
        first = await holding(batcher, doubler)
        thread = next(thread for thread in threading.enumerate() if thread.name == "predict")
        assert thread.native_id
        assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == min(before + NICENESS, 19)
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
        doubler.go.set()
        await first

    run(scenario)
