"""The time of a prediction alone: neither another process nor a wait just outside of it changes it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from time import perf_counter_ns, thread_time_ns

import pytest

from mlmodel_server.engine import alone
from mlmodel_server.engine.alone import timed


def spin(milliseconds: float) -> str:
    end = thread_time_ns() + milliseconds * 1e6
    while thread_time_ns() < end:
        pass
    return "done"


def test_the_time_is_at_least_one_microsecond() -> None:
    result, own_us = timed(lambda: 7)
    assert result == 7
    assert own_us >= 1


def test_waiting_for_something_else_than_a_cpu_counts() -> None:
    """As a model that waits for its own threads."""
    assert timed(lambda: time.sleep(0.03))[1] >= 29_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_other_processes_on_the_same_cpu_do_not_count() -> None:
    cpu = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    children = []
    try:
        os.sched_setaffinity(0, {cpu})
        for _ in range(2):
            pid = os.fork()
            if not pid:
                while True:
                    pass
            children.append(pid)
        started = perf_counter_ns()
        _, own_us = timed(lambda: spin(60))
        passed = (perf_counter_ns() - started) // 1000
    finally:
        os.sched_setaffinity(0, before)
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert 60_000 <= own_us < 60_000 + (passed - 60_000) / 2
    assert passed > 90_000, "the others had their share"


@pytest.mark.parametrize("text", [None, "", "1 x 2"])
def test_without_the_count_of_the_system_it_is_the_time_that_passed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "schedstat"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(alone, "_SCHEDULER", file)
    assert timed(lambda: time.sleep(0.01))[1] >= 10_000


def test_a_wait_beside_the_work_does_not_make_it_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = [0]

    def waits() -> int:
        time.sleep(0.02)
        counted[0] += 20_000_000
        return counted[0]

    monkeypatch.setattr(alone, "_waited", waits)
    assert timed(lambda: spin(5))[1] >= 5000
