"""Several processes and one model: shared memory, one page of metrics, a worker that dies is replaced and told of."""

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
from sklearn.ensemble import ExtraTreesClassifier

from mlmodel_server.rest import connection
from tests.integration.server.processes import SECONDS, Server, metric, running, until

SEED = 20261124
ROW = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}]})
INFER = "/v2/models/tumour/infer"


def children(server: Server) -> list[int]:
    task = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
    return [int(pid) for pid in Path(task).read_text().split()]


def test_any_worker_answers_for_all_and_their_counts_add_up() -> None:
    with running("--uri", "builtin://iris", "--workers", "3") as server:
        for _ in range(60):  # a connection each: the kernel spreads them
            assert server.ask("POST", INFER, ROW).status == 200
        until(lambda: metric(server, "mlmodel_requests_total") == 60, "all 60 requests are counted")
        assert len(children(server)) == 3


def test_a_worker_that_dies_is_replaced_told_of_and_loses_no_count() -> None:
    with running("--uri", "builtin://iris", "--workers", "2") as server:
        for _ in range(20):
            assert server.ask("POST", INFER, ROW).status == 200
        until(lambda: metric(server, "mlmodel_requests_total") == 20, "20 requests are counted")
        first, second = children(server)
        os.kill(first, signal.SIGKILL)
        until(lambda: len(children(server)) == 2 and first not in children(server), "another worker runs")
        assert second in children(server), "the other one goes on"
        until(lambda: metric(server, "mlmodel_worker_restarts_total") == 1, "the restart is counted")
        for _ in range(20):
            assert server.ask("POST", INFER, ROW).status == 200
        until(lambda: metric(server, "mlmodel_requests_total") == 40, "no count went back")
        log = server.stop()
    assert f'msg="worker crashed, another is started" worker=1 pid={first} exit=SIGKILL' in log
    assert server.process.returncode == 0


def test_workers_that_die_again_and_again_end_the_server_with_a_reason(tmp_path: Path) -> None:
    message = tmp_path / "termination-log"
    with running("--uri", "builtin://iris", MLMODEL_TERMINATION_LOG=str(message)) as server:
        killed: set[int] = set()
        while server.process.poll() is None and len(killed) < 10:
            for pid in children(server):
                if pid not in killed:
                    killed.add(pid)
                    os.kill(pid, signal.SIGSEGV)
            time.sleep(0.02)
        assert server.process.wait(SECONDS) == 1
    assert message.read_text() == "the model ends its process again and again: a worker was ended by SIGSEGV"
    assert len(killed) == 4


def test_without_its_parent_no_worker_stays() -> None:
    with running("--uri", "builtin://iris", "--workers", "2") as server:
        pids = children(server)
        server.process.kill()
        server.process.wait(SECONDS)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the workers end by themselves")


def test_ctrl_c_drains_and_exits_0() -> None:
    with running("--uri", "builtin://iris", "--workers", "2") as server:
        os.kill(server.process.pid, signal.SIGINT)
        _, log = server.process.communicate(timeout=SECONDS)
    assert server.process.returncode == 0
    assert "drained" in log


