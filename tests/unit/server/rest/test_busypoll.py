"""Busy polling: the event loop stays awake only for a client that sends its next request at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mlmodel_server.rest.busypoll import SECONDS, STREAK, BusyPoll


class Loop:
    """An event loop whose time passes only when it polls for requests, 10 µs for each poll."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1.0
        self.calls: list[Callable[[], Any]] = []
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self)
        self.poll = BusyPoll(lambda: self.now)

    def call_soon(self, call: Callable[[], Any]) -> None:
        self.calls.append(call)

    def requests(self, gap: float, count: int = STREAK + 1) -> None:
        """Send requests that are answered at once, each ``gap`` seconds after the response before."""
        for _ in range(count):
            self.now += gap
            self.poll.arrived(self.now)
            self.round()
            self.poll.answered()

    def round(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()

    def awake(self, rounds: int = 1000) -> float:
        """Return the seconds for which the loop polls before it sleeps."""
        start = self.now
        while self.calls and rounds:
            self.now += 1e-5
            rounds -= 1
            self.round()
        return self.now - start


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    return Loop(monkeypatch)


def test_it_polls_for_a_client_that_sends_at_once_and_then_sleeps(loop: Loop) -> None:
    loop.requests(SECONDS / 2)
    assert SECONDS <= loop.awake() <= SECONDS + 2e-5
    assert loop.awake() == 0, "it sleeps from then on"


def test_after_a_pause_it_polls_only_after_another_streak(loop: Loop) -> None:
    loop.requests(SECONDS / 2)
    assert loop.awake() > 0
    loop.requests(SECONDS / 2, STREAK - 1)
    assert loop.awake() == 0
    loop.requests(SECONDS / 2, STREAK)
    assert loop.awake() > 0


@pytest.mark.parametrize("gap", [SECONDS * 1.01, 1.0, 60.0])
def test_it_sleeps_between_rare_requests(loop: Loop, gap: float) -> None:
    loop.requests(gap, 100)
    assert loop.awake() == 0


def test_a_streak_that_is_too_short_does_not_keep_it_awake(loop: Loop) -> None:
    for _ in range(100):
        loop.requests(0.001, 1)
        loop.requests(SECONDS / 2, STREAK - 1)
        assert loop.awake() == 0


def test_it_does_not_poll_while_a_request_is_in_flight(loop: Loop) -> None:
    loop.requests(SECONDS / 2)
    loop.poll.arrived(loop.now)
    assert loop.awake() <= 2e-5
    loop.poll.answered()
    assert loop.awake() >= SECONDS


def test_it_schedules_one_poll_at_a_time(loop: Loop) -> None:
    for _ in range(50):
        loop.requests(SECONDS / 2)
        assert len(loop.calls) <= 1
