"""The model server as a process on a loopback port, as it runs in a pod."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from prometheus_client.parser import text_string_to_metric_families

from bench.serving.process import cpu_seconds

START_SECONDS = 180
SECONDS = 120.0
"""Maximum time to wait for a running server, also on a busy machine."""


@dataclass
class Answer:
    """One HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class _Reader(threading.Thread):
    """Reads what a server writes: one that writes more than a pipe holds would wait for a reader."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self.lines: list[str] = []

    def run(self) -> None:
        for line in self._stream:
            self.lines.append(line)
        self._stream.close()


@dataclass
class Server:
    """A running server process."""

    port: int
    process: subprocess.Popen[str]
    log: list[str]
    """Its lines on stderr until it was ready."""
    later: _Reader
    """The lines after these."""

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        connection: http.client.HTTPConnection | None = None,
        **headers: Any,
    ) -> Answer:
        """Send one request, on a new connection unless one is given."""
        used = connection or self.connect()
        if body is not None and "content_type" not in headers:
            headers["content_type"] = "application/json"
        used.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = used.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        if connection is None:
            used.close()
        return answer

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Return the metrics by name and labels."""
        text = self.send("GET", "/metrics").body.decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def children(self) -> list[int]:
        """Return the PIDs of its workers, and of the process beside them if there is one."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def cpu(self) -> float:
        """Return the seconds of CPU time that its processes have used."""
        return cpu_seconds(self.process.pid)

    def requests(self, code: int) -> float:
        labels = {"model": "tumour", "version": "v2", "revision": "abcdef12", "code": str(code)}
        return self.samples().get(("mlmodel_requests_total", tuple(sorted(labels.items()))), 0.0)

    def stop(self) -> str:
        """Send SIGTERM, and return what it wrote to stderr after it was ready."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self, seconds: float = SECONDS) -> str:
        """Wait until it has exited, and return what it wrote to stderr after it was ready."""
        self.process.wait(seconds)
        self.later.join(seconds)
        return "".join(self.later.lines)


def command(*arguments: str | Path, program: Sequence[str] = ("-m", "mlmodel_server")) -> list[str]:
    fixed = ["--name", "tumour", "--host", "127.0.0.1", "--port", "0"]
    return [sys.executable, *program, *fixed, *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    proxies = {"http_proxy", "https_proxy", "all_proxy"}
    return {name: value for name, value in os.environ.items() if name.lower() not in proxies} | more


@contextlib.contextmanager
def running(*arguments: str | Path, program: Sequence[str] = ("-m", "mlmodel_server"), **env: str) -> Iterator[Server]:
    """Run a server until the end of the context; it is ready at the start."""
    process = subprocess.Popen(
        command(*arguments, program=program), stderr=subprocess.PIPE, text=True, env=environment(**env)
    )
    assert process.stderr is not None
    timer = threading.Timer(START_SECONDS, process.kill)
    timer.start()
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r'msg="ready" .*port=(\d+)', line):
                break
        else:
            raise AssertionError(f"the server did not start: {''.join(lines)}")
        timer.cancel()
        later = _Reader(process.stderr)
        later.start()
        yield Server(int(found[1]), process, lines, later)
    finally:
        timer.cancel()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def failing(tmp_path: Path, *arguments: str | Path, **env: str) -> tuple[int, str]:
    """Return exit code and termination message of a server that must not start."""
    message = tmp_path / "termination-log"
    finished = subprocess.run(
        command(*arguments),
        env=environment(MLMODEL_TERMINATION_LOG=str(message), **env),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    reason = message.read_text() if message.exists() else ""
    assert "Traceback" not in finished.stderr
    assert len(reason) <= 1000
    assert "\n" not in reason
    assert reason in finished.stderr, "stderr has the same line"
    return finished.returncode, reason


def metric(server: Server, name: str, **labels: str) -> float:
    """Return the sum of all samples of this name with these labels."""
    selected = set(labels.items())
    samples = server.samples().items()
    return sum(value for (sample, pairs), value in samples if sample == name and selected <= set(pairs))


def until(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)