def private_bytes(pid: int) -> int:
    """What only this process has in memory."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) * 1024


def test_another_worker_costs_little_memory_for_a_large_model(tmp_path: Path) -> None:
    random = np.random.default_rng(SEED)
    X, y = random.random((12_000, 20)), random.integers(0, 2, 12_000)
    joblib.dump(ExtraTreesClassifier(110, random_state=SEED).fit(X, y), tmp_path / "large.joblib")
    size = (tmp_path / "large.joblib").stat().st_size
    row = json.dumps({"inputs": [{"name": "x", "shape": [1, 20], "datatype": "FP64", "data": X[0].tolist()}]})
    with running("--uri", tmp_path, "--workers", "2", "--compile", "off") as server:
        for _ in range(40):
            assert server.ask("POST", INFER, row).status == 200
        own = {pid: private_bytes(pid) / 1e6 for pid in children(server)}
        print(f"seed {SEED}, model {size / 1e6:.0f} MB, private to each worker: {own} MB")
        assert size > 100e6
        assert max(own.values()) <= 15


def test_a_client_that_is_too_slow_with_its_headers_is_let_go() -> None:
    with running("--uri", "builtin://iris") as server:
        kept = server.connect()  # an idle one that has been used stays
        assert server.ask("POST", INFER, ROW, kept).status == 200
        started = time.monotonic()
        silent = socket.create_connection(("127.0.0.1", server.port))
        slow = socket.create_connection(("127.0.0.1", server.port))
        slow.sendall(b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\n")
        for client in (silent, slow):
            client.settimeout(connection.HEAD_SECONDS + 2 * connection.CHECK_SECONDS)
            assert client.recv(100) == b""
            assert time.monotonic() - started >= connection.HEAD_SECONDS
            client.close()
        assert server.ask("POST", INFER, ROW, kept).status == 200


def test_keys_and_a_certificate_are_asked_for_and_read_again(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"shop: {hashlib.sha256(b'one').hexdigest()}\n")
    with running("--uri", "builtin://iris", "--api-keys", keys) as server:
        assert server.ask("GET", "/v2/health/ready").status == 200
        assert server.ask("GET", "/metrics").status == 200
        for method, path, body in (
            ("POST", INFER, ROW),
            ("GET", "/v2/models/tumour", None),
            ("POST", "/predict", "[]"),
        ):
            refused = server.ask(method, path, body)
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert server.ask("POST", INFER, ROW, authorization="Bearer one").status == 200
        keys.write_text(f"shop: {hashlib.sha256(b'two').hexdigest()}\n")
        until(lambda: server.ask("POST", INFER, ROW, x_api_key="two").status == 200, "the new key counts")
        assert server.ask("POST", INFER, ROW, x_api_key="one").status == 401


def test_https_with_a_certificate_that_is_replaced(tmp_path: Path) -> None:
    def certificate(name: str) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-keyout", str(tmp_path / "new.key"), "-out", str(tmp_path / "new.crt")]
        subject = ["-subj", f"/CN={name}", "-days", "2"]
        subprocess.run([*command, *files, *subject], check=True, capture_output=True, timeout=SECONDS)
        os.replace(tmp_path / "new.key", tmp_path / "tls.key")
        os.replace(tmp_path / "new.crt", tmp_path / "tls.crt")

    def shown(port: int) -> str:
        asked = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}"], input="", capture_output=True, text=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip
        return next((line for line in asked.stdout.splitlines() if line.startswith("subject=")), "")

    certificate("first")
    given = ("--tls-cert", tmp_path / "tls.crt", "--tls-key", tmp_path / "tls.key")
    with running("--uri", "builtin://iris", *given) as server:
        assert "first" in shown(server.port)
        certificate("second")
        until(lambda: "second" in shown(server.port), "new connections see the new certificate")
        answer = subprocess.run(
            ["curl", "-fsS", "--cacert", tmp_path / "tls.crt", "--connect-to", f"second::127.0.0.1:{server.port}",
             "-d", '{"input-0": [5.1, 3.5, 1.4, 0.2]}', "https://second/predict"],
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert json.loads(answer.stdout) == {"predictions": ["setosa"]}, answer.stderr


def test_signals_reach_the_parent_whatever_threads_a_library_has_started(tmp_path: Path) -> None:
    """A thread that was there before the workers has no signal blocked: it must not be the one that dies of it."""
    script = tmp_path / "threads.py"
    script.write_text(
        "import sys, threading, time\n"
        "for _ in range(8):\n"
        "    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "from mlmodel_server.startup.run import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    given = ["--name", "a", "--uri", "builtin://iris", "--host", "127.0.0.1", "--port", "0", "--workers", "4"]
    for _ in range(3):  # which thread gets a signal is up to the kernel
        process = subprocess.Popen([sys.executable, script, *given], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        while 'msg="ready"' not in process.stderr.readline():
            assert process.poll() is None
        process.terminate()
        _, log = process.communicate(timeout=SECONDS)
        assert (process.returncode, "drained" in log) == (0, True)
