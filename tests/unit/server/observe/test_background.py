"""The background thread: requests do not wait for it, it uses little CPU, and it stops."""

from __future__ import annotations

import threading
import time

import pytest

from mlmodel_server.observe import background
from mlmodel_server.observe.background import Background
from tests.unit.server.loglines import events


def test_it_processes_its_queue_and_stops() -> None:
    done: list[int] = []
    made = Background("b", done.append, 100, end=lambda: done.append(-1))
    made.start()
    assert all(made.offer(item) for item in range(50))
    made.stop(seconds=60)
    assert done == [*range(50), -1]
    assert not made._thread.is_alive()


def test_a_full_queue_rejects_items_and_the_queue_may_be_discarded() -> None:
    go, started = threading.Event(), threading.Event()
    done: list[int] = []

    def work(item: int) -> None:
        started.set()
        go.wait(60)
        done.append(item)

    made = Background("b", work, 3)
    made.start()
    assert made.offer(0)
    started.wait(60)
    assert [made.offer(item) for item in range(1, 6)] == [True, True, True, False, False]
    made.stop(discard=True)
    go.set()
    made._thread.join(60)
    assert done == [0]


def test_it_pauses_nine_times_as_long_as_it_used_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    used = 0.0

    class Pause(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return False

    def work(seconds: float) -> None:
        nonlocal used
        used += seconds

    monkeypatch.setattr(time, "thread_time", lambda: used)
    pauses: list[float] = []
    made = Background("b", work, 9)
    made.start()
    made._stopping = Pause()
    made.offer(0.01)
    made.stop(seconds=60)
    assert pauses == [pytest.approx(0.09)]


def test_idle_is_called_while_the_queue_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "IDLE_SECONDS", 0.001)
    idle = threading.Event()
    done: list[int] = []
    made = Background("b", done.append, 9, idle=idle.set)
    made.start()
    assert idle.wait(60)
    made.offer(1)
    made.stop(seconds=60)
    assert done == [1]


def test_a_bug_stops_it_with_a_log_line_without_payload(caplog: pytest.LogCaptureFixture) -> None:
    made: Background[str] = Background("shadow", lambda item: int(item), 9)  # type: ignore[arg-type]
    made.start()
    made.offer("secret")
    made._thread.join(60)
    assert events(caplog) == ['"background task stopped: internal error" task=shadow error=ValueError']
