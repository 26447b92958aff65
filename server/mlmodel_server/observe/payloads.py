"""The payload log: a sample of requests and responses, in files of limited size and number.

One record per row: time, prediction id, row, version, revision, inputs by feature, outputs by name. A thread writes
them. When the disk is full or fails, records are lost, but requests are not affected.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import msgspec
import numpy as np
from prometheus_client import Metric

from mlmodel_server.errors import UsageError, not_installed
from mlmodel_server.observe.background import Background
from mlmodel_server.observe.cells import Cells, Identity
from mlmodel_server.observe.families import counter
from mlmodel_server.tensors import Array, Tensor

WAITING = 256
"""Maximum number of requests that wait in a worker."""

MAX_ROWS = 100
"""Maximum number of rows of a request that are logged, the first ones."""

FILE_BYTES = 16 << 20
"""Maximum size of a JSON file, in bytes."""

FILES = 8
"""Maximum number of files of each worker; a new file replaces the oldest."""

TABLE_ROWS = 1000
TABLE_SECONDS = 60.0
"""A Parquet file is written at once, when it has this number of rows or its first row is this old."""

LOG_SECONDS = 60.0
"""Minimum seconds between two log lines about a failing disk."""

OUTCOMES = ("written", "dropped", "failed")

logger = logging.getLogger(__name__)

_CELL = {outcome: place for place, outcome in enumerate(OUTCOMES)}
_encoder = msgspec.json.Encoder(enc_hook=lambda value: value.item() if isinstance(value, np.generic) else str(value))


class _Entry(NamedTuple):
    time: float
    prediction_id: str | None
    inputs: list[tuple[str, Array]]
    outputs: list[tuple[str, Array]]

    @property
    def rows(self) -> int:
        return len(self.outputs[0][1])


class PayloadLog:
    """Writes a sample of the requests of one revision. Create it before the fork; :meth:`start` it in each worker."""

    def __init__(
        self,
        identity: Identity,
        directory: Path,
        columns: Sequence[str],
        percent: float,
        slots: int = 1,
        *,
        form: str = "jsonl",
        file_bytes: int = FILE_BYTES,
        files: int = FILES,
        seed: int = 0,
    ) -> None:
        """``columns`` are the features of a table, in their order. ``percent`` of the requests are drawn by a generator
        with ``seed`` plus the slot. ``form`` is "jsonl" or "parquet". Raise :class:`UsageError` for a wrong value."""
        if form not in ("jsonl", "parquet"):
            raise UsageError(f"the format of the payload log must be jsonl or parquet, not {form}")
        if not 0 < percent <= 100:
            raise UsageError(f"the percentage of the payload log must be above 0 and at most 100, not {percent:g}")
        if not directory.is_dir() or not os.access(directory, os.W_OK):
            raise UsageError(f"{directory}, for the payload log, is not a writable directory: mount a volume there")
        self._identity, self._columns, self._share, self._seed = identity, tuple(columns), percent / 100, seed
        self._files = (directory, form, file_bytes, files)
        self._arrow = _pyarrow() if form == "parquet" else None
        self._cells = Cells(slots, len(OUTCOMES))
        self._background = Background("payload log", self._write, WAITING, idle=self._idle, end=self._finish)
        self._quiet_until = 0.0

    def start(self, slot: int = 0) -> None:
        """Count in this slot, and start the thread of this process."""
        self._row = self._cells.row(slot)
        self._random = random.Random(self._seed + slot).random  # noqa: S311  # draws a sample, guards nothing
        directory, form, file_bytes, files = self._files
        folder = _Folder(directory, slot, form, files)
        self._writer: _Writer = _Tables(folder, self._arrow) if self._arrow else _Lines(folder, file_bytes)
        self._background.start()

    def stop(self) -> None:
        """Write the waiting records, for at most two seconds."""
        self._background.stop(seconds=2.0)

    def offer(self, prediction_id: str | None, table: Array | Mapping[str, Array], outputs: Sequence[Tensor]) -> None:
        """Log an answered request, if it is drawn: the table [rows, columns] of the model, or its tensors by name, and
        the outputs. Do not write to them any more."""
        if self._random() >= self._share:
            return
        inputs = table.items() if isinstance(table, Mapping) else zip(self._columns, table.T, strict=False)
        entry = _Entry(
            time.time(),
            prediction_id,
            [(name, _head(array)) for name, array in inputs],
            [(tensor.name, _head(tensor.array)) for tensor in outputs],
        )
        if not self._background.offer(entry):
            self._row[_CELL["dropped"]] += entry.rows

    def _write(self, entry: _Entry) -> None:
        self._to_disk(lambda: self._writer.write(list(_records(entry, self._identity))), entry.rows)

    def _idle(self) -> None:
        self._to_disk(self._writer.idle)

    def _finish(self) -> None:
        self._to_disk(self._writer.close)

    def _to_disk(self, action: Callable[[], int], rows: int = 0) -> None:
        """Run ``action``, which may fail, and count the outcome of ``rows`` new rows and of the waiting ones."""
        at_stake = self._writer.waiting + rows
        try:
            self._row[_CELL["written"]] += action()
        except (OSError, ValueError, TypeError) as error:  # errors of pyarrow are subclasses
            self._row[_CELL["failed"]] += at_stake
            self._writer.reset()
            now = time.monotonic()
            if now >= self._quiet_until:
                self._quiet_until = now + LOG_SECONDS
                reason = getattr(error, "strerror", None) or type(error).__name__
                logger.warning("payload log not written: make room in its volume", extra={"error": reason})

    def collect(self) -> Iterator[Metric]:
        """Yield the rows that were drawn, by outcome."""
        rows = counter(
            "mlmodel_payload_log_rows_total",
            f"Rows selected for the payload log, by outcome: {', '.join(OUTCOMES)}.",
            "outcome",
        )
        for outcome, cell in _CELL.items():
            rows.add_metric([*self._identity, outcome], self._cells.total()[cell])
        yield rows


class _Folder:
    """The files of one worker, named by time, so that the oldest is the first by name."""

    def __init__(self, directory: Path, slot: int, suffix: str, files: int) -> None:
        self._directory, self._prefix, self._suffix, self._files = directory, f"payloads-{slot}-", suffix, files

    def next(self) -> Path:
        """Return the path of a new file, after deleting the oldest ones if necessary."""
        existing = sorted(self._directory.glob(f"{self._prefix}*.{self._suffix}"))
        for oldest in existing[: max(0, len(existing) - self._files + 1)]:
            oldest.unlink(missing_ok=True)
        return self._directory / f"{self._prefix}{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.{self._suffix}"


class _Writer(Protocol):
    """Writes records. Each method except ``reset`` returns how many rows it wrote to disk, and may raise OSError."""

    @property
    def waiting(self) -> int:
        """Number of rows in memory."""

    def write(self, records: list[dict[str, Any]]) -> int:
        """Write or buffer more records."""

    def idle(self) -> int:
        """Write records that are due, while the queue is empty."""

    def close(self) -> int:
        """Write all buffered records and close the file."""

    def reset(self) -> None:
        """Discard the buffered records, and start a new file."""


class _Lines:
    """Writes JSON, one line per record, unbuffered."""

    def __init__(self, folder: _Folder, file_bytes: int) -> None:
        self._folder, self._limit = folder, file_bytes
        self._file: BinaryIO | None = None
        self._size = 0

    @property
    def waiting(self) -> int:
        return 0

    def write(self, records: list[dict[str, Any]]) -> int:
        lines = _encoder.encode_lines(records)
        if self._file and self._size + len(lines) > self._limit:
            self.reset()
        if not self._file:
            self._file, self._size = open(self._folder.next(), "xb", buffering=0, opener=_private), 0  # noqa: SIM115
        self._size += len(lines)
        while lines:
            lines = lines[self._file.write(lines) :]
        return len(records)

    def idle(self) -> int:
        return 0

    def close(self) -> int:
        self.reset()
        return 0

    def reset(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


class _Tables:
    """Writes Parquet, one whole file at a time."""

    def __init__(self, folder: _Folder, pyarrow: Any) -> None:
        self._folder, self._pyarrow = folder, pyarrow
        self.reset()

    @property
    def waiting(self) -> int:
        return len(self._records)

    def write(self, records: list[dict[str, Any]]) -> int:
        if not self._records:
            self._due = time.monotonic() + TABLE_SECONDS
        self._records += records
        return self.close() if len(self._records) >= TABLE_ROWS else self.idle()

    def idle(self) -> int:
        return self.close() if self._records and time.monotonic() >= self._due else 0

    def close(self) -> int:
        if not self._records:
            return 0
        path = self._folder.next()
        hidden = path.with_name(f".{path.name}")  # readers must not see a half-written file
        try:
            with open(hidden, "xb", opener=_private) as file:
                self._pyarrow.parquet.write_table(self._pyarrow.Table.from_pylist(self._records), file)
            hidden.replace(path)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise
        written = len(self._records)
        self.reset()
        return written

    def reset(self) -> None:
        self._records: list[dict[str, Any]] = []
        self._due = 0.0


def _pyarrow() -> Any:
    """Load pyarrow before the fork: this takes 0.25 s, in which a worker could not answer."""
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError:
        raise UsageError(
            not_installed("a payload log in Parquet", "pyarrow", "parquet") + ", or choose jsonl"
        ) from None


def _private(path: str, flags: int) -> int:
    """Open a file that other users cannot read: it has data of requests."""
    return os.open(path, flags, 0o640)


def _head(array: Array) -> Array:
    return array if len(array) <= MAX_ROWS else array[:MAX_ROWS].copy()  # a copy, so that the rest can be freed


def _records(entry: _Entry, identity: Identity) -> Iterator[dict[str, Any]]:
    answered = datetime.fromtimestamp(entry.time, UTC)
    inputs = [(name, array.tolist()) for name, array in entry.inputs]
    outputs = [(name, array.tolist()) for name, array in entry.outputs]
    for row in range(entry.rows):
        yield {
            "time": answered,
            "prediction_id": entry.prediction_id,
            "row": row,
            "version": identity.version,
            "revision": identity.revision,
            "inputs": {name: values[row] for name, values in inputs},
            "outputs": {name: values[row] for name, values in outputs},
        }
