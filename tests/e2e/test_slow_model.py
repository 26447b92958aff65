"""A model that takes twelve seconds for a prediction, updated under traffic."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import onnx
import pytest

from hack.quickstart import NAME, Model
from hack.traffic import Traffic
from tests.fixtures.slow_model import rounds_for, slow_model

pytestmark = pytest.mark.cluster

StartTraffic = Callable[..., AbstractContextManager[Traffic]]
SECONDS = 12.0
LIMIT = 180
"""``traffic.timeoutSeconds``: a prediction takes several times as long on cores that other programs use, too."""
STARTED = 300
"""Seconds until a pod serves: it predicts four times, each several times as long on shared cores."""
INTERVAL = 25.0
"""Seconds between two requests: more than a prediction takes on two shared cores, so that none waits for another."""


@pytest.mark.timeout(1500)
def test_a_model_that_takes_twelve_seconds_is_updated_without_an_error(
    model: Model, traffic: StartTraffic, trained: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    width = trained[1][0]["inputs"][0]["shape"][1]
    rounds = rounds_for(SECONDS, width)
    for version, offset in {"v1": 0.0, "v2": 1.0}.items():
        file = tmp_path / version / "model.onnx"
        file.parent.mkdir()
        file.write_bytes(slow_model(rounds, width, offset))
        onnx.checker.check_model(str(file))
        model("create", "configmap", f"slow-{version}", f"--from-file={file}")
    # Too few requests for proof: the step ends by time. A rehearsal would repeat two of them in its two minutes.
    rollout: dict[str, Any] = {"steps": [{"weight": 50}], "bakeSeconds": 5, "maxSeconds": 40}
    rollout |= {"onNoEvidence": "Promote", "rehearsal": {"requests": 0}}

    def apply(version: str) -> None:
        spec = {"model": {"uri": f"configmap://slow-{version}", "version": version}, "rollout": rollout}
        spec["traffic"] = {"timeoutSeconds": LIMIT}
        body = {"apiVersion": "mlmodel.dev/v1alpha1", "kind": "MLModel", "metadata": {"name": NAME}, "spec": spec}
        model("apply", "-f", "-", input=json.dumps(body))

    apply("v1")
    model.wait_ready(STARTED, "v1")
    with traffic(rate=1 / INTERVAL, timeout=LIMIT + 10) as clients:
        clients.wait(lambda seen: seen.ok >= 1, 150, "an answer of v1")
        apply("v2")
        model.wait_ready(STARTED + 150, "v2")
        target = clients.now.versions.get("v2", 0) + 1
        clients.wait(lambda seen: seen.versions.get("v2", 0) >= target, 150, "an answer of v2")
        seen = clients.stop()
    print(f"{seen.sent} requests of {seen.p50_ms / 1000:.1f} s (p50): {seen.failed} failed, {seen.versions}")
    assert seen.failed == 0, seen.errors
    assert seen.p50_ms > 8000, "the model is slow"
