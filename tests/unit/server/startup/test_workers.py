"""The parent of the workers: a process beside them that cannot be started stops no server."""

from __future__ import annotations

import errno
import os
import signal
from typing import NoReturn

import pytest

from mlmodel_server.startup import workers


def test_without_a_process_beside_the_workers_they_serve(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fork() -> NoReturn:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    monkeypatch.setattr(os, "fork", fork)
    helper = workers._Helper(lambda: 0)
    helper.start()
    helper.replace()
    helper.stop()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked, "else the parent would get no signal any more"
    assert "no process for the rehearsal" in caplog.text


def test_the_process_is_started_again_after_a_pause_and_stopped_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "HELPER_SECONDS", 3600.0)
    helper = workers._Helper(lambda: 7)
    helper.start()
    first = helper._pid
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    helper.replace()
    second = helper._pid
    assert second not in (0, first)
    helper.replace()
    assert helper._pid == second, "it waits, and is not replaced"
    helper.stop()
    with pytest.raises(ChildProcessError):
        os.waitpid(second, os.WNOHANG)
    helper.start()
    assert helper._pid == 0
