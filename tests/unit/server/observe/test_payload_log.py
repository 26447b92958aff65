"""The payload log: requests and responses in limited files; a failing disk does not affect requests."""

from __future__ import annotations

import errno
import json
import sys
import time
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlmodel_server.errors import UsageError
from mlmodel_server.observe import payloads
from mlmodel_server.observe.cells import Identity
from mlmodel_server.observe.payloads import FILES, MAX_ROWS, PayloadLog
from mlmodel_server.tensors import named
from tests.unit.server.loglines import events
from tests.unit.server.observe.test_metrics import in_child, samples

IDENTITY = Identity("tumour", "v2", "3f9c2a1b")
ANSWER = [
    named("predict", np.array(["benign", "malignant"])),
    named("predict_proba", np.array([[0.5, 0.5], [0.0, 1.0]])),
]
TABLE = np.array([[1.0, np.nan], [3.0, -4.0]])


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlmodel_server.observe.background.SHARE", 1.0)


def log_to(directory: Path, **options: Any) -> PayloadLog:
    made = PayloadLog(IDENTITY, directory, ["age", "size"], 100, **options)
    made.start()
    return made


def stop(log: PayloadLog) -> None:
    """Stop the log, and wait for its thread: a server waits for two seconds only, and pyarrow may take them to load."""
    log.stop()
    log._background._thread.join(60)
    assert not log._background._thread.is_alive()


def counted(log: PayloadLog) -> dict[str, int]:
    found = samples(list(log.collect()))
    return {key.split()[-1]: int(value) for key, value in found.items() if value}


def settled(log: PayloadLog, wanted: dict[str, int]) -> None:
    """Wait until the rows have these outcomes."""
    end = time.monotonic() + 60
    while counted(log) != wanted:
        assert time.monotonic() < end, counted(log)
        time.sleep(0.001)


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in files(directory) for line in path.read_text().splitlines()]


