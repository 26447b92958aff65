"""Figures beside the gates of a rollout: CPU time of predictions, and drift. The operator reports them, and they decide
nothing.

Copies of a rehearsal and requests of clients count apart: a client's request may share a call of the model with others,
and a copy never does, so the copies of both versions cost what the same requests cost alone. Neither loading, compiling
and the self-test count, nor the first calls of each process. docs/adr/0036-beside-the-gates.md says why.
"""

from __future__ import annotations

import mmap
import os
import time
from contextlib import suppress
from typing import TypedDict

import msgspec

from mlmodel_server.observe.cells import Cells

WARM_UP = 5
"""Calls of each process that do not count: libraries allocate and compile in them."""

MAX_NAME = 64
"""Maximum number of characters of a feature's name on the page."""

_DRIFT_BYTES = 1024
_REQUESTS, _REQUESTS_US, _COPIES, _COPIES_US = range(4)


class DriftFigures(TypedDict):
    """Largest stability index of the features, and that of the predictions, over the last one to two hours; None with
    fewer than 1,000 rows."""

    feature: str
    feature_psi: float | None
    prediction_psi: float | None


NO_DRIFT: DriftFigures = {"feature": "", "feature_psi": None, "prediction_psi": None}


class FiguresPage(TypedDict):
    """What the operator reads of this pod."""

    boot: str
    """16 hexadecimal digits, others for each start of the server."""
    revision: str
    """That of this pod."""
    requests: int
    """Requests of clients that the model has answered since the server was ready."""
    requests_cpu_us: int
    """CPU time of these calls of the model in microseconds."""
    copies: int
    """The same of copies."""
    copies_cpu_us: int
    milliwatts: int
    """Assumed power of a busy CPU."""
    drift: DriftFigures


class Figures:
    """Counts in shared memory. Create it before the fork; :meth:`start` it in each worker."""

    def __init__(self, revision: str, slots: int = 1, *, watts_per_core: float = 0.0, threads: int = 1) -> None:
        """``revision`` is that of this pod; ``threads`` is the number of threads of one prediction."""
        self._revision, self._milliwatts = revision, round(1000 * watts_per_core)
        self._boot = os.urandom(8).hex()
        self._cells = Cells(slots, 4)
        self._drift = mmap.mmap(-1, _DRIFT_BYTES)
        self._shown = NO_DRIFT
        self.cpu_ns = time.thread_time_ns if threads == 1 else time.process_time_ns
        """The clock of a call. That of the whole process also counts what other threads do meanwhile."""

    def start(self, slot: int = 0) -> None:
        """Count in this slot from now on."""
        self._row = self._cells.row(slot)

    def add(self, requests: int, requests_us: float, copies: int, copies_us: float) -> None:
        """Count calls of the model that have answered."""
        self._row += (requests, requests_us, copies, copies_us)

    def publish(self, drift: DriftFigures) -> None:
        """Show this drift. Only one worker may call it: that of the first slot."""
        shown = {**drift, "feature": drift["feature"][:MAX_NAME]}
        self._drift[:] = msgspec.json.encode(shown).ljust(_DRIFT_BYTES)

    def page(self) -> FiguresPage:
        """Return the counts of all workers."""
        total = self._cells.total().astype(int).tolist()
        with suppress(msgspec.DecodeError):  # the worker has published none yet, or is just writing it
            self._shown = msgspec.json.decode(self._drift[:], type=DriftFigures)
        return {
            "boot": self._boot,
            "revision": self._revision,
            "requests": total[_REQUESTS],
            "requests_cpu_us": total[_REQUESTS_US],
            "copies": total[_COPIES],
            "copies_cpu_us": total[_COPIES_US],
            "milliwatts": self._milliwatts,
            "drift": self._shown,
        }
