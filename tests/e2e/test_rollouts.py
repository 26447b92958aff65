"""Rollouts on a whole cluster under traffic: the responses that clients get, and the time until a decision."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hack.cluster import Cluster
from hack.quickstart import NAME, Model, condition, message
from hack.traffic import Traffic, wait_for
from mlmodel_server import package

pytestmark = pytest.mark.cluster

StartTraffic = Callable[..., AbstractContextManager[Traffic]]
SEED = 20260103

LIMIT = 60
"""Seconds until a version is rejected or rolled back. It takes less than 30, but two clusters share two cores here."""
QUICK = {"steps": [{"weight": 50}], "bakeSeconds": 3, "gates": {"errors": {"maxPercent": 5}}}
"""A fast rollout for tests of other properties: one step, certified with about 140 requests."""
UNREHEARSED = {"rehearsal": {"requests": 0}}
"""A rollout in which users meet the candidate first: live requests decide."""


def test_a_better_version_is_promoted_and_no_request_fails(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1")
    model.wait_ready(180, "v1")
    with traffic(rate=50) as clients:
        model.apply("v2", rollout={"bakeSeconds": 10})
        weights: set[int] = set()

        def promoted(status: dict[str, object]) -> bool:
            candidate = status.get("candidate")
            if isinstance(candidate, dict):
                weights.add(int(candidate.get("weight", 0)))
            return condition(status, "Ready") == "True"

        status = model.wait("v2 is promoted", 300, promoted)
        clients.wait(lambda seen: seen.versions.get("v2", 0) > 1000, 60, "v2 answers")
        seen = clients.stop()
    print(f"{seen.sent} requests, {seen.failed} failed, slowest {seen.slowest_ms} ms, by version {seen.versions}")
    assert seen.failed == 0, seen.errors
    assert seen.sent == seen.ok
    assert weights >= {5, 25, 50, 100}
    assert status["stable"]["version"] == "v2"
    assert status["history"][0]["outcome"] == "Promoted"
    figures = status["history"][0]["figures"]
    number = r"[\d.e-]+"
    cost = f"v2 {number} ms \\({number} J\\), v1 {number} ms \\({number} J\\), ({number}) times as much for v2"
    found = re.match(rf"CPU per prediction: {cost} .*Container restarts: v2 0, v1 0", figures)
    assert found is not None, figures
    assert 0.1 < float(found[1]) < 10.0, "both are small classifiers of the same kind"
    reasons = [
        event["reason"]
        for event in json.loads(model("get", "events.events.k8s.io", "-o", "json"))["items"]
        if event["regarding"]["kind"] == "MLModel"
    ]
    assert sorted(reasons) == sorted(
        [
            "Preparing",
            "Serving",
            "Preparing",
            "Validating",
            "CanaryStep",
            "CanaryStep",
            "CanaryStep",
            "Promoting",
            "Baking",
            "Promoted",
        ]
    )


def test_a_version_that_fails_all_requests_is_rolled_back_and_no_client_sees_an_error(
    model: Model, traffic: StartTraffic
) -> None:
    model.apply("v2")
    model.wait_ready(180, "v2")
    with traffic(rate=10) as clients:
        model.apply("v3-all", rollout={"steps": [{"weight": 5}], **UNREHEARSED})
        first_failure: list[float] = []

        def rolled_back(status: dict[str, object]) -> bool:
            if clients.now.fallbacks and not first_failure:
                first_failure.append(time.monotonic())
            return condition(status, "RolledBack") == "True"

        model.wait("v3 is rolled back", 120, rolled_back, every=0.1)
        took = time.monotonic() - first_failure[0] if first_failure else 0.0
        status = model.wait_rejected(60)
        fallbacks = clients.now.fallbacks
        clients.wait_for_requests(50)
        seen = clients.stop()
    evidence = status["rejected"][0]["message"]
    print(f"{seen.fallbacks} retried on stable, {seen.failed} failed of {seen.sent}, {took:.1f} s: {evidence}")
    assert seen.failed == 0, seen.errors
    assert seen.fallbacks <= 10
    assert seen.fallbacks == fallbacks, "no request was sent to the candidate after the rollback"
    assert took <= LIMIT
    assert set(seen.versions) == {"v2"}
    assert status["rejected"][0]["reason"] == "ErrorRate"
    assert condition(status, "Available") == "True"
    assert condition(status, "Stalled") == "True"


def test_a_version_that_rejects_requests_which_stable_accepts_is_rolled_back_and_no_client_sees_an_error(
    model: Model, traffic: StartTraffic, tmp_path: Path
) -> None:
    """It was trained on a third of the columns, so it rejects every request with 400."""
    X, y = load_breast_cancer(as_frame=True, return_X_y=True)
    X = X.iloc[:, :10]
    narrow = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    package.save(narrow, X, y, tmp_path / "narrow", version="narrow")
    model("apply", "-f", "-", input=package.config_map(tmp_path / "narrow", "narrow"))
    model.apply("v2")
    model.wait_ready(180, "v2")
    with traffic(rate=20) as clients:
        change = {"spec": {"model": {"uri": "configmap://narrow", "version": "narrow"}, "rollout": UNREHEARSED}}
        model("patch", "mlm", NAME, "--type=merge", "-p", json.dumps(change))
        status = model.wait_rejected(120)
        fallbacks = clients.now.fallbacks
        clients.wait_for_requests(20)
        seen = clients.stop()
    print(
        f"{seen.fallbacks} retried on stable, {seen.failed} failed of {seen.sent}: {status['rejected'][0]['message']}"
    )
    assert seen.failed == 0, seen.errors
    assert 0 < seen.fallbacks <= 10
    assert seen.fallbacks == fallbacks, "no request was sent to the candidate after the rollback"
    assert set(seen.versions) == {"v2"}
    assert status["rejected"][0]["reason"] == "ErrorRate"


def test_some_errors_are_enough_for_a_rollback(model: Model, traffic: StartTraffic) -> None:
    model.apply("v2")
    model.wait_ready(180, "v2")
    with traffic(rate=50) as clients:
        model.apply("v3", rollout=UNREHEARSED)
        status = model.wait_rejected(120)
        seen = clients.stop()
    print(f"{seen.fallbacks} retried on stable, {seen.failed} failed of {seen.sent}: {message(status)}")
    assert seen.failed == 0, seen.errors
    assert seen.fallbacks > 0


def test_a_model_that_cannot_load_is_rejected_without_a_request(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1")
    model.wait_ready(180, "v1")
    with traffic(rate=20) as clients:
        started = time.monotonic()
        model.apply("v4")
        status = model.wait("v4 is rejected", 120, lambda status: condition(status, "RolledBack") == "True")
        took = time.monotonic() - started
        seen = clients.stop()
    print(f"rejected after {took:.1f} s: {message(status)}")
    assert took <= LIMIT
    assert status["rejected"][0]["reason"] == "ModelRejected"
    assert "clipped" in message(status)
    assert "v4" not in seen.versions
    assert seen.fallbacks == 0
    assert seen.failed == 0


def test_an_image_that_cannot_be_pulled_is_rejected_without_a_request(
    model: Model, traffic: StartTraffic, operator_settings: Callable[..., AbstractContextManager[None]]
) -> None:
    model.apply("v1")
    model.wait_ready(180, "v1")
    with operator_settings(SERVER_IMAGE="localhost/no-such-image:1"):
        before = model.pods()
        with traffic(rate=20) as clients:
            started = time.monotonic()
            model.apply("v2")
            status = model.wait("v2 is rejected", 120, lambda status: condition(status, "RolledBack") == "True")
            took = time.monotonic() - started
            seen = clients.stop()
    print(f"rejected after {took:.1f} s: {message(status)}")
    assert took <= LIMIT
    assert status["rejected"][0]["reason"] == "ImageFailed"
    assert set(seen.versions) == {"v1"}
    assert seen.failed == 0
    assert before.items() <= model.pods().items(), "another server image does not restart the pods of stable"


def test_the_weight_is_exact_for_each_of_two_clients_that_take_turns(model: Model, traffic: StartTraffic) -> None:
    hold = {"steps": [{"weight": 10, "minSeconds": 3600}]}
    model.apply("v1")
    model.wait_ready(180, "v1")
    model.apply("v2", rollout=hold)
    model.wait_weight(10)
    took = wait_for("the routers confirm the routes", 60, lambda: model.status().get("routes", "") == _routes_id(model))
    with traffic(rate=200, clients=2, limit=2000) as clients:
        clients.wait(lambda seen: seen.ok + seen.failed >= 2000, 60, "2000 responses")
        seen = clients.stop()
    total = 100 * seen.versions["v2"] / 2000
    each = {client: 100 * counts["v2"] / sum(counts.values()) for client, counts in seen.clients.items()}
    print(f"together {total:.2f} %, each {each}; routed after {took:.1f} s")
    assert seen.failed == 0
    assert abs(total - 10) <= 0.5
    assert all(abs(percent - 10) <= 2 for percent in each.values())
    model.wait(
        "the status has the observed percentage and all requests",
        30,
        lambda status: (
            abs((status["candidate"].get("observedPercent") or 0) - 10) <= 0.5
            and status["candidate"]["evidence"]["candidate"]["requests"] == seen.versions["v2"]
        ),
    )


def test_a_reverted_spec_is_ready_at_once_and_restarts_no_pod(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1")
    model.wait_ready(180, "v1")
    pods = model.pods()
    with traffic(rate=50) as clients:
        model.apply("v2", rollout={"steps": [{"weight": 50, "minSeconds": 3600}]})
        model.wait_weight(50)
        clients.wait(lambda seen: seen.versions.get("v2", 0) > 50, 30, "v2 answers")
        started = time.monotonic()
        model.apply("v1")
        model.wait_ready(20, "v1")
        took = time.monotonic() - started
        model.wait("v2 has drained", 40, lambda status: status["phase"] == "Stable")
        seen = clients.stop()
    print(f"ready {took:.2f} s after the start of kubectl apply; {seen.failed} of {seen.sent} failed")
    assert took <= 10, "nothing starts or drains before"
    assert seen.failed == 0, seen.errors
    assert model.pods() == pods
    assert model.status()["history"][0]["outcome"] == "Reverted"


def test_a_third_version_supersedes_the_candidate_during_a_rollout(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1")
    model.wait_ready(180, "v1")
    with traffic(rate=50) as clients:
        model.apply("v3", rollout={"steps": [{"weight": 1, "minSeconds": 3600}], **UNREHEARSED})
        model.wait_weight(1)
        model.apply("v2", rollout=QUICK)
        status = model.wait_ready(180, "v2")
        seen = clients.stop()
    assert seen.failed == 0, seen.errors
    assert [entry["outcome"] for entry in status["history"]][:2] == ["Promoted", "Superseded"]


def test_a_paused_rollout_keeps_its_weight_and_resumes_afterwards(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1")
    model.wait_ready(180, "v1")
    with traffic(rate=50) as clients:
        model.apply("v2", rollout={**QUICK, "paused": True})
        status = model.wait("the message reports the pause", 60, lambda status: "paused" in message(status))
        assert status["phase"] == "Preparing"
        assert condition(status, "Paused") == "True"
        model.apply("v2", rollout=QUICK)
        model.wait_ready(180, "v2")
        seen = clients.stop()
    assert seen.failed == 0, seen.errors


def test_the_field_retry_rolls_out_a_rejected_version_again(
    model: Model, operator_settings: Callable[..., AbstractContextManager[None]], traffic: StartTraffic
) -> None:
    model.apply("v1")
    model.wait_ready(180, "v1")
    with operator_settings(SERVER_IMAGE="localhost/no-such-image:1"):
        model.apply("v2", rollout=QUICK)
        model.wait_rejected(60)
    with traffic(rate=50) as clients:
        model.apply("v2", rollout={**QUICK, "retry": "the image is there now"})
        model.wait_ready(180, "v2")
        assert clients.stop().failed == 0
    assert not model.status().get("rejected")


def test_killed_pods_scaling_and_restarted_routers_lose_no_request(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1", serving={"replicas": 3})
    model.wait("3 pods are ready", 90, lambda status: status.get("replicas") == "3/3")
    assert json.loads(model("get", "pdb", "-o", "json"))["items"]
    with traffic(rate=50) as clients:
        for _ in range(3):
            victim = random.Random(SEED).choice(sorted(model.pods()))
            model("delete", "pod", victim, "--grace-period=0", "--force")
            model.wait("3 pods are ready again", 60, lambda status: status.get("replicas") == "3/3")
            wait_for("the killed pod is deleted and 3 are left", 90, lambda: len(model.pods()) == 3)
        model.apply("v1", serving={"replicas": 1})
        model.wait("1 pod is left", 60, lambda status: status.get("replicas") == "1/1")
        wait_for("the other pods are deleted", 90, lambda: len(model.pods()) == 1)
        model("rollout", "restart", "deploy/tumour-router")
        model("rollout", "status", "deploy/tumour-router", "--timeout=90s")
        clients.wait_for_requests(100)
        seen = clients.stop()
    print(f"seed {SEED}: {seen.failed} of {seen.sent} failed, slowest {seen.slowest_ms} ms: {seen.errors}")
    assert seen.failed == 0, seen.errors


def test_an_operator_that_is_killed_at_ten_random_moments_reaches_the_same_outcome(
    cluster: Cluster, model: Model, traffic: StartTraffic, kill_operator: Callable[[], None]
) -> None:
    rng = random.Random(SEED)
    model.apply("v1")
    model.wait_ready(180, "v1")
    kills = 0
    with traffic(rate=100) as clients:
        model.apply("v2", rollout={**QUICK, "steps": [{"weight": 5}, {"weight": 25}, {"weight": 50}]})
        end = time.monotonic() + 300
        while kills < 10:
            assert time.monotonic() < end
            clients.wait_for_requests(rng.randint(20, 400))
            kill_operator()
            kills += 1
        status = model.wait_ready(300, "v2")
        seen = clients.stop()
    outcomes = [entry["outcome"] for entry in status.get("history", [])]
    print(f"seed {SEED}: {kills} kills, {seen.failed} of {seen.sent} failed, {outcomes}")
    assert seen.failed == 0, seen.errors
    assert outcomes == ["Promoted"]
    model.wait("the phase is Stable", 60, lambda status: status["phase"] == "Stable")
    wait_for("one pod is left", 60, lambda: len(model.pods()) == 1)


def test_deleting_the_model_during_a_rollout_leaves_no_object(model: Model, traffic: StartTraffic) -> None:
    model.apply("v1")
    model.wait_ready(180, "v1")
    model.apply("v2", rollout={"steps": [{"weight": 50, "minSeconds": 3600}]})
    model.wait_weight(50)
    model("delete", "mlm", "tumour")

    def gone() -> bool:
        kinds = "deployments,services,configmaps,controllerrevisions,hpa,pdb,pods"
        return not model("get", kinds, "-l", "app.kubernetes.io/part-of=mlmodel", "-o", "name").strip()

    wait_for("all children are deleted", 90, gone)


def _routes_id(model: Model) -> str:
    text = json.loads(model("get", "configmap", "tumour-routes", "-o", "json"))["data"]["routes"]
    return str(text.split("\n")[0].removeprefix("id "))
