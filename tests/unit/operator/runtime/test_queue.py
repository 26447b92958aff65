"""The queue: each key once, one worker per key, edits first, backoff after failures."""

from __future__ import annotations

import asyncio
import random

import pytest

from mlmodel_operator.runtime.backoff import Backoff
from mlmodel_operator.runtime.queue import Pace, Priority, QueueClosed, WorkQueue
from tests.unit.operator.runtime.support import FakeClock, asynchronous, settle


def make(clock: FakeClock | None = None) -> WorkQueue[str]:
    return WorkQueue(clock or FakeClock(), Backoff(rng=random.Random(7)))


async def drain(queue: WorkQueue[str]) -> list[str]:
    """Process every key that is due, and return them in order."""
    keys = []
    while len(queue):
        key = await queue.get()
        keys.append(key)
        queue.done(key)
    return keys


@asynchronous
async def test_a_key_that_is_added_twice_is_returned_once() -> None:
    queue = make()
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    assert await drain(queue) == ["a", "b"]


@asynchronous
async def test_edits_come_before_resyncs_each_in_their_order() -> None:
    queue = make()
    for key in ("r1", "r2"):
        queue.add(key, Priority.RESYNC)
    for key in ("e1", "e2"):
        queue.add(key, Priority.EDIT)
    assert await drain(queue) == ["e1", "e2", "r1", "r2"]


@asynchronous
async def test_an_edit_raises_the_priority_of_a_resync_and_a_resync_does_not_lower_it() -> None:
    queue = make()
    queue.add("other", Priority.RESYNC)
    queue.add("edited", Priority.RESYNC)
    queue.add("edited", Priority.EDIT)
    queue.add("edited", Priority.RESYNC)
    assert await drain(queue) == ["edited", "other"]


@asynchronous
async def test_a_key_in_progress_is_not_given_to_a_second_worker_and_is_requeued_once() -> None:
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
async def test_the_earliest_of_several_delays_applies() -> None:
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
async def test_adding_a_key_cancels_its_delay() -> None:
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
async def test_backoff_grows_with_full_jitter_up_to_its_cap_and_resets_after_a_success() -> None:
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
async def test_a_failing_key_does_not_delay_others() -> None:
    queue = make()
    queue.add("bad")
    assert await queue.get() == "bad"
    queue.retry("bad", at_least=300)
    queue.done("bad")
    queue.add("good")
    assert await drain(queue) == ["good"]


@asynchronous
async def test_a_worker_cancelled_after_its_wake_up_wakes_another() -> None:
    queue = make()
    cancelled, other = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await settle()
    queue.add("a")  # wakes the first, which is cancelled before it can run
    cancelled.cancel()
    assert await asyncio.wait_for(other, 60) == "a"


@asynchronous
async def test_closing_stops_waiting_workers_and_returns_no_more_keys() -> None:
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
async def test_every_key_is_processed_after_its_last_addition_under_random_use() -> None:
    seed = 20261124
    print("seed", seed)
    rng = random.Random(seed)
    clock = FakeClock()
    queue = make(clock)
    keys = [f"k{number}" for number in range(5)]
    added = dict.fromkeys(keys, 0)  # step of the last addition
    started = dict.fromkeys(keys, -1)  # step of the last start
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
            started[key] = step
            await clock.sleep(rng.random())
            working.remove(key)
            queue.done(key)

    workers = [asyncio.create_task(worker()) for _ in range(3)]
    for _ in range(500):
        key = rng.choice(keys)
        step += 1
        added[key] = step
        if rng.random() < 0.5:
            queue.add(key, rng.choice(list(Priority)))
        else:
            queue.add_after(key, rng.random())
        await clock.advance(rng.random() * 0.3)
    await clock.advance(60)
    assert all(started[key] > added[key] for key in keys)
    assert not working
    queue.close()
    await asyncio.gather(*workers)


# ------------------------------------------------------------------------------------------------------------ fairness

Key = tuple[str, str]


def fair(clock: FakeClock | None = None, *, share: int | None = None, pace: Pace | None = None) -> WorkQueue[Key]:
    """Return a queue whose groups are namespaces."""
    backoff = Backoff(rng=random.Random(7))
    return WorkQueue(clock or FakeClock(), backoff, group=lambda key: key[0], share=share, pace=pace)


@asynchronous
async def test_namespaces_take_turns_however_many_keys_one_of_them_has() -> None:
    queue = fair()
    for number in range(1000):
        queue.add(("evil", str(number)))
    for key in (("good", "a"), ("good", "b"), ("fair", "c")):
        queue.add(key)
    order = []
    for _ in range(7):
        order.append(await queue.get())
        queue.done(order[-1])
    assert [namespace for namespace, _ in order] == ["evil", "good", "fair", "evil", "good", "evil", "evil"]
    assert [name for namespace, name in order if namespace == "evil"] == ["0", "1", "2", "3"]


@asynchronous
async def test_a_namespace_that_is_edited_without_end_does_not_stop_the_resync_of_others() -> None:
    queue = fair(share=1)
    queue.add(("good", "a"), Priority.RESYNC)
    queue.add(("evil", "0"))
    queue.add(("evil", "1"))
    assert await queue.get() == ("evil", "0")
    assert await queue.get() == ("good", "a")


@asynchronous
async def test_a_namespace_has_at_most_its_share_of_the_workers() -> None:
    queue = fair(share=2)
    for number in range(5):
        queue.add(("evil", str(number)))
    taken = [await queue.get() for _ in range(2)]
    waiting = asyncio.create_task(queue.get())
    await settle()
    assert not waiting.done()
    queue.add(("good", "a"))
    assert await waiting == ("good", "a")
    waiting = asyncio.create_task(queue.get())
    await settle()
    assert not waiting.done()
    queue.done(taken[0])
    assert await waiting == ("evil", "2")
    assert queue.working == 3


@asynchronous
async def test_a_key_is_processed_no_more_often_than_its_pace_and_none_is_lost() -> None:
    clock = FakeClock()
    queue = fair(clock, pace=Pace(burst=3, per_second=2))
    processed = 0
    for _ in range(100):  # an edit every 0.1 s, for 10 s
        queue.add(("evil", "a"))
        while len(queue):
            key = await queue.get()
            queue.done(key)
            processed += 1
        await clock.advance(0.1)
    assert 3 + 2 * 9 <= processed <= 3 + 2 * 10
    queue.add(("evil", "a"))
    queue.add(("good", "a"))
    assert [await queue.get() for _ in range(len(queue))][-1] == ("good", "a")
    await clock.advance(1)
    assert await queue.get() == ("evil", "a")


@asynchronous
async def test_what_is_known_of_the_pace_of_keys_is_bounded() -> None:
    clock = FakeClock()
    queue = fair(clock, pace=Pace(burst=3, per_second=2))
    for turn in range(3):
        for number in range(1001):
            queue.add(("evil", f"{turn}-{number}"))
            queue.done(await queue.get())
        await clock.advance(1)
    assert len(queue._credit) <= 1001