def test_each_row_is_a_line(tmp_path: Path) -> None:
    log = log_to(tmp_path)
    log.offer("an-id", TABLE, ANSWER)
    stop(log)
    first, second = lines(tmp_path)
    assert abs(datetime.fromisoformat(first.pop("time")).timestamp() - time.time()) < 60
    assert first == {
        "prediction_id": "an-id",
        "row": 0,
        "version": "v2",
        "revision": "3f9c2a1b",
        "inputs": {"age": 1.0, "size": None},
        "outputs": {"predict": "benign", "predict_proba": [0.5, 0.5]},
    }
    assert (second["row"], second["inputs"]) == (1, {"age": 3.0, "size": -4.0})
    assert counted(log) == {"written": 2}
    (file,) = files(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o640, "not readable by other users"


def test_tables_of_objects_and_tensors_are_logged(tmp_path: Path) -> None:
    log = log_to(tmp_path)
    log.offer(None, np.array([["Köln", np.int64(3)]], object), [named("predict", np.array([np.float32(0.5)]))])
    log.offer(None, {"image": np.zeros((1, 2, 2), np.uint8)}, [named("predict", np.array([[True]]))])
    stop(log)
    first, second = lines(tmp_path)
    assert first["inputs"] == {"age": "Köln", "size": 3}
    assert first["prediction_id"] is None
    assert second["inputs"] == {"image": [[0, 0], [0, 0]]}
    assert second["outputs"] == {"predict": [True]}


def test_parquet_has_the_same_records(tmp_path: Path) -> None:
    lined, tabled = tmp_path / "lines", tmp_path / "tables"
    for directory, form in ((lined, "jsonl"), (tabled, "parquet")):
        directory.mkdir()
        log = log_to(directory, form=form)
        log.offer("an-id", TABLE, ANSWER)
        assert counted(log).get("failed") is None
        stop(log)
        assert counted(log) == {"written": 2}
    (file,) = files(tabled)
    found = import_module("pyarrow.parquet").read_table(file).to_pylist()
    for expected, record in zip(lines(lined), found, strict=True):
        expected.pop("time")
        assert record.pop("time").tzinfo is not None
        if np.isnan(record["inputs"]["size"]):
            record["inputs"]["size"] = None  # Parquet has NaN and null, JSON only null
        assert record == expected


def test_parquet_is_written_after_enough_rows_or_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_to(tmp_path, form="parquet")
    for _ in range(payloads.TABLE_ROWS // 2):
        log._write(payloads._Entry(0.0, None, [("age", TABLE[:, 0])], [("predict", TABLE[:, 1])]))
    log._write(payloads._Entry(0.0, None, [("age", TABLE[:, 0])], [("predict", TABLE[:, 1])]))
    assert len(files(tmp_path)) == 1
    log._idle()
    assert len(files(tmp_path)) == 1, "it buffers more rows"
    later = time.monotonic() + payloads.TABLE_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    log._idle()
    assert len(files(tmp_path)) == 2
    assert counted(log) == {"written": payloads.TABLE_ROWS + 2}
    stop(log)
    assert len(files(tmp_path)) == 2, "the buffer was empty"


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_files_are_limited_in_size_and_number(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "TABLE_ROWS", 4)
    (tmp_path / "other.jsonl").write_text("keep")
    log = log_to(tmp_path, form=form, file_bytes=1000, files=3)
    for _ in range(20):
        log.offer("an-id", TABLE, ANSWER)
    stop(log)
    there = [path for path in files(tmp_path) if path.name.startswith("payloads-0-")]
    assert len(there) == 3
    assert form == "parquet" or all(path.stat().st_size <= 1000 for path in there)
    assert (tmp_path / "other.jsonl").read_text() == "keep"
    assert counted(log) == {"written": 40}
    successor = log_to(tmp_path, form=form, file_bytes=1000, files=3)  # of a worker that died
    successor.offer("the-last", TABLE, ANSWER)
    stop(successor)
    assert len([path for path in files(tmp_path) if path.name.startswith("payloads-0-")]) == 3
    assert len(files(tmp_path)) == 4


def test_the_first_rows_of_a_large_request_are_logged_and_the_rest_is_freed(tmp_path: Path) -> None:
    log = log_to(tmp_path)
    log.offer(None, np.zeros((5000, 2)), [named("predict", np.arange(5000))])
    stop(log)
    assert [line["outputs"]["predict"] for line in lines(tmp_path)] == list(range(MAX_ROWS))
    array = np.zeros(5000)
    assert payloads._head(array).base is None


def test_the_same_seed_draws_the_same_sample(tmp_path: Path) -> None:
    drawn = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        log = PayloadLog(IDENTITY, tmp_path / name, ["age", "size"], 10, seed=7)
        log.start()
        for number in range(500):
            log.offer(str(number), TABLE, ANSWER)
        stop(log)
        drawn.append([line["prediction_id"] for line in lines(tmp_path / name)])
    assert drawn[0] == drawn[1]
    assert 30 < len(drawn[0]) / 2 < 70


def test_rows_beyond_the_queue_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlmodel_server.observe.background.SHARE", 1e-6)  # a long pause after the first request
    log = log_to(tmp_path)
    log.offer(None, TABLE, ANSWER)
    settled(log, {"written": 2})
    for _ in range(payloads.WAITING + 7):
        log.offer(None, TABLE, ANSWER)
    assert counted(log) == {"written": 2, "dropped": 14}
    stop(log)
    assert counted(log)["written"] >= 2


class FullDisk:
    """Fails like a full disk while ``full`` is true."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        real = payloads._private
        monkeypatch.setattr(payloads, "_private", lambda path, flags: self._open(real, path, flags))

    def _open(self, real: Any, path: str, flags: int) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        return int(real(path, flags))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    return FullDisk(monkeypatch)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_full_disk_loses_records_and_logs_one_line(
    tmp_path: Path, form: str, disk: FullDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(payloads, "TABLE_ROWS", 2)
    log = log_to(tmp_path, form=form)
    for _ in range(3):
        log.offer("an-id", TABLE, ANSWER)
    settled(log, {"failed": 6})
    disk.full = False
    log.offer("an-id", TABLE, ANSWER)
    stop(log)
    assert counted(log) == {"failed": 6, "written": 2}
    assert len(files(tmp_path)) == 1, "no half-written file"
    assert events(caplog) == [
        '"payload log not written: make room in its volume" error="No space left on device"',
    ]


def test_rows_that_parquet_cannot_hold_lose_one_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "TABLE_ROWS", 2)
    log = log_to(tmp_path, form="parquet")
    log.offer(None, np.array([["text", 1.0], [2.0, 1.0]], object), ANSWER)
    log.offer(None, TABLE, ANSWER)
    stop(log)
    assert counted(log) == {"failed": 2, "written": 2}
    assert len(files(tmp_path)) == 1, "no half-written file"


def test_workers_write_separate_files_and_share_the_counts(tmp_path: Path) -> None:
    shared = PayloadLog(IDENTITY, tmp_path, ["age", "size"], 100, slots=2)

    def work() -> None:
        shared.start(1)
        shared.offer(None, TABLE, ANSWER)
        stop(shared)

    in_child(work)
    shared.start(0)
    shared.offer(None, TABLE, ANSWER)
    stop(shared)
    assert [path.name[:11] for path in files(tmp_path)] == ["payloads-0-", "payloads-1-"]
    assert counted(shared) == {"written": 4}
    assert FILES == 8


def test_errors_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for change, text in (
        ({"form": "csv"}, "the format of the payload log must be jsonl or parquet, not csv"),
        ({"percent": 0}, "the percentage of the payload log must be above 0 and at most 100, not 0"),
        (
            {"directory": tmp_path / "none"},
            f"{tmp_path}/none, for the payload log, is not a writable directory: mount a volume there",
        ),
    ):
        arguments: dict[str, Any] = {"directory": tmp_path, "percent": 1, "columns": [], **change}
        with pytest.raises(UsageError, match=f"^{text}$"):
            PayloadLog(IDENTITY, **arguments)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"requires pyarrow, .* pip install '\.\[parquet\]', or choose jsonl$"):
        PayloadLog(IDENTITY, tmp_path, [], 1, form="parquet")
