"""The thread behind: nothing waits for it, it takes little, and it ends."""

from __future__ import annotations

import threading
import time

import pytest

from mlmodel_server.observe import background
from mlmodel_server.observe.background import Background


def test_it_works_off_what_waits_and_ends() -> None:
    done: list[int] = []
    made = Background("b", done.append, 100, end=lambda: done.append(-1))
    made.start()
    assert all(made.offer(item) for item in range(50))
    made.stop(seconds=10)
    assert done == [*range(50), -1]
    assert not made._thread.is_alive()


def test_what_has_no_room_is_refused_and_what_waits_may_be_discarded() -> None:
    go, begun = threading.Event(), threading.Event()
    done: list[int] = []

    def work(item: int) -> None:
        begun.set()
        go.wait(10)
        done.append(item)

    made = Background("b", work, 3)
    made.start()
    assert made.offer(0)
    begun.wait(10)
    assert [made.offer(item) for item in range(1, 6)] == [True, True, True, False, False]
    made.stop(discard=True)
    go.set()
    made._thread.join(10)
    assert done == [0]


def test_it_leaves_the_cpu_to_others_nine_times_as_long_as_it_used_it() -> None:
    class Pause(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return False

    def work(seconds: float) -> None:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    pauses: list[float] = []
    made = Background("b", work, 9)
    made.start()
    made._ending = Pause()
    made.offer(0.01)
    made.stop(seconds=10)
    assert pauses == [pytest.approx(0.09, rel=0.3)]


def test_it_is_told_when_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "IDLE_SECONDS", 0.001)
    told = threading.Event()
    done: list[int] = []
    made = Background("b", done.append, 9, idle=told.set)
    made.start()
    assert told.wait(10)
    made.offer(1)
    made.stop(seconds=10)
    assert done == [1]


def test_a_bug_ends_it_with_a_line_that_holds_no_payload(caplog: pytest.LogCaptureFixture) -> None:
    made: Background[str] = Background("shadow", lambda item: int(item), 9)  # type: ignore[arg-type]
    made.start()
    made.offer("secret")
    made._thread.join(10)
    assert caplog.messages == ["shadow has ended: internal error (ValueError)"]
