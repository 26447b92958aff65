"""The Lease: one holder; a standby acquires it at once after a release, else when it has expired."""

from __future__ import annotations

import asyncio

import pytest

from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.lease import Elector, LeaseLost
from mlmodel_operator.runtime.resource import LEASES
from tests.unit.operator.runtime.support import FakeClock, MemoryApi, asynchronous, settle


def elector(api: MemoryApi, clock: FakeClock, identity: str) -> Elector:
    return Elector(api, clock, "ns", "lease", identity)


def holder(api: MemoryApi) -> str:
    return str(api.objects[LEASES, "ns", "lease"]["spec"]["holderIdentity"])


@asynchronous
async def test_the_first_leads_and_renews_so_the_second_waits() -> None:
    api, clock = MemoryApi(), FakeClock()
    first, second = elector(api, clock, "first"), elector(api, clock, "second")
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    waiting = asyncio.create_task(second.acquire())
    for _ in range(60):
        await clock.advance(1)
    assert holder(api) == "first"
    assert first.leading
    assert not second.leading
    assert api.writes().count("patch") == 1 + 60 // 5
    holding.cancel()
    waiting.cancel()


@asynchronous
async def test_one_of_several_concurrent_candidates_leads() -> None:
    api, clock = MemoryApi(), FakeClock()
    candidates = [elector(api, clock, name) for name in ("a", "b", "c")]
    tasks = [asyncio.create_task(candidate.acquire()) for candidate in candidates]
    await settle()
    assert sum(candidate.leading for candidate in candidates) == 1
    assert sum(task.done() for task in tasks) == 1
    for task in tasks:
        task.cancel()


@asynchronous
async def test_a_released_lease_is_acquired_at_once() -> None:
    api, clock = MemoryApi(), FakeClock()
    first, second = elector(api, clock, "first"), elector(api, clock, "second")
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    await settle()
    await first.release()
    await asyncio.wait_for(waiting, 60)  # the clock has not advanced
    assert holder(api) == "second"
    assert api.objects[LEASES, "ns", "lease"]["spec"]["leaseTransitions"] == 2


@asynchronous
async def test_a_restarted_container_acquires_its_lease_without_waiting() -> None:
    api, clock = MemoryApi(), FakeClock()
    await elector(api, clock, "pod").acquire()
    await asyncio.wait_for(elector(api, clock, "pod").acquire(), 60)
    assert api.objects[LEASES, "ns", "lease"]["spec"]["leaseTransitions"] == 1


@asynchronous
async def test_a_holder_that_cannot_renew_stops_before_its_lease_can_expire() -> None:
    api, clock = MemoryApi(), FakeClock()
    first = elector(api, clock, "first")
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    await clock.advance(5)
    api.down = True
    await clock.advance(10.5)
    assert not holding.done()
    await clock.advance(1)
    with pytest.raises(LeaseLost):
        await holding
    assert not first.leading


@asynchronous
async def test_a_short_outage_of_the_api_server_does_not_cost_the_lease() -> None:
    api, clock = MemoryApi(), FakeClock()
    first = elector(api, clock, "first")
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    await clock.advance(4)
    api.down = True
    await clock.advance(5)
    api.down = False
    await clock.advance(60)
    assert not holding.done()
    assert first.leading
    holding.cancel()


@asynchronous
async def test_an_edit_of_the_lease_is_overwritten_and_another_holder_ends_the_lead() -> None:
    api, clock = MemoryApi(), FakeClock()
    first = elector(api, clock, "first")
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    await api.patch(LEASES, "ns", "lease", {"metadata": {"labels": {"by": "hand"}}})
    await clock.advance(6)
    assert not holding.done()
    await api.patch(LEASES, "ns", "lease", {"spec": {"holderIdentity": "usurper"}})
    await clock.advance(6)
    with pytest.raises(LeaseLost, match="usurper"):
        await holding


@asynchronous
async def test_a_release_never_raises_and_does_not_change_the_lease_of_a_successor() -> None:
    api, clock = MemoryApi(), FakeClock()
    first = elector(api, clock, "first")
    await first.acquire()
    await api.patch(LEASES, "ns", "lease", {"spec": {"holderIdentity": "second"}})
    await first.release()
    assert holder(api) == "second"
    api.fail = [ApiError(0, "Unreachable", "away")]
    await first.release()


@asynchronous
async def test_acquire_waits_for_an_api_server_that_does_not_answer() -> None:
    api, clock = MemoryApi(), FakeClock()
    api.down = True
    first = elector(api, clock, "first")
    waiting = asyncio.create_task(first.acquire())
    await clock.advance(30)
    assert not waiting.done()
    api.down = False
    await clock.advance(2)
    await asyncio.wait_for(waiting, 60)
