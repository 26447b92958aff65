"""A model that takes twelve seconds for a prediction, updated under traffic."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import TensorProto, helper

from hack.quickstart import NAME, Model
from hack.traffic import Traffic

pytestmark = pytest.mark.cluster

StartTraffic = Callable[..., AbstractContextManager[Traffic]]
SECONDS = 12.0
LIMIT = 180
"""``traffic.timeoutSeconds``: a prediction takes several times as long on cores that other programs use, too."""
INTERVAL = 25.0
"""Seconds between two requests: more than a prediction takes on two shared cores, so that none waits for another."""
SIZE = 256


def model_of(rounds: int, width: int, offset: float) -> bytes:
    """Return an ONNX model that multiplies matrices ``rounds`` times and then adds ``offset`` to the mean of a row."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "matrix"], ["product"]),
            helper.make_node("Identity", ["going"], ["goes_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [SIZE, SIZE]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("product", TensorProto.FLOAT, [SIZE, SIZE]),
        ],
    )
    eye = np.eye(SIZE, dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Loop", ["rounds", "", "matrix"], ["end"], body=body),
            helper.make_node("ReduceMin", ["end"], ["zero"], keepdims=0),  # 0: the smallest number of the unit matrix
            helper.make_node("Cast", ["zero"], ["nothing"], to=TensorProto.DOUBLE),
            helper.make_node("ReduceMean", ["input-0"], ["mean"], axes=[1], keepdims=1),
            helper.make_node("Add", ["mean", "offset"], ["shifted"]),
            helper.make_node("Add", ["shifted", "nothing"], ["prediction"]),
        ],
        "slow",
        [helper.make_tensor_value_info("input-0", TensorProto.DOUBLE, ["rows", width])],
        [helper.make_tensor_value_info("prediction", TensorProto.DOUBLE, ["rows", 1])],
        [
            helper.make_tensor("rounds", TensorProto.INT64, [], [rounds]),
            helper.make_tensor("matrix", TensorProto.FLOAT, [SIZE, SIZE], eye.flatten()),
            helper.make_tensor("offset", TensorProto.DOUBLE, [], [offset]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def rounds_for(seconds: float, width: int) -> int:
    """Return the rounds that take ``seconds`` on one thread of this machine."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    probe = 500
    session = onnxruntime.InferenceSession(model_of(probe, width, 0.0), options, providers=["CPUExecutionProvider"])
    started = time.process_time()  # other processes may use the core, too
    session.run(None, {"input-0": np.zeros((1, width))})
    return int(probe * seconds / (time.process_time() - started))


@pytest.mark.timeout(500)
def test_a_model_that_takes_twelve_seconds_is_updated_without_an_error(
    model: Model, traffic: StartTraffic, trained: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    width = trained[1][0]["inputs"][0]["shape"][1]
    rounds = rounds_for(SECONDS, width)
    for version, offset in {"v1": 0.0, "v2": 1.0}.items():
        file = tmp_path / version / "model.onnx"
        file.parent.mkdir()
        file.write_bytes(model_of(rounds, width, offset))
        onnx.checker.check_model(str(file))
        model("create", "configmap", f"slow-{version}", f"--from-file={file}")
    # Too few requests for proof: the step ends by time.
    rollout = {"steps": [{"weight": 50}], "bakeSeconds": 5, "maxSeconds": 60, "onNoEvidence": "Promote"}

    def apply(version: str) -> None:
        spec = {"model": {"uri": f"configmap://slow-{version}", "version": version}, "rollout": rollout}
        spec["traffic"] = {"timeoutSeconds": LIMIT}
        body = {"apiVersion": "mlmodel.dev/v1alpha1", "kind": "MLModel", "metadata": {"name": NAME}, "spec": spec}
        model("apply", "-f", "-", input=json.dumps(body))

    apply("v1")
    model.wait_ready(120, "v1")
    with traffic(rate=1 / INTERVAL, timeout=LIMIT + 10) as clients:
        clients.wait(lambda seen: seen.ok >= 2, 150, "answers of v1")
        apply("v2")
        model.wait_ready(300, "v2")
        target = clients.now.versions.get("v2", 0) + 1
        clients.wait(lambda seen: seen.versions.get("v2", 0) >= target, 150, "an answer of v2")
        seen = clients.stop()
    print(f"{seen.sent} requests of {seen.p50_ms / 1000:.1f} s (p50): {seen.failed} failed, {seen.versions}")
    assert seen.failed == 0, seen.errors
    assert seen.p50_ms > 8000, "the model is slow"
