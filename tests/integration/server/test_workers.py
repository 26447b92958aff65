"""Several workers and one model: shared memory and metrics, and a worker that dies is replaced and logged."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier

from mlmodel_server.rest import connection
from tests.integration.server.processes import SECONDS, metric, running, until

SEED = 20261124
ROW = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}]})
INFER = "/v2/models/tumour/infer"


def test_any_worker_returns_the_counts_of_all() -> None:
    with running("--uri", "builtin://iris", "--workers", "3") as server:
        for _ in range(60):  # a new connection for each: the kernel spreads them
            assert server.send("POST", INFER, ROW).status == 200
        until(lambda: metric(server, "mlmodel_requests_total") == 60, "all 60 requests are counted")
        assert len(server.children()) == 3


def test_a_worker_that_dies_is_replaced_and_logged_and_no_count_is_lost() -> None:
    with running("--uri", "builtin://iris", "--workers", "2") as server:
        for _ in range(20):
            assert server.send("POST", INFER, ROW).status == 200
        until(lambda: metric(server, "mlmodel_requests_total") == 20, "20 requests are counted")
        first, second = server.children()
        os.kill(first, signal.SIGKILL)
        until(lambda: len(server.children()) == 2 and first not in server.children(), "another worker runs")
        assert second in server.children(), "the other worker keeps running"
        until(lambda: metric(server, "mlmodel_worker_restarts_total") == 1, "the restart is counted")
        for _ in range(20):
            assert server.send("POST", INFER, ROW).status == 200
        until(lambda: metric(server, "mlmodel_requests_total") == 40, "no count decreased")
        log = server.stop()
    assert f'msg="worker died and is replaced" worker=1 pid={first} cause=SIGKILL' in log
    assert server.process.returncode == 0


def test_if_workers_die_too_often_the_server_exits_with_a_reason(tmp_path: Path) -> None:
    message = tmp_path / "termination-log"
    with running("--uri", "builtin://iris", MLMODEL_TERMINATION_LOG=str(message)) as server:
        killed: set[int] = set()
        while server.process.poll() is None and len(killed) < 10:
            for pid in server.children():
                if pid not in killed:
                    killed.add(pid)
                    os.kill(pid, signal.SIGSEGV)
            time.sleep(0.02)
        assert server.process.wait(SECONDS) == 1
    assert message.read_text() == (
        "the model crashes its process: workers died 4 times within 60 s, the last with SIGSEGV"
    )
    assert len(killed) == 4


def test_workers_exit_without_their_parent() -> None:
    with running("--uri", "builtin://iris", "--workers", "2") as server:
        pids = server.children()
        server.process.kill()
        server.process.wait(SECONDS)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the workers exit")


def test_ctrl_c_drains_and_exits_0() -> None:
    with running("--uri", "builtin://iris", "--workers", "2") as server:
        os.kill(server.process.pid, signal.SIGINT)
        log = server.ended()
    assert server.process.returncode == 0
    assert "drained" in log


def private_bytes(pid: int) -> int:
    """Return the bytes of memory that only this process has."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) * 1024


def test_another_worker_takes_little_memory_for_a_large_model(tmp_path: Path) -> None:
    random = np.random.default_rng(SEED)
    X, y = random.random((12_000, 20)), random.integers(0, 2, 12_000)
    joblib.dump(ExtraTreesClassifier(110, random_state=SEED).fit(X, y), tmp_path / "large.joblib")
    size = (tmp_path / "large.joblib").stat().st_size
    row = json.dumps({"inputs": [{"name": "x", "shape": [1, 20], "datatype": "FP64", "data": X[0].tolist()}]})
    with running("--uri", tmp_path, "--workers", "2", "--compile", "off") as server:
        for _ in range(40):
            assert server.send("POST", INFER, row).status == 200
        own = {pid: private_bytes(pid) / 1e6 for pid in server.children()}
        print(f"seed {SEED}, model {size / 1e6:.0f} MB, private to each worker: {own} MB")
        assert size > 100e6
        assert max(own.values()) <= 25, "a worker with a second copy of the model has over 100"


