"""Users of a model: a pod that asks at a fixed rate, from inside the cluster, as an application would.

``client.py`` is the program in the pod and has only the standard library, ``grpc_client.py`` the same for gRPC with
what is in the server's image; ``Traffic`` starts one, follows what it says and stops it. It works on any cluster that
``kubectl`` reaches.
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
    """Runs kubectl; ``input`` goes to its standard input."""

    def __call__(self, *args: str, input: str | None = None) -> str: ...


@dataclass
class Second:
    """What the users saw until one moment, cumulative."""

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
    """Constant traffic to one URL as a context; leaving it stops the users and waits for their last word."""

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
        over: float = 0.0,
        name: str = "users",
    ) -> None:
        """``command`` is kubectl itself (for following logs); ``url`` is ``http://…/infer`` or ``grpc://HOST:PORT/MODEL``;
        ``rate`` is in requests per second over all clients; ``limit`` ends after so many requests (0: when stopped);
        sending each takes ``over`` seconds (not over gRPC)."""
        self._kubectl, self._command = kubectl, list(command)
        self._namespace, self._name = namespace, name
        self._arguments = ["--url", url, "--rate", str(rate), "--clients", str(clients), "--limit", str(limit)]
        self._arguments += ["--over", str(over)]
        self._bodies, self._image = bodies, image
        self._program = "grpc_client.py" if url.startswith("grpc://") else "client.py"
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self.now = Second()
        self.ended = False

    def __enter__(self) -> Traffic:
        self._kubectl("apply", "-n", self._namespace, "-f", "-", input=json.dumps(self._manifest()))
        self._kubectl("wait", "-n", self._namespace, "--for=condition=Ready", f"pod/{self._name}", "--timeout=60s")
        self._process = subprocess.Popen(
            [*self._command, "logs", "-n", self._namespace, "-f", self._name],
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._follow, daemon=True).start()
        self.wait(lambda seen: seen.sent > 0, 30, "the first request")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> Second:
        """Stops asking, waits for the answers that are on their way, and returns the totals."""
        if self._process is not None:
            self._kubectl("delete", "pod", "-n", self._namespace, self._name, "--wait=false", "--ignore-not-found")
            try:
                self._process.wait(40)
            except subprocess.TimeoutExpired:
                self._process.kill()
            with self._changed:
                self._changed.wait_for(lambda: self.ended, 5)
            self._process = None
            self._kubectl("delete", "configmap", "-n", self._namespace, self._name, "--ignore-not-found")
        return self.now

    def wait(self, until: Callable[[Second], bool], seconds: float, what: str) -> Second:
        """Waits until the users have seen something; AssertionError with ``what`` after ``seconds``."""
        with self._changed:
            if not self._changed.wait_for(lambda: until(self.now) or self.ended, seconds) or not until(self.now):
                raise AssertionError(f"not seen within {seconds:g} s: {what}; the users saw {self.now}")
            return self.now

    def more(self, requests: int, seconds: float = 60.0) -> Second:
        """Waits until the users have asked so many times more."""
        target = self.now.sent + requests
        return self.wait(lambda seen: seen.sent >= target, seconds, f"{requests} more requests")

    def _follow(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                with self._changed:
                    self.now = Second(**json.loads(line))
                    self._changed.notify_all()
        with self._changed:
            self.ended = True
            self._changed.notify_all()

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
                        "terminationGracePeriodSeconds": 35,
                        "securityContext": {
                            "runAsNonRoot": True,
                            "runAsUser": 65532,
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                        "containers": [
                            {
                                "name": "users",
                                "image": self._image,
                                "imagePullPolicy": "IfNotPresent",
                                "command": ["python3", "-u", f"/users/{self._program}", *self._arguments],
                                "securityContext": {
                                    "allowPrivilegeEscalation": False,
                                    "capabilities": {"drop": ["ALL"]},
                                },
                                "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
                                "volumeMounts": [{"name": "users", "mountPath": "/users", "readOnly": True}],
                            }
                        ],
                        "volumes": [{"name": "users", "configMap": {"name": self._name}}],
                    },
                },
            ],
        }


def wait_for(what: str, seconds: float, check: Callable[[], bool], every: float = 0.2) -> float:
    """Polls a condition; returns the seconds that it took, AssertionError with ``what`` when it never held."""
    began = time.monotonic()
    while not check():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(every)
    return time.monotonic() - began
