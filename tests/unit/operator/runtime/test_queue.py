"""The queue: once per key, one at a time, urgent first, patient with what fails."""

from __future__ import annotations

import asyncio
import random

import pytest

from mlmodel_operator.runtime.backoff import Backoff
from mlmodel_operator.runtime.queue import Priority, QueueClosed, WorkQueue
from tests.unit.operator.runtime.support import FakeClock, asynchronous, settle


def make(clock: FakeClock | None = None) -> WorkQueue[str]:
    return WorkQueue(clock or FakeClock(), Backoff(rng=random.Random(7)))


async def drain(queue: WorkQueue[str]) -> list[str]:
    """Every key that is due now, each finished at once."""
    keys = []
    while len(queue):
        key = await queue.get()
        keys.append(key)
        queue.done(key)
    return keys


@asynchronous
async def test_a_key_added_twice_is_given_out_once() -> None:
    queue = make()
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    assert await drain(queue) == ["a", "b"]


@asynchronous
async def test_edits_go_before_resyncs_and_first_come_first_served_within_each() -> None:
    queue = make()
    for key in ("r1", "r2"):
        queue.add(key, Priority.RESYNC)
    for key in ("e1", "e2"):
        queue.add(key, Priority.EDIT)
    assert await drain(queue) == ["e1", "e2", "r1", "r2"]


@asynchronous
async def test_an_edit_lifts_a_key_that_waits_for_its_resync_and_not_the_other_way() -> None:
    queue = make()
    queue.add("other", Priority.RESYNC)
    queue.add("lifted", Priority.RESYNC)
    queue.add("lifted", Priority.EDIT)
    queue.add("lifted", Priority.RESYNC)
    assert await drain(queue) == ["lifted", "other"]


@asynchronous
async def test_a_key_in_work_is_not_given_to_a_second_worker_and_comes_again_once() -> None:
    queue = make()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a", Priority.RESYNC)
    queue.add("a", Priority.EDIT)
    second = asyncio.create_task(queue.get())
    await settle()
    assert not second.done()
    queue.done("a")
    assert await second == "a"
    queue.done("a")
    assert len(queue) == 0


@asynchronous
async def test_of_several_delays_the_earliest_counts() -> None:
    clock = FakeClock()
    queue = make(clock)
    queue.add_after("a", 30)
    queue.add_after("a", 10)
    queue.add_after("a", 20)
    await clock.advance(9.9)
    assert len(queue) == 0
    await clock.advance(0.2)
    assert await drain(queue) == ["a"]
    await clock.advance(100)
    assert len(queue) == 0


@asynchronous
async def test_a_worker_that_waits_is_woken_by_a_delay_and_by_an_addition() -> None:
    clock = FakeClock()
    queue = make(clock)
    queue.add_after("late", 5)
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await clock.advance(4)
    queue.add("now")
    assert await first == "now"
    assert not second.done()
    await clock.advance(1)
    assert await second == "late"


@asynchronous
async def test_taking_a_key_cancels_its_delay_because_the_run_decides_anew() -> None:
    clock = FakeClock()
    queue = make(clock)
    queue.add_after("a", 60)
    queue.add("a")
    assert await drain(queue) == ["a"]
    await clock.advance(120)
    assert len(queue) == 0


@asynchronous
async def test_an_edit_does_not_wait_for_the_backoff() -> None:
    queue = make()
    queue.add("a")
    assert await queue.get() == "a"
    queue.retry("a", at_least=100)
    queue.done("a")
    assert len(queue) == 0
    queue.add("a")
    assert await drain(queue) == ["a"]


@asynchronous
async def test_backoff_grows_with_full_jitter_up_to_its_cap_and_starts_anew_after_success() -> None:
    queue = make()
    delays = []
    for _ in range(40):
        queue.add("a")
        assert await queue.get() == "a"
        delays.append(queue.retry("a"))
        queue.done("a")
    assert all(0 <= delay <= min(300, 0.5 * 2**failures) for failures, delay in enumerate(delays, start=1))
    assert max(delays) > 200
    assert len(set(delays)) == len(delays)
    queue.forget("a")
    assert queue.retry("a") <= 1.0


@asynchronous
async def test_a_failing_key_delays_no_other() -> None:
    queue = make()
    queue.add("bad")
    assert await queue.get() == "bad"
    queue.retry("bad", at_least=300)
    queue.done("bad")
    queue.add("good")
    assert await drain(queue) == ["good"]


@asynchronous
async def test_a_cancelled_worker_does_not_take_a_wake_up_with_it() -> None:
    queue = make()
    doomed, other = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await settle()
    queue.add("a")  # wakes the first, which is cancelled before it can run
    doomed.cancel()
    assert await asyncio.wait_for(other, 1) == "a"


@asynchronous
async def test_closing_frees_waiting_workers_and_gives_out_nothing_more() -> None:
    queue = make()
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await settle()
    queue.add_after("later", 5)
    queue.close()
    for task in waiting:
        with pytest.raises(QueueClosed):
            await task
    queue.add("a")
    with pytest.raises(QueueClosed):
        await queue.get()


@asynchronous
async def test_every_key_is_done_exactly_as_often_as_it_must_under_random_use() -> None:
    seed = 20261124
    print("seed", seed)
    rng = random.Random(seed)
    clock = FakeClock()
    queue = make(clock)
    keys = [f"k{number}" for number in range(5)]
    asked = dict.fromkeys(keys, 0)  # when last asked for
    done = dict.fromkeys(keys, -1)  # when last started
    working: set[str] = set()
    step = 0

    async def worker() -> None:
        nonlocal step
        while True:
            try:
                key = await queue.get()
            except QueueClosed:
                return
            assert key not in working
            working.add(key)
            step += 1
            done[key] = step
            await clock.sleep(rng.random())
            working.remove(key)
            queue.done(key)

    crew = [asyncio.create_task(worker()) for _ in range(3)]
    for _ in range(500):
        key = rng.choice(keys)
        step += 1
        asked[key] = step
        if rng.random() < 0.5:
            queue.add(key, rng.choice(list(Priority)))
        else:
            queue.add_after(key, rng.random())
        await clock.advance(rng.random() * 0.3)
    await clock.advance(60)
    assert all(done[key] > asked[key] for key in keys)
    assert not working
    queue.close()
    await asyncio.gather(*crew)