@pytest.mark.attack(held=True)
def test_a_client_that_sends_its_headers_too_slowly_is_disconnected() -> None:
    with running("--uri", "builtin://iris") as server:
        kept = server.connect()  # an idle connection that was used stays open
        assert server.send("POST", INFER, ROW, kept).status == 200
        started = time.monotonic()
        silent = socket.create_connection(("127.0.0.1", server.port))
        slow = socket.create_connection(("127.0.0.1", server.port))
        slow.sendall(b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\n")
        for client, answer in ((silent, b""), (slow, b"HTTP/1.1 408 ")):
            client.settimeout(SECONDS)
            assert client.recv(len(answer) or 1) == answer
            assert time.monotonic() - started >= connection.HEAD_SECONDS
            client.close()
        assert server.send("POST", INFER, ROW, kept).status == 200


@pytest.mark.attack(held=True)
def test_api_keys_are_required_and_reloaded(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"shop: {hashlib.sha256(b'one').hexdigest()}\n")
    with running("--uri", "builtin://iris", "--api-keys", keys) as server:
        assert server.send("GET", "/v2/health/ready").status == 200
        assert server.send("GET", "/metrics").status == 200
        for method, path, body in (
            ("POST", INFER, ROW),
            ("GET", "/v2/models/tumour", None),
            ("POST", "/predict", "[]"),
        ):
            rejected = server.send(method, path, body)
            assert (rejected.status, rejected.headers["www-authenticate"]) == (401, "Bearer")
        assert server.send("POST", INFER, ROW, authorization="Bearer one").status == 200
        keys.write_text(f"shop: {hashlib.sha256(b'two').hexdigest()}\n")
        until(lambda: server.send("POST", INFER, ROW, x_api_key="two").status == 200, "the new key is accepted")
        assert server.send("POST", INFER, ROW, x_api_key="one").status == 401


def test_a_replaced_certificate_is_reloaded(tmp_path: Path) -> None:
    def certificate(name: str) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-keyout", str(tmp_path / "new.key"), "-out", str(tmp_path / "new.crt")]
        subject = ["-subj", f"/CN={name}", "-days", "2"]
        subprocess.run([*command, *files, *subject], check=True, capture_output=True, timeout=SECONDS)
        os.replace(tmp_path / "new.key", tmp_path / "tls.key")
        os.replace(tmp_path / "new.crt", tmp_path / "tls.crt")

    def subject(port: int) -> str:
        printed = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}"], input="", capture_output=True, text=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip
        return next((line for line in printed.stdout.splitlines() if line.startswith("subject=")), "")

    certificate("first")
    given = ("--tls-cert", tmp_path / "tls.crt", "--tls-key", tmp_path / "tls.key", "--allowed-hosts", "second")
    with running("--uri", "builtin://iris", *given) as server:
        assert "first" in subject(server.port)
        certificate("second")
        until(lambda: "second" in subject(server.port), "new connections get the new certificate")
        answer = subprocess.run(
            ["curl", "-fsS", "--cacert", tmp_path / "tls.crt", "--connect-to", f"second::127.0.0.1:{server.port}",
             "-d", '{"input-0": [5.1, 3.5, 1.4, 0.2]}', "https://second/predict"],
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert json.loads(answer.stdout) == {"predictions": ["setosa"]}, answer.stderr


def test_signals_reach_the_parent_although_a_library_has_threads(tmp_path: Path) -> None:
    """A thread from before the fork has no signal blocked, but must not die from one."""
    script = tmp_path / "threads.py"
    script.write_text(
        "import sys, threading, time\n"
        "for _ in range(8):\n"
        "    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "from mlmodel_server.startup.run import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    given = ["--name", "a", "--uri", "builtin://iris", "--host", "127.0.0.1", "--port", "0", "--workers", "4"]
    for _ in range(3):  # the kernel chooses the thread that gets a signal
        process = subprocess.Popen([sys.executable, script, *given], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        while 'msg="ready"' not in process.stderr.readline():
            assert process.poll() is None
        process.terminate()
        _, log = process.communicate(timeout=SECONDS)
        assert (process.returncode, "drained" in log) == (0, True)
