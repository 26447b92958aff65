"""Apply an MLModel, read its status and wait for it, as a user does. For the demo and the tests on a whole cluster."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from hack import ROOT
from hack.cluster import Cluster

QUICKSTART = ROOT / "examples" / "quickstart"
NAME = "tumour"


def train(out: Path) -> list[dict[str, Any]]:
    """Train the versions of the quickstart into ``out``, unless its program has done so before; return bodies of
    requests."""
    requests, program = out / "requests.jsonl", QUICKSTART / "versions.py"
    if not requests.exists() or requests.stat().st_mtime < program.stat().st_mtime:
        subprocess.run([sys.executable, QUICKSTART / "versions.py", "--out", out], check=True, capture_output=True)
    return [json.loads(line) for line in requests.read_text().splitlines()]


class Model:
    """The quickstart's model in one namespace. ``out`` has the ConfigMaps of its versions."""

    def __init__(self, cluster: Cluster, namespace: str, out: Path) -> None:
        self._cluster, self.namespace, self.out = cluster, namespace, out
        self.url = f"http://{NAME}.{namespace}.svc/v2/models/{NAME}/infer"

    def __call__(self, *args: str, input: str | None = None) -> str:
        """Run kubectl in the namespace of the model."""
        return self._cluster.kubectl("-n", self.namespace, *args, input=input)

    def apply(
        self, version: str, *, rollout: dict[str, Any] | None = None, serving: dict[str, Any] | None = None
    ) -> None:
        """Apply the ConfigMap of the version and the MLModel, with ``rollout`` and ``serving`` in its spec."""
        self("apply", "-f", str(self.out / f"{NAME}-{version}.yaml"))
        file = "mlmodel.yaml" if version == "v1" else f"{version}.yaml"
        manifest = yaml.safe_load((QUICKSTART / file).read_text())
        if rollout is not None:
            manifest["spec"]["rollout"] = rollout
        if serving is not None:
            manifest["spec"]["serving"] = {**manifest["spec"].get("serving", {}), **serving}
        self("apply", "-f", "-", input=json.dumps(manifest))

    def get(self, name: str = NAME) -> dict[str, Any]:
        """Return the current MLModel, or another one of the namespace."""
        path = f"/apis/mlmodel.dev/v1alpha1/namespaces/{self.namespace}/mlmodels/{name}"
        found: dict[str, Any] = self._cluster.read(path)
        return found

    def status(self) -> dict[str, Any]:
        """Return the status; empty if there is none, or if it belongs to an older spec."""
        body = self.get()
        status: dict[str, Any] = body.get("status", {})
        return status if status.get("observedGeneration") == body["metadata"]["generation"] else {}

    def wait(
        self, what: str, seconds: float, until: Callable[[dict[str, Any]], bool], every: float = 0.2
    ) -> dict[str, Any]:
        """Poll until ``until`` accepts the status of the current spec, and return that status.

        Raises:
            AssertionError: it did not within ``seconds``; with the last status.
        """
        end = time.monotonic() + seconds
        while True:
            status = self.status()
            if status and until(status):
                return status
            if time.monotonic() > end:
                raise AssertionError(
                    f"timed out after {seconds:g} s: {what}\n{summary(self.get().get('status') or {})}"
                )
            time.sleep(every)

    def wait_ready(self, seconds: float, version: str) -> dict[str, Any]:
        """Wait until the model is Ready and ``version`` is stable."""
        return self.wait(
            f"{version} is ready",
            seconds,
            lambda status: condition(status, "Ready") == "True" and status["stable"]["version"] == version,
        )

    def wait_weight(self, weight: int) -> dict[str, Any]:
        """Wait until the candidate has this weight."""
        return self.wait(
            f"the candidate has weight {weight}",
            60,
            lambda status: (status.get("candidate") or {}).get("weight") == weight,
        )

    def wait_rejected(self, seconds: float) -> dict[str, Any]:
        """Wait until the desired version is rolled back and no revision drains."""
        return self.wait(
            "the desired version is rolled back and drained",
            seconds,
            lambda status: condition(status, "RolledBack") == "True" and not status.get("draining"),
        )

    def pods(self, component: str = "server") -> dict[str, tuple[str, int]]:
        """Return the UID and the number of restarts of each pod that is not terminating, by name."""
        selector = quote(f"mlmodel.dev/component={component}")
        listed = self._cluster.read(f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={selector}")
        return {
            pod["metadata"]["name"]: (
                pod["metadata"]["uid"],
                sum(container["restartCount"] for container in pod["status"].get("containerStatuses", [])),
            )
            for pod in listed["items"]
            if "deletionTimestamp" not in pod["metadata"]
        }


def summary(status: dict[str, Any]) -> str:
    """Return a status in a few lines: the conditions with their messages, then the rest."""
    conditions = [
        f"{found['type']}={found['status']} {found['reason']} since {found['lastTransitionTime']}: {found['message']}"
        for found in status.get("conditions", [])
    ]
    rest = {name: value for name, value in status.items() if name != "conditions"}
    return "\n".join([*conditions, json.dumps(rest)])


def condition(status: dict[str, Any], kind: str) -> str:
    """Return the status of a condition; empty if it is not set."""
    return next((found["status"] for found in status.get("conditions", []) if found["type"] == kind), "")


def message(status: dict[str, Any], kind: str = "Ready") -> str:
    """Return the message of a condition; empty if it is not set."""
    return next((found["message"] for found in status.get("conditions", []) if found["type"] == kind), "")
