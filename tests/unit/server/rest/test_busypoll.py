"""The event loop stays awake only for a client that comes back at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mlmodel_server.rest.busypoll import SECONDS, STREAK, BusyPoll


class Looked:
    """A loop whose time passes only when it looks for requests, 10 µs each time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1.0
        self.calls: list[Callable[[], Any]] = []
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self)
        self.poll = BusyPoll(lambda: self.now)

    def call_soon(self, call: Callable[[], Any]) -> None:
        self.calls.append(call)

    def requests(self, gap: float, count: int = STREAK + 1) -> None:
        """Answered at once, each so many seconds after the last answer."""
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
        """For how long the loop looks, without sleeping, before it gives up."""
        began = self.now
        while self.calls and rounds:
            self.now += 1e-5
            rounds -= 1
            self.round()
        return self.now - began


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Looked:
    return Looked(monkeypatch)


def test_it_stays_awake_for_a_client_that_comes_back_at_once_and_gives_up_in_the_end(loop: Looked) -> None:
    loop.requests(SECONDS / 2)
    assert SECONDS <= loop.awake() <= SECONDS + 2e-5
    assert loop.awake() == 0, "it sleeps from then on"


def test_one_that_stays_away_once_has_to_prove_itself_again(loop: Looked) -> None:
    loop.requests(SECONDS / 2)
    assert loop.awake() > 0
    loop.requests(SECONDS / 2, STREAK - 1)
    assert loop.awake() == 0
    loop.requests(SECONDS / 2, STREAK)
    assert loop.awake() > 0


@pytest.mark.parametrize("gap", [SECONDS * 1.01, 1.0, 60.0])
def test_it_sleeps_between_requests_that_come_now_and_then(loop: Looked, gap: float) -> None:
    loop.requests(gap, 100)
    assert loop.awake() == 0


def test_a_single_pair_that_comes_close_by_chance_does_not_keep_it_awake(loop: Looked) -> None:
    for _ in range(100):
        loop.requests(0.001, 1)
        loop.requests(SECONDS / 2, STREAK - 1)
        assert loop.awake() == 0


def test_it_does_not_look_while_a_request_is_being_answered(loop: Looked) -> None:
    loop.requests(SECONDS / 2)
    loop.poll.arrived(loop.now)
    assert loop.awake() <= 2e-5
    loop.poll.answered()
    assert loop.awake() >= SECONDS


def test_there_is_one_watch_at_a_time(loop: Looked) -> None:
    for _ in range(50):
        loop.requests(SECONDS / 2)
        assert len(loop.calls) <= 1
