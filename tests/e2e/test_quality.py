"""The gate on labels on a whole cluster: a version whose predictions are right less often is rolled back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hack import installed_operator
from hack.cluster import Cluster
from hack.quickstart import Model, condition

pytestmark = pytest.mark.cluster

CLIENTS = """
import http.client, json, random, sys, threading, time
host, path, share = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
bodies = json.loads(sys.argv[4])
labels = ("benign", "malignant")

def client(seed):
    rng, connection = random.Random(seed), None
    while True:
        try:
            connection = connection or http.client.HTTPConnection(host, timeout=10)
            connection.request("POST", path + "/infer", json.dumps(rng.choice(bodies)))
            answer = connection.getresponse()
            content = json.loads(answer.read())
            if answer.status == 200:
                predicted = content["outputs"][0]["data"][0]
                version, prediction = answer.headers["x-mlmodel-version"], answer.headers["x-mlmodel-prediction-id"]
                right = rng.random() < share[version]
                label = predicted if right else labels[predicted == labels[0]]
                body = json.dumps({"prediction_id": prediction, "label": label})
                connection.request("POST", path + "/feedback", body, {"content-type": "application/json"})
                connection.getresponse().read()
        except (OSError, http.client.HTTPException, ValueError):
            connection = None
        time.sleep(0.08)

for seed in range(6):
    threading.Thread(target=client, args=(seed,), daemon=True).start()
time.sleep(600)
"""
"""Clients that know the label of each prediction at once: what was predicted, as often as a version is to be right."""


def start_clients(model: Model, bodies: list[Any], share: dict[str, float]) -> None:
    """Send some 50 predictions per second, and the label of each."""
    host, path = model.url.removeprefix("http://").split("/", 1)
    arguments = [host, f"/{path.removesuffix('/infer')}", json.dumps(share), json.dumps(bodies)]
    image = installed_operator.image("server")
    model(
        "run", "clients", f"--image={image}", "--image-pull-policy=IfNotPresent", "--restart=Never", "--command",
        "--", "python", "-c", CLIENTS, *arguments,
    )  # fmt: skip


def test_a_version_that_is_right_less_often_is_rolled_back(
    cluster: Cluster, model: Model, trained: tuple[Path, list[Any]]
) -> None:
    rollout = {"steps": [{"weight": 50, "minSeconds": 600}], "gates": {"quality": {}}, "bakeSeconds": 3}
    model.apply("v1", rollout=rollout)
    model.wait_ready(90, "v1")
    start_clients(model, trained[1][:20], {"v1": 0.9, "v2": 0.8})
    model.apply("v2", rollout=rollout)
    status = model.wait("v2 is rolled back", 300, lambda status: condition(status, "RolledBack") == "True")
    entry = status["rejected"][0]
    print(entry["message"])
    assert (entry["reason"], entry["weight"]) == ("LowerQuality", 50)
    found = re.match(
        r"([0-9.]+) % of its ([0-9]+) predictions with a label were right, and ([0-9.]+) %", entry["message"]
    )
    assert found is not None, entry["message"]
    assert 65 < float(found[1]) < float(found[3]) < 98
    assert int(found[2]) >= 200
    for pod in json.loads(model("get", "pods", "-l", "mlmodel.dev/component=server", "-o", "json"))["items"]:
        page = cluster.run(["curl", "-s", f"http://{pod['status']['podIP']}:8090/labels/0"])
        assert set(json.loads(page)) == {"boot", "revision", "tag", "other", "kind", "weights"}
        assert "benign" not in page
