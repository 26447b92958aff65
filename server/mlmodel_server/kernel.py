"""What the kernel is asked about a process and Python has no function for. Linux only: elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def stop_with_parent(number: signal.Signals) -> None:
    """Let the kernel send this signal to the process when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, number)


def name_process(name: str) -> None:
    """Set the name of the process in ``/proc``, at most 15 characters."""
    _prctl(_PR_SET_NAME, name.encode())


def _prctl(option: int, value: int | bytes) -> None:
    call = getattr(ctypes.CDLL(None), "prctl", None)
    if call:
        call(option, value)
