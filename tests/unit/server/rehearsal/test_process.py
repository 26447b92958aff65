"""The process of the rehearsal, forked as beside workers, between two servers of this test."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket as sockets
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlmodel_server.errors import UsageError
from mlmodel_server.observe.figures import Figures
from mlmodel_server.observe.rollout import RolloutLabels
from mlmodel_server.rehearsal import authentic, process
from mlmodel_server.rehearsal.authentic import Content
from mlmodel_server.rehearsal.process import Fresh, Settings
from mlmodel_server.rehearsal.progress import LATEST, Progress
from mlmodel_server.rehearsal.sample import Sample
from mlmodel_server.startup.server import listen

SECONDS = 120.0
REQUESTS = 12
NONCE = "0" * 64


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


class Answering(ThreadingHTTPServer):
    """A server that answers copies with the label 1, on a socket that exists before the fork."""

    daemon_threads = True

    def __init__(self, revision: str) -> None:
        self.revision = revision
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Answering

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower().encode(): value.encode() for name, value in self.headers.items()}
        key = authentic.key_of(NONCE, b"")
        found = authentic.verify(key, self.server.revision, headers, body, time.time())
        outputs = [{"name": "a", "datatype": "UINT8", "shape": [1], "data": b"\x01"}]
        answer = msgspec.msgpack.encode({"status": 200, "own_us": 900, "busy_us": 900, "outputs": outputs})
        if found == authentic.HELLO:
            answer = authentic.welcome(key, headers)
        self.send_response(200 if found else 404)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


class Forked:
    """The process, and what the test controls."""

    def __init__(self, directory: Path, listening: Callable[[], sockets.socket] | None = None) -> None:
        self.file = directory / "rehearsal"
        self.stable, self.candidate = Answering("aaaa"), Answering("bbbb")
        sample = Sample(100)
        sample.start(0)
        for number in range(REQUESTS):
            assert sample.wants({})
            sample.keep(Content(b"/predict", b"application/json", b"", b"", b"[%d]" % number), {})
        page = listen("127.0.0.1", 0)
        self.page_port = page.getsockname()[1]
        self.log = directory / "log"
        settings = Settings(
            revision="aaaa",
            own=("127.0.0.1", self.stable.server_port),
            timeout=10.0,
            file=self.file,
            api_keys=None,
            sample=sample,
            labels=RolloutLabels("aaaa"),
            figures=Figures("aaaa"),
            candidate=lambda _: ("127.0.0.1", self.candidate.server_port),
        )
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                logging.basicConfig(
                    filename=self.log, level="INFO", force=True, format="%(message)s %(error)s", style="%"
                )
                logging.raiseExceptions = False
                for fd in (self.stable.fileno(), self.candidate.fileno()):
                    os.close(fd)
                code = process.run(settings, Progress(), listening or (lambda: page))
            finally:
                os._exit(code)
        page.close()
        for server in (self.stable, self.candidate):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def page(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.page_port}/", timeout=SECONDS) as response:
            page: dict[str, Any] = json.loads(response.read())
        return page

    def code(self) -> int:
        """Wait for the process, and return its exit code."""
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def stop(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.code()
        for server in (self.stable, self.candidate):
            server.shutdown()
            server.server_close()


@pytest.fixture
def forked(tmp_path: Path) -> Iterator[Forked]:
    if sys.platform != "linux":
        pytest.skip("needs prctl")
    made = Forked(tmp_path)
    yield made
    made.stop()


def test_it_follows_the_file(forked: Forked) -> None:
    assert forked.page()["candidate"] == ""
    for content in (b"", b"candidate", b"\xff\xfe", b"candidate bbbb 00 -\n", b"x" * 100_000, b"\n" * 10):
        forked.file.write_bytes(content)
        assert forked.page()["candidate"] == ""
    forked.file.unlink()
    forked.file.mkdir()
    assert forked.page()["kept"] == REQUESTS
    forked.file.rmdir()
    forked.file.write_text(f"candidate bbbb {NONCE} -\n")
    until(lambda: forked.page()["candidate"] == "bbbb", "the candidate is known")
    until(lambda: forked.page()["asked"] == REQUESTS, "all requests are sent")
    page = forked.page()
    assert page["pairs"] == {"both": REQUESTS, "candidate_failed": 0, "own_failed": 0, "both_failed": 0}
    assert (page["agree"]["same"], page["again"]["both"], page["seen"]) == (REQUESTS, REQUESTS, 0)
    forked.file.unlink()
    until(lambda: forked.page()["candidate"] == "", "no candidate")


def test_only_the_page_has_the_usual_priority(forked: Forked) -> None:
    forked.page()
    threads = Path(f"/proc/{forked.pid}/task")

    def priorities() -> list[int]:
        return sorted(int((task / "stat").read_text().rpartition(")")[2].split()[16]) for task in threads.iterdir())

    own = os.getpriority(os.PRIO_PROCESS, 0)
    until(lambda: priorities() == [own, 19], "one thread has the lowest priority")
    assert Path(f"/proc/{forked.pid}/comm").read_text() == "rehearsal\n"


def test_sigterm_ends_it_at_once(forked: Forked) -> None:
    forked.page()
    os.kill(forked.pid, signal.SIGTERM)
    assert forked.code() == -signal.SIGTERM


def test_it_takes_almost_no_cpu_time_while_idle(forked: Forked) -> None:
    forked.page()
    forked.file.write_text(f"candidate aaaa {NONCE} -\n")  # itself

    def used() -> float:
        fields = Path(f"/proc/{forked.pid}/schedstat").read_text().split()
        return int(fields[0]) / 1e9

    before, started = used(), time.monotonic()
    threading.Event().wait(1.5)  # what is measured
    assert (used() - before) / (time.monotonic() - started) < 0.01


def test_without_a_port_it_logs_what_to_do(tmp_path: Path) -> None:
    def taken() -> sockets.socket:
        raise UsageError("cannot listen on port 1: give another --rehearsal-port")

    made = Forked(tmp_path, taken)
    assert made.code() == 1
    assert "give another --rehearsal-port" in made.log.read_text()
    made.stop()


def test_an_internal_error_is_logged_without_its_text(tmp_path: Path) -> None:
    def broken() -> sockets.socket:
        raise ValueError("a value of a request")

    made = Forked(tmp_path, broken)
    assert made.code() == 1
    assert "ValueError" in made.log.read_text()
    assert "a value" not in made.log.read_text()
    made.stop()


def test_progress_outlives_a_process() -> None:
    progress, name = Progress(), f"{'r' * 63} {NONCE}".encode()
    assert progress.begin(b"another") == []
    pid = os.fork()
    if pid == 0:
        progress.note(1)
        progress.begin(name)
        for digest in (-(2**63), 2**63 - 1, 5):
            progress.note(digest)
        progress.undo()
        os._exit(0)
    os.waitpid(pid, 0)
    assert progress.begin(name) == [-(2**63), 2**63 - 1]
    assert progress.begin(b"another") == []


def test_progress_is_bounded() -> None:
    progress = Progress()
    progress.begin(b"r1")
    for digest in range(LATEST + 10):
        progress.note(digest)
    assert progress.begin(b"r1") == list(range(10, LATEST + 10))


def test_figures_are_computed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    made: list[bytes] = []
    fresh = Fresh(lambda: made.append(b"") or b"%d" % len(made))  # type: ignore[func-returns-value]
    assert [fresh(), fresh()] == [b"1", b"1"]
    now += process.FRESH_SECONDS
    assert [fresh(), fresh()] == [b"2", b"2"]


@pytest.mark.parametrize(
    ("files", "is_first"),
    [
        ({}, True),
        ({"cgroup.controllers": "memory", "memory.oom.group": "0\n"}, True),
        ({"cgroup.controllers": "memory", "memory.oom.group": "1\n"}, False),
        ({"cgroup.controllers": "memory"}, False),
    ],
    ids=["version 1", "alone", "together", "not known"],
)
def test_it_dies_first_only_where_it_dies_alone(tmp_path: Path, files: dict[str, str], is_first: bool) -> None:
    """Kubernetes lets the kernel kill a container as a whole, and the first one of a node would be this."""
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    process._die_first(tmp_path, tmp_path / "score")
    assert (tmp_path / "score").exists() is is_first
