"""Clients of a model: a pod that sends requests at a fixed rate from inside the cluster, as an application would.

``client.py`` is the program in the pod and needs only the standard library; ``grpc_client.py`` is the same for gRPC and
needs the libraries of the server's image. ``Traffic`` starts one, follows its log and stops it. It works on any cluster
that ``kubectl`` reaches.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

PROGRAMS = {name: Path(__file__).with_name(name).read_text("utf-8") for name in ("client.py", "grpc_client.py")}


class Kubectl(Protocol):
    """Runs kubectl with ``input`` as its standard input and returns its output."""

    def __call__(self, *args: str, input: str | None = None) -> str: ...


@dataclass
class Totals:
    """Counts and latencies since the start of the traffic; ``at`` is in Unix seconds."""

    at: float = 0.0
    sent: int = 0
    ok: int = 0
    failed: int = 0
    fallbacks: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    clients: dict[str, dict[str, int]] = field(default_factory=dict)
    slowest_ms: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    errors: list[str] = field(default_factory=list)


class Traffic:
    """Constant traffic to one URL as a context; its exit stops the clients and waits for their last totals."""

    def __init__(
        self,
        kubectl: Kubectl,
        command: Sequence[str],
        namespace: str,
        url: str,
        bodies: Sequence[Any],
        *,
        image: str,
        rate: float = 50.0,
        clients: int = 1,
        limit: int = 0,
        send_seconds: float = 0.0,
        timeout: float = 30.0,
        name: str = "clients",
    ) -> None:
        """``command`` is the kubectl command line (to follow logs). ``url`` is ``http://…/infer`` or
        ``grpc://HOST:PORT/MODEL``. ``rate`` is in requests per second over all clients. ``limit`` is the number of
        requests (0: no limit). ``send_seconds`` is the time that sending one request takes (not over gRPC).
        ``timeout`` is the limit of one request in seconds."""
        self._kubectl, self._command = kubectl, list(command)
        self._namespace, self._name = namespace, name
        self._arguments = ["--url", url, "--rate", str(rate), "--clients", str(clients), "--limit", str(limit)]
        self._arguments += ["--send-seconds", str(send_seconds), "--timeout", str(timeout)]
        self._timeout = timeout
        self._bodies, self._image, self._is_limited = bodies, image, limit > 0
        self._program = "grpc_client.py" if url.startswith("grpc://") else "client.py"
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self.now = Totals()
        self.is_over = False
        self._is_stopping = False

    def __enter__(self) -> Traffic:
        self._kubectl("apply", "-n", self._namespace, "-f", "-", input=json.dumps(self._manifest()))
        self._kubectl("wait", "-n", self._namespace, "--for=condition=Ready", f"pod/{self._name}", "--timeout=60s")
        self._process = self._logs()
        threading.Thread(target=self._follow, daemon=True).start()
        self.wait(lambda seen: seen.sent > 0, 30, "the first request")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> Totals:
        """Stop sending, wait for the requests in flight, and return the totals."""
        if self._process is not None:
            self._is_stopping = True
            self._kubectl("delete", "pod", "-n", self._namespace, self._name, "--wait=false", "--ignore-not-found")
            try:
                self._process.wait(self._timeout + 10)
            except subprocess.TimeoutExpired:
                self._process.kill()
            with self._changed:
                self._changed.wait_for(lambda: self.is_over, 5)
            self._process = None
            self._kubectl("delete", "configmap", "-n", self._namespace, self._name, "--ignore-not-found")
        return self.now

    def wait(self, until: Callable[[Totals], bool], seconds: float, what: str) -> Totals:
        """Wait until ``until`` accepts the totals. Raises AssertionError with ``what`` after ``seconds``."""
        with self._changed:
            if not self._changed.wait_for(lambda: until(self.now) or self.is_over, seconds) or not until(self.now):
                raise AssertionError(f"timed out after {seconds:g} s: {what}; last totals: {self.now}")
            return self.now

    def wait_for_requests(self, requests: int, seconds: float = 60.0) -> Totals:
        """Wait until the clients have sent this number of further requests."""
        target = self.now.sent + requests
        return self.wait(lambda seen: seen.sent >= target, seconds, f"{requests} more requests")

    def _logs(self, *options: str) -> subprocess.Popen[str]:
        command = [*self._command, "logs", "-n", self._namespace, "-f", self._name, *options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def _follow(self) -> None:
        process = self._process
        while process is not None:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    with self._changed:
                        self.now = Totals(**json.loads(line))
                        self._changed.notify_all()
            # The stream also ends when the API server does; the totals count from the start of the clients.
            process = None if self._is_stopping or self._is_limited else self._reconnect()
        with self._changed:
            self.is_over = True
            self._changed.notify_all()

    def _reconnect(self) -> subprocess.Popen[str]:
        time.sleep(0.5)
        self._process = self._logs("--tail=1")
        return self._process

    def _manifest(self) -> dict[str, Any]:
        metadata = {"name": self._name, "labels": {"app": self._name}}
        return {
            "apiVersion": "v1",
            "kind": "List",
            "items": [
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": metadata,
                    "data": PROGRAMS | {"bodies.json": json.dumps(list(self._bodies))},
                },
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": metadata,
                    "spec": {
                        "restartPolicy": "Never",
                        "automountServiceAccountToken": False,
                        "enableServiceLinks": False,
                        "terminationGracePeriodSeconds": int(self._timeout) + 5,
                        "securityContext": {
                            "runAsNonRoot": True,
                            "runAsUser": 65532,
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                        "containers": [
                            {
                                "name": "clients",
                                "image": self._image,
                                "imagePullPolicy": "IfNotPresent",
                                "command": ["python3", "-u", f"/clients/{self._program}", *self._arguments],
                                # The image imports nothing from the directory of a script.
                                "env": [{"name": "PYTHONPATH", "value": "/clients"}],
                                "securityContext": {
                                    "allowPrivilegeEscalation": False,
                                    "capabilities": {"drop": ["ALL"]},
                                },
                                "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
                                "volumeMounts": [{"name": "clients", "mountPath": "/clients", "readOnly": True}],
                            }
                        ],
                        "volumes": [{"name": "clients", "configMap": {"name": self._name}}],
                    },
                },
            ],
        }


def wait_for(what: str, seconds: float, check: Callable[[], bool], every: float = 0.2) -> float:
    """Poll until ``check`` returns true; return the time in seconds. Raises AssertionError with ``what`` after
    ``seconds``."""
    started = time.monotonic()
    while not check():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"timed out after {seconds:g} s: {what}")
        time.sleep(every)
    return time.monotonic() - started
