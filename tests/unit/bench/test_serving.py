"""Computations and counts of the serving benchmark, whose errors would otherwise go unnoticed."""

from __future__ import annotations

import io
import itertools
import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier

from bench.serving import load, models, openloop, process, report, rounds, tables
from bench.serving.load import Sample
from bench.serving.overload import growth
from hack.cluster.report import ClusterError


def _sample(per_second: float) -> Sample:
    return Sample(per_second, p50=1.0, p99=2.0, cpu=3.0, errors=0)


def test_sample_is_per_second_and_per_request() -> None:
    line = json.dumps({"requests": 4000, "microseconds": 2_000_000, "p50": 80, "p99": 300, "errors": 7})
    assert load.sample(f"Running 2s test\n{line}\n", cpu_seconds=1.0) == Sample(2000.0, 80, 300, 250.0, 7)


def test_ratios_are_taken_within_a_round() -> None:
    quick, slow = rounds.Series("quick", 1), rounds.Series("slow", 1)
    for disturbed in (1.0, 0.1, 0.5):
        quick.samples.append(_sample(1000 * disturbed))
        slow.samples.append(_sample(100 * disturbed))
    assert quick.ratio(slow, rounds.per_second) == pytest.approx(10)
    assert quick.median(rounds.per_second) == 500
    assert rounds.rows([quick, slow])[1][-2] == "10.0"


def test_report_names_missed_bounds_and_parts_that_were_not_measured() -> None:
    parts = [
        report.Part(
            "a", ("", "x"), [["y", "1"]], [report.Claim("rate", 19.9, 20, "×"), report.Claim("wait", 4, 5, "s", False)]
        ),
        report.Part("b", missing="Not measured: no b."),
    ]
    text = report.markdown(parts, "a machine")
    assert "| rate | 19.9 × | ≥ 20.0 × | **missed** |" in text
    assert "| wait | 4.00 s | ≤ 5.00 s | met |" in text
    assert "| b | not measured |" in text
    assert "Not measured: no b." in text


def test_cpu_time_and_memory_are_those_of_the_whole_process_tree() -> None:
    busy = "import time\nwhile time.process_time() < 0.2: pass\nprint('done', flush=True)\ninput()"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {busy!r}])"
    child = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout
        assert child.stdout.readline() == b"done\n"
        pids = process.tree(child.pid)
        assert len(pids) == 2
        assert process.cpu_seconds(child.pid) >= 0.19
        assert process.pss_bytes(child.pid) > process.pss_bytes(pids[1]) > 1_000_000
    finally:
        child.communicate(b"\n")
    assert process.tree(child.pid) == []


def test_binary_request_has_the_values_after_the_json() -> None:
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    request = models.binary_request(table, [0, 1])
    length = int(dict(request.headers)[models.BINARY_HEADER])
    assert json.loads(request.body[:length])["inputs"][0]["shape"] == [2, 3]
    assert np.array_equal(np.frombuffer(request.body[length:], np.float32), table.ravel())


def test_growth_ignores_settling_and_fluctuation() -> None:
    settling = [50.0] * 10
    assert growth([*settling, *[100.0, 90.0, 100.0] * 10]) == pytest.approx(0)
    assert growth([*settling, *np.linspace(100, 150, 30)]) > 30
    with pytest.raises(ClusterError):
        growth(settling)


class _Answers(socketserver.StreamRequestHandler):
    """Answers in turn: 200; 429; 200 and closes the connection; closes it without a response."""

    turns: Iterator[int]

    def handle(self) -> None:
        while self.rfile.readline():
            length = 0
            while (line := self.rfile.readline()) != b"\r\n":
                name, _, value = line.partition(b": ")
                length = int(value) if name == b"Content-Length" else length
            assert len(self.rfile.read(length)) == length
            turn = next(_Answers.turns) % 4
            if turn == 3:
                return
            status = b"429 Too Many Requests" if turn == 1 else b"200 OK"
            self.wfile.write(b"HTTP/1.1 %s\r\ncontent-length: 2\r\n" % status)
            self.wfile.write(b"Connection: close\r\n\r\nok" if turn == 2 else b"\r\nok")
            if turn == 2:
                return


class _Server(socketserver.ThreadingTCPServer):
    request_queue_size = 256


@pytest.fixture
def answering() -> Iterator[int]:
    """The port of a server that gives the four kinds of answers in turn."""
    _Answers.turns = itertools.count()  # shared by the threads
    with _Server(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_open_loop_counts_every_request_once(answering: int) -> None:
    request = openloop.post("/", {"X": "1"}, b"body")
    found = openloop.run(answering, request, rate=400, seconds=0.5, deadline=20.0)
    assert found.codes == {"200": 100, "429": 50}
    assert (found.in_time, found.broken, found.unsent) == (100, 50, 0)


def test_open_loop_counts_late_answers_as_not_in_time(answering: int) -> None:
    request = openloop.post("/", {}, b"")
    assert openloop.run(answering, request, rate=100, seconds=0.1, deadline=0.0).in_time == 0


def test_open_loop_prints_its_tally(
    answering: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--port", str(answering), "--rate", "100", "--seconds", "0.04", "--deadline", "5"]
    monkeypatch.setattr(sys, "argv", ["openloop", *words])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(openloop.post("/", {}, b""))))
    openloop.main()
    found = openloop.Tally(**json.loads(capsys.readouterr().out))
    assert (found.codes, found.broken) == ({"200": 2, "429": 1}, 1)


def test_an_answer_is_complete_with_its_last_byte() -> None:
    whole = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\nconnection: close\r\n\r\nabc"
    assert all(openloop.complete(whole[:end]) is None for end in range(len(whole)))
    assert openloop.complete(whole) == (503, True)


def test_a_row_of_a_mixed_table_is_one_tensor_for_each_column() -> None:
    row = pd.DataFrame({"age": [40.5], "city": ["Rome"], "day": [pd.Timestamp("2026-03-01")]})
    model = DummyClassifier().fit(row, [1])
    sent = json.loads(tables.Mixed(Path(), model, row).request(0).body)
    assert sent["parameters"] == {"content_type": "pd"}
    assert [(tensor["name"], tensor["datatype"], tensor["data"]) for tensor in sent["inputs"]] == [
        ("age", "FP64", [40.5]),
        ("city", "BYTES", ["Rome"]),
        ("day", "BYTES", ["2026-03-01T00:00:00"]),
    ]
