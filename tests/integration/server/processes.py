"""The model server as a process of its own, on a loopback port, as it runs in a pod."""

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

START_SECONDS = 60
SECONDS = 30.0
"""For what a running server is to do."""


@dataclass
class Answer:
    """One HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A running server process."""

    port: int
    process: subprocess.Popen[str]
    log: list[str]
    """What it wrote until it was ready."""

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        connection: http.client.HTTPConnection | None = None,
        **headers: Any,
    ) -> Answer:
        """One request, on a connection of its own unless one is given."""
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
        """The metrics by name and labels."""
        text = self.ask("GET", "/metrics").body.decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def requests(self, code: int) -> float:
        labels = {"model": "tumour", "version": "v2", "revision": "abcdef12", "code": str(code)}
        return self.samples().get(("mlmodel_requests_total", tuple(sorted(labels.items()))), 0.0)

    def stop(self) -> str:
        """SIGTERM; returns what it wrote to stderr."""
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=60)
        return errors


def command(*arguments: str | Path, name: str = "tumour") -> list[str]:
    fixed = ["--name", name, "--host", "127.0.0.1", "--port", "0"]
    return [sys.executable, "-m", "mlmodel_server", *fixed, *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    proxies = {"http_proxy", "https_proxy", "all_proxy"}
    return {name: value for name, value in os.environ.items() if name.lower() not in proxies} | more


@contextlib.contextmanager
def running(*arguments: str | Path, **env: str) -> Iterator[Server]:
    """A server that is ready; it is stopped at the end."""
    process = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True, env=environment(**env))
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
            raise AssertionError(f"did not start: {''.join(lines)}")
        timer.cancel()
        yield Server(int(found[1]), process, lines)
    finally:
        timer.cancel()
        if process.poll() is None:
            process.terminate()
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def failing(tmp_path: Path, *arguments: str | Path, **env: str) -> tuple[int, str]:
    """Exit code and termination message of a server that must not start."""
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
    assert reason in finished.stderr, "the same line is on stderr"
    return finished.returncode, reason


def metric(server: Server, name: str, **labels: str) -> float:
    """The sum of all samples of this name that have these labels."""
    wanted = set(labels.items())
    return sum(value for (found, held), value in server.samples().items() if found == name and wanted <= set(held))


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"not within {SECONDS:.0f} s: {what}"
        time.sleep(0.02)
