"""Our server as a process, on free ports of the loopback."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from hack.ports import free_port

START_SECONDS = 180


@dataclass
class Server:
    """A running process and its addresses."""

    url: str
    grpc: str
    process: subprocess.Popen[str]


@contextlib.contextmanager
def running(name: str, *arguments: str) -> Iterator[Server]:
    """Run a server of the model ``name`` until the end of the context; it is ready at the start."""
    grpc = free_port()
    command = [sys.executable, "-m", "mlmodel_server", "--name", name, "--model-version", "v1", "--host", "127.0.0.1"]
    command += ["--port", "0", "--grpc-port", str(grpc), "--workers", "1", *arguments]
    plain = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=plain)
    assert process.stderr is not None
    timer = threading.Timer(START_SECONDS, process.kill)
    timer.start()
    reader = threading.Thread(target=process.stderr.read)
    try:
        lines = []
        while line := process.stderr.readline():
            lines.append(line)
            if found := re.search(r'msg="ready" .*port=(\d+)', line):
                break
        else:
            raise AssertionError(f"the server did not start: {''.join(lines)}")
        timer.cancel()
        reader.start()  # so that the pipe of a server that logs much is never full
        yield Server(f"http://127.0.0.1:{found[1]}", f"127.0.0.1:{grpc}", process)
    finally:
        timer.cancel()
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if reader.ident:
            reader.join()
        process.stderr.close()
