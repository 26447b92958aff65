"""Identical processes that share one loaded model and one listening socket, and the one that looks after them.

The model is loaded once, before the fork, so that another process costs little memory. The parent serves nothing: it
hands signals on, starts a worker that died again, and says so. It ends with the exit code that the pod should have.
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
"""A worker that dies once more than this within a minute ends the server: Kubernetes shall see that it cannot live."""

CRASH_SECONDS = 60.0

_READY = signal.SIGRTMIN  # real-time signals are queued: each of several is received
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, _READY)
_PR_SET_PDEATHSIG = 1

logger = logging.getLogger(__name__)


class WorkersDied(MLModelError):
    """Workers crash faster than it makes sense to start them. Exit code 1."""


Serve = Callable[[int, Callable[[], None]], int]


def run(count: int, serve: Serve, started: Callable[[], None]) -> int:
    """Run ``serve(slot, ready)`` in ``count`` forked processes until SIGTERM or SIGINT; returns the exit code.

    ``serve`` calls ``ready`` when it answers requests and runs until its process gets SIGTERM. It returns an exit code:
    0 drained, or one of :data:`EXIT_CODES`, with which the whole server then ends. A worker that ends in any
    other way is started again in its slot. ``started`` is called in the parent when all are ready.
    """
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, what the workers share
    received = _Signals()
    slots = {_fork(slot, serve): slot for slot in range(count)}
    ready = 0
    crashes: deque[float] = deque(maxlen=CRASHES + 1)
    ending, code = False, 0
    while slots:
        number = received.next()
        if number == _READY:
            ready += 1
            if ready == count:
                started()
            continue
        if number != signal.SIGCHLD:
            ending = True
            _signal(slots)
            continue
        for pid, status in _ended(slots):
            slot = slots.pop(pid)
            exited = os.waitstatus_to_exitcode(status)
            if exited == 0 or exited in EXIT_CODES.values():
                code = code or exited
                if not ending:
                    ending = True
                    _signal(slots)
            elif ending:
                logger.error("worker crashed while draining", extra={"worker": slot + 1, "exit": _exit(exited)})
            else:
                crashes.append(time.monotonic())
                if len(crashes) > CRASHES and crashes[-1] - crashes[0] < CRASH_SECONDS:
                    _signal(slots)
                    for other in slots:
                        os.waitpid(other, 0)
                    raise WorkersDied(f"the model ends its process again and again: a worker {_how(exited)}")
                values = {"worker": slot + 1, "pid": pid, "exit": _exit(exited)}
                logger.error("worker crashed, another is started", extra=values)
                slots[_fork(slot, serve)] = slot
    return code


class _Signals:
    """The signals that this process gets, one after the other.

    Not ``sigwait``: a library's thread that was there before would not have them blocked, and die of them.
    """

    def __init__(self) -> None:
        self._pipe, into = os.pipe()
        os.set_blocking(into, False)
        signal.set_wakeup_fd(into)  # written to by whichever thread is interrupted
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        self._numbers: deque[int] = deque()

    def next(self) -> int:
        """The number of the next one; waits for it."""
        if not self._numbers:
            self._numbers.extend(os.read(self._pipe, 64))
        return self._numbers.popleft()


def _fork(slot: int, serve: Serve) -> int:
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the child has handlers of its own
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return pid
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # without a parent nobody would end it
        os.setpgid(0, 0)  # a terminal sends Ctrl-C to its whole group: the parent hands it on, once
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # until the server has its own
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        code = serve(slot, lambda: os.kill(parent, _READY))
    finally:
        logging.shutdown()
        os._exit(code)  # never back into the parent's stack


def _signal(slots: dict[int, int]) -> None:
    for pid in slots:
        os.kill(pid, signal.SIGTERM)  # not reaped yet, so the number is still its own


def _ended(slots: dict[int, int]) -> list[tuple[int, int]]:
    """Those that have ended; one SIGCHLD may stand for several."""
    found = (os.waitpid(pid, os.WNOHANG) for pid in list(slots))
    return [(pid, status) for pid, status in found if pid]


def _how(code: int) -> str:
    return f"was ended by {_exit(code)}" if code < 0 else f"ended with code {_exit(code)}"


def _exit(code: int) -> str:
    """Return the signal or the exit code that ended a process."""
    return signal.Signals(-code).name if code < 0 else str(code)
