"""Worker processes that share one loaded model and one listening socket, and their parent.

The model is loaded once, before the fork, so that another worker takes little memory. The parent serves nothing: it
forwards signals, replaces a worker that died, and logs it. Its exit code is that of the container.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable

from mlmodel_server.errors import EXIT_CODES, MLModelError
from mlmodel_server.kernel import stop_with_parent

CRASHES = 3
"""If workers die more often than this within a minute, the server exits, so that Kubernetes sees the crash."""

CRASH_SECONDS = 60.0

HELPER_SECONDS = 10.0
"""Minimum seconds between two starts of the process beside the workers."""

_READY = signal.SIGRTMIN  # real-time signals are queued: each of several is received
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, _READY)

logger = logging.getLogger(__name__)


class WorkersDied(MLModelError):
    """Workers die too often to be replaced. Exit code 1."""


Serve = Callable[[int, Callable[[], None]], int]


def run(count: int, serve: Serve, on_ready: Callable[[], None], beside: Callable[[], int] | None = None) -> int:
    """Run ``serve(slot, ready)`` in ``count`` forked processes until SIGTERM or SIGINT, and return the exit code.

    ``serve`` calls ``ready`` once it accepts requests, and runs until its process gets SIGTERM. It returns an exit
    code: 0 drained, or one of :data:`EXIT_CODES`, with which the whole server then exits. A worker that exits in any
    other way is replaced in its slot. The parent calls ``on_ready`` once all workers are ready.
    """
    gc.collect()
    gc.freeze()  # the collector would write to the pages that the workers share, and so copy them
    received = _Signals()
    helper = _Helper(beside)
    try:
        return _run(count, serve, on_ready, received, helper)
    finally:
        helper.stop()


def _run(count: int, serve: Serve, on_ready: Callable[[], None], received: _Signals, helper: _Helper) -> int:
    helper.start()
    slots = {_fork_worker(slot, serve): slot for slot in range(count)}
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
            helper.stop()
            _terminate(slots)
            continue
        helper.replace()
        for pid, status in _exited(slots):
            slot = slots.pop(pid)
            exit_code = os.waitstatus_to_exitcode(status)
            values = {"worker": slot + 1, "pid": pid, "cause": _cause(exit_code)}
            if exit_code == 0 or exit_code in EXIT_CODES.values():
                code = code or exit_code
                if not stopping:
                    stopping = True
                    helper.stop()
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
                slots[_fork_worker(slot, serve)] = slot
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


class _Helper:
    """The process beside the workers, if there is one."""

    def __init__(self, work: Callable[[], int] | None) -> None:
        self._work = work
        self._pid = 0
        self._next = time.monotonic()

    def start(self) -> None:
        """Start the process; it waits until :data:`HELPER_SECONDS` after the start of the one before it."""
        work = self._work
        if not work:
            return
        wait = max(0.0, self._next - time.monotonic())
        self._next = time.monotonic() + wait + HELPER_SECONDS

        def wait_and_work() -> int:
            time.sleep(wait)
            return work()

        try:
            self._pid = _fork(wait_and_work)
        except OSError as error:  # the limit of processes or memory: the workers serve without it
            logger.error("no process for the rehearsal", extra={"error": error.strerror})

    def replace(self) -> None:
        """Start another process if this one has exited."""
        if not self._pid:
            return
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            cause = _cause(os.waitstatus_to_exitcode(status))
            logger.error("process of the rehearsal died and is replaced", extra={"pid": pid, "cause": cause})
            self._pid = 0
            self.start()

    def stop(self) -> None:
        """Stop the process for good, and wait until it has exited."""
        self._work = None
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)  # not reaped yet, so no other process has this pid
            os.waitpid(self._pid, 0)
            self._pid = 0


def _fork_worker(slot: int, serve: Serve) -> int:
    parent = os.getpid()
    return _fork(lambda: serve(slot, lambda: os.kill(parent, _READY)))


def _fork(work: Callable[[], int]) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the child has its handlers
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return pid
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        stop_with_parent(signal.SIGTERM)  # if the parent dies, this process stops too
        os.setpgid(0, 0)  # a terminal sends Ctrl-C to the whole group: only the parent gets it, and forwards it once
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # until the server sets its handler
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        code = work()
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
