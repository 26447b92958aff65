"""Labels on a whole cluster: a version that is right less often is rolled back, and only the pods make ids."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hack import installed_operator
from hack.cluster import Cluster
from hack.quickstart import NAME, Model, condition
from mlmodel_server.observe.cells import Identity
from mlmodel_server.observe.ids import PredictionIds, key_of

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
    model.wait_ready(180, "v1")
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


def secret(model: Model, name: str) -> str:
    """Create a Secret as docs/how-to/feedback.md does, and return its key."""
    key = name * 4
    model("create", "secret", "generic", name, f"--from-literal=key={key}")
    return key


@pytest.mark.attack(held=True)
def test_with_a_feedback_key_only_the_pods_make_ids_until_another_secret_is_named(
    cluster: Cluster, model: Model, trained: tuple[Path, list[Any]]
) -> None:
    def post(path: str, body: Any) -> tuple[str, Any]:
        """Return the id of the prediction in the response, and its JSON."""
        url = f"{model.url.removesuffix('/infer')}/{path}"
        sent = ["-d", json.dumps(body), "-H", "content-type: application/json", url]
        head, _, content = cluster.run(["curl", "-s", "-i", "-m", "10", *sent]).replace("\r", "").partition("\n\n")
        found = re.search("^x-mlmodel-prediction-id: (.*)$", head, re.MULTILINE)
        return found[1] if found else "", json.loads(content)

    def feedback(prediction_id: str) -> Any:
        return post("feedback", {"prediction_id": prediction_id, "label": "benign"})[1]

    def forged(key: str) -> str:
        """Return the id of a prediction that never was, as anyone can make it who knows the key."""
        identity = Identity(NAME, "v1", model.status()["stable"]["revision"])
        ids = PredictionIds(key_of(NAME, key.encode()), identity, "classification", ["benign", "malignant"])
        return ids.make(np.array(["benign"], object)) or ""

    def is_rejected(answer: Any) -> bool:
        return "is not of model tumour with its present feedback key" in answer.get("error", "")

    rollout = {"steps": [{"weight": 50}], "bakeSeconds": 3, "onNoEvidence": "Promote", "maxSeconds": 2}
    first = secret(model, "tumour-feedback")
    model.apply("v1", rollout=rollout, serving={"feedbackKey": {"secretName": "tumour-feedback"}})
    model.wait_ready(180, "v1")
    own, _ = post("infer", trained[1][0])
    assert feedback(own)["scored"] == 1
    assert is_rejected(feedback(forged("")))
    assert feedback(forged(first))["scored"] == 1, "the forged id differs from a real one only by its key"

    secret(model, "tumour-feedback-2")
    model.apply("v1", rollout=rollout, serving={"feedbackKey": {"secretName": "tumour-feedback-2"}})
    model.wait_ready(180, "v1")
    assert is_rejected(feedback(own)), "made with the former key"
    renewed, _ = post("infer", trained[1][0])
    assert feedback(renewed)["scored"] == 1
    assert is_rejected(feedback(forged(first)))
