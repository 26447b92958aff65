"""Worker processes that share one loaded model and one listening socket, and their parent.

The model is loaded once, before the fork, so that another worker takes little memory. The parent serves nothing: it
forwards signals, replaces a worker that died, and logs it. Its exit code is that of the container.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable

from mlmodel_server.errors import EXIT_CODES, MLModelError

CRASHES = 3
"""If workers die more often than this within a minute, the server exits, so that Kubernetes sees the crash."""

CRASH_SECONDS = 60.0

_READY = signal.SIGRTMIN  # real-time signals are queued: each of several is received
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, _READY)
_PR_SET_PDEATHSIG = 1

logger = logging.getLogger(__name__)


class WorkersDied(MLModelError):
    """Workers die too often to be replaced. Exit code 1."""


Serve = Callable[[int, Callable[[], None]], int]


def run(count: int, serve: Serve, on_ready: Callable[[], None]) -> int:
    """Run ``serve(slot, ready)`` in ``count`` forked processes until SIGTERM or SIGINT, and return the exit code.

    ``serve`` calls ``ready`` once it accepts requests, and runs until its process gets SIGTERM. It returns an exit
    code: 0 drained, or one of :data:`EXIT_CODES`, with which the whole server then exits. A worker that exits in any
    other way is replaced in its slot. The parent calls ``on_ready`` once all workers are ready.
    """
    gc.collect()
    gc.freeze()  # the collector would write to the pages that the workers share, and so copy them
    received = _Signals()
    slots = {_fork(slot, serve): slot for slot in range(count)}
    ready = 0
    crashes: deque[float] = deque(maxlen=CRASHES + 1)
    stopping, code = False, 0
    while slots:
        number = received.next()
        if number == _READY:
            ready += 1
            if ready == count:
                on_ready()
            continue
        if number != signal.SIGCHLD:
            stopping = True
            _terminate(slots)
            continue
        for pid, status in _exited(slots):
            slot = slots.pop(pid)
            exit_code = os.waitstatus_to_exitcode(status)
            values = {"worker": slot + 1, "pid": pid, "cause": _cause(exit_code)}
            if exit_code == 0 or exit_code in EXIT_CODES.values():
                code = code or exit_code
                if not stopping:
                    stopping = True
                    _terminate(slots)
            elif stopping:
                logger.error("worker died while draining", extra=values)
            else:
                crashes.append(time.monotonic())
                if len(crashes) > CRASHES and crashes[-1] - crashes[0] < CRASH_SECONDS:
                    _terminate(slots)
                    for other in slots:
                        os.waitpid(other, 0)
                    raise WorkersDied(
                        f"the model crashes its process: workers died {len(crashes)} times within "
                        f"{CRASH_SECONDS:.0f} s, the last with {_cause(exit_code)}"
                    )
                logger.error("worker died and is replaced", extra=values)
                slots[_fork(slot, serve)] = slot
    return code


class _Signals:
    """The signals that this process gets, one after the other.

    ``sigwait`` does not work: it needs blocked signals, and a library's thread without that would die from one.
    """

    def __init__(self) -> None:
        self._pipe, write_end = os.pipe()
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end)  # any thread that is interrupted writes to it
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        self._numbers: deque[int] = deque()

    def next(self) -> int:
        """Wait for the next signal, and return its number."""
        if not self._numbers:
            self._numbers.extend(os.read(self._pipe, 64))
        return self._numbers.popleft()


def _fork(slot: int, serve: Serve) -> int:
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the child has its handlers
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return pid
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # if the parent dies, the worker stops too
        os.setpgid(0, 0)  # a terminal sends Ctrl-C to the whole group: only the parent gets it, and forwards it once
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # until the server sets its handler
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        code = serve(slot, lambda: os.kill(parent, _READY))
    finally:
        logging.shutdown()
        os._exit(code)  # never return into the parent's stack


def _terminate(slots: dict[int, int]) -> None:
    for pid in slots:
        os.kill(pid, signal.SIGTERM)  # not reaped yet, so no other process has this pid


def _exited(slots: dict[int, int]) -> list[tuple[int, int]]:
    """Return pid and status of the workers that exited; one SIGCHLD may stand for several."""
    waited = (os.waitpid(pid, os.WNOHANG) for pid in list(slots))
    return [(pid, status) for pid, status in waited if pid]


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
