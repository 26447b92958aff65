"""Our server and its peers as processes on one CPU: their commands, CPU time and memory."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from bench.serving import pinned, process
from bench.serving.models import NAME, Request
from hack.cluster.report import ClusterError, tail
from hack.ports import free_port
from hack.venvs import venv

START_SECONDS = 60
STOP_SECONDS = 10
LOG_FOLLOWS = " The end of its log:"
PEERS = Path(__file__).parent / "peers"
INFER = f"/v2/models/{NAME}/infer"
READY = "/v2/health/ready"

MLSERVER, FASTAPI, KSERVE = "MLServer 1.7.1", "FastAPI", "KServe SDK 0.21"
FASTAPI_PANDAS = "FastAPI + pandas"


@dataclass(frozen=True)
class Command:
    """The command line of a server, and additions to its environment."""

    argv: Sequence[str | Path]
    env: dict[str, str] = field(default_factory=dict)


Start = Callable[[Path, int], Command]
"""Returns the command for a model (a file, or the directory of a package) and a free port."""


def same(*names: str) -> list[str]:
    """Return requirements for the installed versions of these packages, so that all servers run the same libraries."""
    return [f"{name}=={version(name)}" for name in names]


def ours(*flags: str) -> Start:
    """Return the start of our server with more arguments."""

    def start(model: Path, port: int) -> Command:
        fixed = ["--name", NAME, "--uri", f"pvc://bench/{model.name}", "--path", str(model), "--host", "127.0.0.1"]
        return Command([sys.executable, "-m", "mlmodel_server", *fixed, "--port", str(port), *flags])

    return start


def mlserver(model: Path, port: int) -> Command:
    """MLServer with its defaults (one parallel worker), except one in its favour: it does not log each request."""
    # With uvloop 0.22 and newer it fails to start: "no current event loop" (its issue 2286).
    needed = ["mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop<0.22"]
    python = venv("mlserver", [*needed, *same("scikit-learn", "numpy", "joblib", "pandas")])
    folder = model.with_name(f"{model.parent.name}-mlserver")
    folder.mkdir(exist_ok=True)
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "debug": False, **ports}))
    settings = {"name": NAME, "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": str(model)}}
    (folder / "model-settings.json").write_text(json.dumps(settings))
    return Command([python.with_name("mlserver"), "start", folder])


def fastapi(model: Path, port: int) -> Command:
    """The baseline `peers/fastapi_app.py`."""
    return _uvicorn("fastapi_app:app", model, port)


def fastapi_pandas(model: Path, port: int) -> Command:
    """The baseline `peers/pandas_app.py`, which makes a DataFrame of each request."""
    return _uvicorn("pandas_app:app", model, port)


def _uvicorn(app: str, model: Path, port: int) -> Command:
    """An app of `peers` under uvicorn with its fast loop and parser, without an access log."""
    libraries = ("fastapi", "uvicorn", "uvloop", "httptools", "scikit-learn", "numpy", "joblib", "pandas")
    place = ["--app-dir", str(PEERS), "--host", "127.0.0.1", "--port", str(port)]
    argv = [str(venv("fastapi", same(*libraries))), "-m", "uvicorn", *place, "--no-access-log", app]
    return Command(argv, {"MODEL_FILE": str(model)})


def kserve(model: Path, port: int) -> Command:
    """`peers/kserve_app.py`."""
    python = venv("kserve", ["kserve==0.21.0", *same("scikit-learn", "numpy", "joblib")])
    return Command([python, PEERS / "kserve_app.py"], {"MODEL_FILE": str(model), "PORT": str(port)})


PEER_STARTS: dict[str, Start] = {MLSERVER: mlserver, FASTAPI: fastapi, KSERVE: kserve}
TABLE_STARTS: dict[str, Start] = {MLSERVER: mlserver, FASTAPI_PANDAS: fastapi_pandas}
"""The peers that take a table with texts and dates."""


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    label: str
    port: int
    pid: int
    start_seconds: float

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process tree so far."""
        return process.cpu_seconds(self.pid)

    def pss_bytes(self) -> int:
        """Return the memory of the process tree."""
        return process.pss_bytes(self.pid)

    def check(self, requests: Sequence[Request]) -> None:
        """Send each request once.

        Raises:
            ClusterError: a response differs from the prediction of the model.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        for request in requests:
            connection.request("POST", INFER, request.body, dict(request.headers))
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                raise ClusterError(f"{self.label} returned {response.status}: {text[:300].decode(errors='replace')}")
            labels = json.loads(text)["outputs"][0]["data"]
            if labels != request.labels:
                raise ClusterError(f"{self.label} returned {labels[:8]}, but the model predicts {request.labels[:8]}.")
        connection.close()


@contextmanager
def running(label: str, start: Start, model: Path, cpu: int | None = None) -> Iterator[Server]:
    """Run a server inside the context, on the CPU of servers unless another one is given.

    Raises:
        ClusterError: it exited, or was not ready within ``START_SECONDS``; with the end of its log.
    """
    port = free_port()
    command = start(model, port)
    log = model.with_name(f"{model.name}-{port}.log")
    argv = pinned.on(pinned.cpus()[0] if cpu is None else cpu, command.argv)
    with log.open("wb") as output:
        started = time.perf_counter()
        child = subprocess.Popen(
            argv,
            cwd=model.parent,  # MLServer writes files to its working directory
            env=pinned.environment(**command.env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            while not _ready(port):
                if child.poll() is not None or time.perf_counter() > started + START_SECONDS:
                    raise ClusterError(f"{label} did not become ready.{LOG_FOLLOWS}\n{tail(log)}")
                time.sleep(0.002)
            yield Server(label, port, child.pid, time.perf_counter() - started)
        finally:
            _stop(child)


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", READY)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM, then kill the rest of its session, because the shutdown of MLServer may hang."""
    child.send_signal(signal.SIGTERM)
    try:
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
